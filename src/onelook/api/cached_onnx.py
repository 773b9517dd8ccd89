"""The ONNX file that a CPU runs in place of weights: exported and verified once, then cached.

`runtime_choice` says when. The file lies beside the weights, or in the user's cache folder where nothing can be written
there. It holds the key of what it was made of (digest of the weights, versions, input size) and a digest of its own
bytes; where one of them does not fit, it is made again. `main` makes one, in a process of its own that can be stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from onelook import run_files
from onelook.api.open import LoadOptions, PathLike, open_network
from onelook.data.cache import user_cache
from onelook.errors import ExportError, UserError
from onelook.files import write_bytes, write_text
from onelook.version import __version__

_RECORD = b"onelook.cached"  # the key of the last metadata entry of a cached file
_MAKE = """import sys
sys.path[:] = sys.argv[1:-2]
from onelook.api.cached_onnx import main
sys.exit(main(*sys.argv[-2:]))"""  # with this process's modules: Python adds the current folder, whose files may differ


@dataclass(frozen=True)
class CachedOnnx:
    """The cached ONNX file of a model. key: of what it is made of.  places: where it may lie, the preferred one first.

    arguments: model, weights and size, as `open_network` takes them.
    """

    key: str
    places: tuple[Path, ...]
    arguments: dict[str, Any]

    def find(self) -> Path | None:
        """The file that fits and is whole, or None."""
        return next((place for place in self.places if is_whole(place, self.key)), None)

    def failure(self) -> FailedExport | None:
        """Why an earlier export of the same gave no file; None where there was none."""
        for place in self.places:
            with suppress(OSError, ValueError, TypeError):
                found = FailedExport(**json.loads(_failure_of(place).read_text(encoding="utf-8")))
                if found.key == self.key:
                    return found
        return None

    def make(self, seconds: float) -> Path:
        """Exports and verifies within a time, and returns the file. ExportError where that fails or takes longer."""
        with tempfile.TemporaryDirectory(prefix="onelook-") as folder:
            draft = Path(folder) / "model.onnx"
            command = [sys.executable, "-c", _MAKE, *sys.path, json.dumps(self.arguments), str(draft)]
            started = time.monotonic()
            try:
                ended = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds
                )
            except subprocess.TimeoutExpired:
                raise self._failed(f"the export took longer than {seconds:.0f} s", seconds) from None
            if ended.returncode or not draft.is_file():
                said = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
                # A process that was ended from outside says nothing about the model.
                lasting = ended.returncode == 1
                raise self._failed(said, None if lasting else time.monotonic() - started)
            content = draft.read_bytes()
        record = _record(self.key, content)
        made = self._keep(lambda place: write_bytes(place, content + record))
        for place in self.places:
            with suppress(OSError):
                _failure_of(place).unlink()
        return made

    def _failed(self, reason: str, seconds: float | None) -> ExportError:
        text = json.dumps(asdict(FailedExport(self.key, reason, seconds)))
        with suppress(OSError):
            self._keep(lambda place: write_text(_failure_of(place), text))
        return ExportError(f"No ONNX file was made: {reason}", "Use --runtime torch.")

    def _keep(self, write: Callable[[Path], None]) -> Path:
        """Writes to the first place where that is possible; OSError where it is nowhere."""
        problem: OSError | None = None
        for place in self.places:
            try:
                write(place)
                return place
            except OSError as error:
                problem = error
        raise problem or OSError("There is no place for it.")


@dataclass(frozen=True)
class FailedExport:
    """Why no file was made. seconds: how long the export was given; None where more time would not help."""

    key: str
    reason: str
    seconds: float | None = None


def cached_onnx(model: PathLike, options: LoadOptions) -> CachedOnnx | None:
    """The cached file of a model that is given by files; None where there are none, or PyTorch is not installed."""
    files = _files_of(model, options.weights)
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    if not files:
        return None
    size = (options.size, options.size) if isinstance(options.size, int) else options.size
    name = None if Path(model).exists() else os.fspath(model)
    given = {"files": [_digest(file) for file in files], "model": name, "size": size}
    given |= {"onelook": __version__, "torch": version}
    key = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    weights = Path(os.path.abspath(files[-1]))
    sides = "" if size is None else f"-{size[0]}x{size[1]}"
    places = [weights.with_name(f"{weights.name}.cpu{sides}.onnx")]
    with suppress(RuntimeError):  # no home folder
        places.append(user_cache() / "onnx" / f"{weights.name[:60]}-{key[:16]}.onnx")
    taken = os.path.abspath(model) if name is None else name
    beside = None if options.weights is None else os.path.abspath(options.weights)
    return CachedOnnx(key, tuple(places), {"model": taken, "weights": beside, "size": size})


def is_whole(path: Path, key: str) -> bool:
    """Whether a cached file was made for this key, and its bytes are those that were written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    length = len(_record(key, b""))
    return content[-length:] == _record(key, content[:-length])


def _record(key: str, content: bytes) -> bytes:
    """The end of a cached file: its key and the digest of what is before, as an entry of an ONNX model's metadata.

    Protocol buffers that are joined are one message, so that the entry (field 14 of ModelProto, with the fields 1 and
    2 of StringStringEntryProto) needs no ONNX library.
    """
    value = f"{key} {hashlib.sha256(content).hexdigest()}".encode()
    return _field(14, _field(1, _RECORD) + _field(2, value))


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer, of bytes: tag, length, content."""
    length, left = bytearray(), len(content)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([number << 3 | 2, *length, left]) + content


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _files_of(model: PathLike, weights: PathLike | None) -> list[Path]:
    """The files that a model is made of, its weights last; none where one is missing."""
    own = [_file_of(model)] if os.path.exists(model) else []
    files = own if weights is None else [*own, _file_of(weights)]
    return files if all(file.is_file() for file in files) else []


def _file_of(path: PathLike) -> Path:
    """The best weights of a run's folder, or the file itself."""
    return Path(path, run_files.BEST_WEIGHTS) if os.path.isdir(path) else Path(path)


def _failure_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.failed.json")


def main(arguments: str, path: str) -> int:
    """Exports a model to a file and returns the exit code. arguments: of `open_network`, and the size, as JSON."""
    from onelook.exporting.onnx import export_onnx

    given = json.loads(arguments)
    try:
        opened = open_network(given["model"], given["weights"])
        size = opened.size if given["size"] is None else tuple(given["size"])
        export_onnx(opened.detector, path, dynamic=True, size=size)
    except UserError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0
