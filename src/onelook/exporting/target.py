"""What the targets of an export share: their options, their result, and how their files come into place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onelook.errors import ExportError, UsageError, reason_of
from onelook.exported import LEAST_RUNTIME, ExportedMetadata
from onelook.exporting.accuracy import Int8Report
from onelook.exporting.verify import Agreement
from onelook.files import move, replacing
from onelook.networks.detector import Detector
from onelook.ops.nms import Nms

_OTHER_FOLDER = "Give --out a file in a folder that you can write to and that has room."


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    nms: NMS inside the file; None gives boxes and scores of all rows.  half: float16 weights and features.
    dynamic: any batch size; else exactly `batch`.  size: (height, width) of the input, None is the architecture's.
    least_runtime: the oldest ONNX Runtime that is to read an ONNX file.
    """

    nms: Nms | None = None
    half: bool = False
    dynamic: bool = False
    batch: int = 1
    size: tuple[int, int] | None = None
    least_runtime: str = LEAST_RUNTIME


@dataclass(frozen=True)
class ExportedFile:
    """An exported and verified file: its path, its metadata, and its differences from PyTorch.

    least_runtime: the oldest version of ONNX Runtime that reads the file; "" where it is for another runtime.
    runs_in: the library and version that it was verified with.  beside: the other files that belong to it.  notes: what
    was not done, and how the user does it.  int8: what was measured of an 8-bit file.
    """

    path: Path
    metadata: ExportedMetadata
    agreement: Agreement
    least_runtime: str = ""
    runs_in: str = ""
    beside: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    int8: Int8Report | None = None

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(file.stat().st_size for file in (self.path, *self.beside))


@dataclass(frozen=True)
class TargetFormat:
    """A format that models are exported to.

    suffix: of the file that users name.  others: endings of the files that are written beside it, in place of
    `suffix`.  check: raises a UserError for options that the format cannot hold, before anything is loaded.
    write: writes and verifies; the files appear only after they agree with PyTorch.  default_suffix: of a file that the
    user does not name; "" is `suffix`.
    """

    name: str
    suffix: str
    others: tuple[str, ...]
    check: Callable[[ExportOptions], None]
    write: Callable[[Detector, Path, ExportOptions], ExportedFile]
    default_suffix: str = ""

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that an export to `path` writes."""
        return (path, *(path.with_suffix(suffix) for suffix in self.others))


def check_place(path: Path, suffix: str, what: str) -> None:
    """ExportError for a name with another ending, or a folder that does not exist."""
    if path.suffix != suffix:
        raise ExportError(f"'{path}' is not the name of {what}.", f"Give --out a name that ends in {suffix}.")
    if not path.parent.is_dir():
        raise ExportError(f"The folder '{path.parent}' does not exist.", "Create it, or export to another place.")


def refuse_nms(options: ExportOptions, target: str, reason: str) -> None:
    """UsageError where NMS is to be inside a file that cannot hold it."""
    if options.nms is not None:
        raise UsageError(
            f"{target} cannot have NMS inside: {reason}.",
            "Export without NMS: the commands of Onelook add it outside of the file.",
        )


@contextmanager
def replacing_or_export_error(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` when the block ends without an error."""
    if path.exists() and not path.is_file():
        raise ExportError(f"'{path}' cannot be written: it is not a regular file.", _OTHER_FOLDER)
    try:
        with replacing(path) as draft:
            yield draft
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def drafted(path: Path, others: Sequence[str]) -> Iterator[Path]:
    """A path of the same name in a temporary folder, for formats of several files.

    When the block ends without an error, the drafts with the endings `others` take their places, then that of `path`:
    the one that users open comes last.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            yield draft
            for suffix in others:
                move(draft.with_suffix(suffix), path.with_suffix(suffix))
            move(draft, path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ExportError:
    """The error for a file that the system does not let be written."""
    return ExportError(f"'{path}' cannot be written: {reason_of(error)}.", _OTHER_FOLDER)
