"""The runtime of an exported file: what all formats share. Needs no PyTorch.

A format's own file adds how its library is opened (`_open`) and how a network is run (`run`).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.config import from_plain
from onelook.errors import ConfigError, ExportError, UsageError, UserError, reason_of
from onelook.exported import LARGEST_DOCUMENT, ExportedMetadata, description_beside
from onelook.ops.nms import Nms, Postprocess, RawDetections, TopK, clips
from onelook.predict.runtime import default_postprocess

CHECKSUM = "sha256"  # in the description beside a file, where its library does not check what it reads
_NO_NMS = "Export the model without NMS to choose this freely."


class ForeignFileError(ExportError):
    """A file that Onelook did not export. An ONNX file may hold weights."""


class ExportedRuntime(ABC):
    """A file of `onelook export`. The file describes itself: size, class names, NMS.

    device: as the format's library names it; None is its default, the CPU except for TensorRT.  threads: of one run on
    a CPU; None is the library's choice.  half: compute in float16, where the library chooses the precision itself
    (`chooses_precision`). A file with NMS inside takes confidence and IoU from `postprocess`; its other settings are
    the file's, and a `postprocess` that contradicts them is a ConfigError. A fixed batch size is filled up or cut into
    several runs.

    Raises ExportError for damaged files, ForeignFileError for files that Onelook did not export,
    MissingDependencyError without the format's library.
    """

    chooses_precision: ClassVar[bool] = False
    holds_weights: ClassVar[bool] = False
    """Whether a file of another origin may be read as weights."""
    evaluates_text: ClassVar[bool] = False
    """Whether loading a file evaluates text of it: only for files that the user trusts."""

    library: str
    """The library with its version."""

    device_name: str
    """Where it runs, in the words of the library; "cpu" for the processor."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        *,
        threads: int | None = None,
        half: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        if half and not self.chooses_precision:
            raise UsageError(
                f"'{self.path}' is an exported file, whose precision is built in.", "Export it with half instead."
            )
        for file in self.files():
            check_file(file)
        self.metadata = metadata = self._open(None if device is None else str(device), threads, half)
        self.precision = "float16" if half else metadata.precision
        self.size = (metadata.size[0], metadata.size[1])
        self.frame: Resize = _frame(metadata, self.path)
        self.class_names = metadata.names
        self.num_classes = metadata.num_classes
        default = default_postprocess(one_to_one=metadata.one_to_one, multi_label=metadata.multi_label)
        self.postprocess: Postprocess = _nms(metadata.detecting, self.path) or default
        self.evaluating: Postprocess = _nms(metadata.evaluating, self.path) or default
        if metadata.nms is not None and not metadata.one_to_one:
            inside = {name: metadata.nms[name] for name in ("confidence", "iou", "agnostic", "multi_label")}
            self.postprocess = Nms(**inside)
            self.evaluating = Nms(**inside, clip=clips(self.evaluating))
        try:
            problem = self._contradiction()
        except UnicodeDecodeError:
            problem = "a name inside is not UTF-8 text"
        if problem:
            raise ExportError(f"'{self.path}' does not fit its own description: {problem}.", "Export the model again.")

    @abstractmethod
    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        """Opens the network with the library, and returns the file's description."""

    @abstractmethod
    def _contradiction(self) -> str:
        """Where the network does not match `metadata`, so that boxes would be wrong; "" where it does."""

    @abstractmethod
    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names. feed: "images" (B, 3, H, W) float32 of a batch size that the file takes, and,
        for a file with NMS inside, "confidence" and "iou" as () float32, which may be missing.

        ExportError where the library fails.
        """

    def files(self) -> tuple[str, ...]:
        """All files that belong to the model, the one that users name first."""
        return (self.path,)

    concurrent: int = 1
    """Runs of the network at the same time, each of a part of a batch."""

    parts: int = 1
    """Parts of the batches that are expected."""

    def expect_batches(self, batch: int) -> None:
        """Sets the library up for the shortest time of one image, or, for batches, for the most images a second.

        batch: most images that are given together. Called before the first of them, and whenever it changes; boxes may
        then differ in their last digits.
        """
        self.parts = max(1, batch // (self.metadata.batch or 1))
        if self.parts > 1 or self.concurrent > 1:
            self.concurrent = self._expect(self.parts)

    def _expect(self, parts: int) -> int:
        """Prepares for as many runs as there are parts in a batch; returns how many run at the same time."""
        return 1

    def run_all(self, outputs: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        """The outputs of several runs, as `run` has them."""
        return [self.run(outputs, feed) for feed in feeds]

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        raw = self.metadata.outputs == "raw"
        names = ["boxes", "scores"] if raw else ["count", "boxes", "scores", "labels"]
        settings = {} if raw else self._settings(postprocess)
        found: list[RawDetections] = []
        for together in self._rounds(batch):
            outputs = self.run_all(names, [{"images": part, **settings} for part, _ in together])
            for arrays, (_, count) in zip(outputs, together):
                if raw:
                    boxes, scores = arrays
                    found += postprocess.batch(boxes[:count], scores[:count])
                else:
                    found += _detections(arrays, postprocess)[:count]
        return found

    def _rounds(self, batch: np.ndarray) -> Iterator[list[tuple[np.ndarray, int]]]:
        """The parts of a batch that are in memory at the same time: one by one, or all where several run at once."""
        if self.concurrent > 1:
            yield list(self._parts(batch))
        else:
            yield from ([part] for part in self._parts(batch))

    def _parts(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """The batch as (b, 3, H, W) float32 in pieces the file can take, and how many images of each are real."""
        step = self.metadata.batch or (1 if self.concurrent > 1 else max(len(batch), 1))
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            pixels = np.empty((self.metadata.batch or len(part), 3, *part.shape[1:3]), np.float32)
            pixels[: len(part)] = part.transpose(0, 3, 1, 2)
            pixels[len(part) :] = 0
            yield pixels, len(part)

    def _settings(self, postprocess: Postprocess) -> dict[str, np.ndarray]:
        """The thresholds for a file with NMS inside, or for a model that needs none."""
        values = {"confidence": getattr(postprocess, "confidence", 0.0)}
        if self.metadata.one_to_one:
            if not isinstance(postprocess, TopK):
                raise ConfigError(
                    f"'{self.path}' gives its best rows and cannot use {type(postprocess).__name__}.", _NO_NMS
                )
        elif isinstance(postprocess, Nms):
            _check_inside(self.path, postprocess, self.metadata.nms or {})
            values["iou"] = postprocess.iou
        else:
            raise ConfigError(f"'{self.path}' has NMS inside and cannot use {type(postprocess).__name__}.", _NO_NMS)
        return {name: np.array(value, np.float32) for name, value in values.items()}

    def _not_run(self, error: Exception) -> ExportError:
        """The error for a run that the library refused."""
        return ExportError(f"'{self.path}' cannot be run: {first_line(error)}", "Export the model again.")


def _detections(outputs: Sequence[np.ndarray], postprocess: Postprocess) -> list[RawDetections]:
    """The detections of each image from the outputs of a file with NMS inside."""
    counts, boxes, scores, labels = outputs
    found = []
    for row, count in enumerate(counts.tolist()):
        kept = slice(0, min(max(int(count), 0), getattr(postprocess, "limit", None) or boxes.shape[1]))
        found.append((boxes[row, kept], scores[row, kept], labels[row, kept]))
    return found


def wanted_outputs(metadata: ExportedMetadata) -> set[str]:
    """The names of the outputs of a file (`onelook.exported`)."""
    return {"boxes", "scores"} if metadata.outputs == "raw" else {"count", "boxes", "scores", "labels"}


def shape_problem(shape: Sequence[object], metadata: ExportedMetadata) -> str:
    """How the shape (B, 3, H, W) of the input differs from the description; "" where it does not.

    A side that is no whole number is free.
    """
    batch, *rest = shape if len(shape) == 4 else (None, *shape)
    if tuple(rest) != (3, *metadata.size):
        return f"its input has the shape {list(shape)}"
    return f"its batch size is {batch}" if isinstance(batch, int) and batch != metadata.batch else ""


def metadata_beside(path: str) -> ExportedMetadata:
    """The description of a file whose format holds none, from the file beside it; ForeignFileError where it is not."""
    beside = description_beside(path)
    if not os.path.isfile(beside):
        raise ForeignFileError(
            f"'{path}' has no description of its inputs and outputs: there is no '{beside}'.",
            "Copy the .json file that `onelook export` wrote along with the model, or export it again.",
        )
    check_file(beside)
    try:
        with open(beside, encoding="utf-8") as file:
            return ExportedMetadata.from_json(file.read(LARGEST_DOCUMENT + 1), beside)
    except UnicodeDecodeError:
        raise ExportError(f"The metadata of '{beside}' is damaged: it is not UTF-8.", "Export it again.") from None


def check_file(path: str) -> None:
    """ExportError where a file of a model cannot be read, or is empty."""
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ExportError(f"The model '{path}' {what}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise ExportError(f"The model '{path}' may not be read: permission denied.", "Change the file's permissions.")
    if not os.path.getsize(path):
        raise ExportError(f"The model '{path}' is empty (0 bytes).", "Download or export it again.")


def checksum(files: Iterable[str | os.PathLike[str]]) -> str:
    """The SHA-256 of the files, one after the other."""
    import hashlib  # which loads OpenSSL: most formats need no checksum

    whole = hashlib.sha256()
    for file in files:
        whole.update(Path(file).read_bytes())
    return whole.hexdigest()


def check_content(path: str, files: Sequence[str]) -> None:
    """ExportError where the files of a model are not those of the description beside `path`.

    For libraries that read whatever they get, even beyond the end of their memory.
    """
    named, verb = " and ".join(f"'{file}'" for file in files), "is" if len(files) == 1 else "are"
    try:
        with open(description_beside(path), encoding="utf-8") as document:
            stated = json.load(document).get(CHECKSUM)
        found = checksum(files)
    except OSError as error:
        raise ExportError(f"{named} cannot be read: {reason_of(error)}.", "Copy it, or export again.") from error
    if stated != found:
        raise ExportError(
            f"{named} {verb} not as exported: the checksum in '{description_beside(path)}' is of other files.",
            "Copy all of them again, or export again.",
        )


def check_cpu(device: str | None, runtime: str) -> None:
    """ConfigError for another device than the CPU, for runtimes that run there alone."""
    if device not in (None, "cpu"):
        raise ConfigError(f"There is no device '{device}' for {runtime} here.", "Use the device cpu.")


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def beside(path: str, suffix: str) -> str:
    """The path with another ending."""
    return str(Path(path).with_suffix(suffix))


def _check_inside(path: str, postprocess: Nms, inside: Mapping[str, Any]) -> None:
    """ConfigError where `postprocess` differs from the NMS inside the file in a setting that is built in."""
    if postprocess.kind != "iou":
        raise ConfigError(f"'{path}' has NMS inside, which is not of the kind '{postprocess.kind}'.", _NO_NMS)
    for setting in ("agnostic", "multi_label"):
        wanted = getattr(postprocess, setting)
        if wanted != inside[setting]:
            raise ConfigError(f"'{path}' has NMS inside, with {setting}={inside[setting]}, not {wanted}.", _NO_NMS)


def _frame(metadata: ExportedMetadata, path: str) -> Resize:
    frame = _described(metadata.frame, {"Letterbox": Letterbox, "Stretch": Stretch}, path)
    assert isinstance(frame, Letterbox | Stretch)  # from_plain makes nothing else of a mapping with a type
    return frame


def _nms(plain: Mapping[str, Any] | None, path: str) -> Nms | None:
    nms = None if plain is None else _described(plain, {"Nms": Nms}, path)
    assert nms is None or isinstance(nms, Nms)  # as above
    return nms


def _described(plain: Mapping[str, Any], types: Mapping[str, type], path: str) -> object:
    try:
        return from_plain(plain, types)
    except UserError as error:
        raise ExportError(f"The description inside '{path}' is damaged: {error.message}", "Export it again.") from error
