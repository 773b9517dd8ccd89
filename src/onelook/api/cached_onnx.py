"""On a CPU, `detect` and `val` run an ONNX file made of the weights: exported and verified once, then cached.

The file lies beside the weights, or in the user's cache folder where nothing can be written there. It holds the key of
what it was made of (digest of the weights, versions, input size) and a digest of its own bytes; where one of them does
not fit, it is made again. `main` makes one, in a process of its own that can be stopped.
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
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from onelook import run_files
from onelook.api.open import (
    LoadOptions,
    Model,
    OpenedPredictor,
    PathLike,
    names_onelook,
    open_network,
    open_predictor,
    stamps_of,
)
from onelook.data.cache import user_cache
from onelook.devices import has_no_gpu
from onelook.errors import ExportError, UsageError, UserError, install_command, missing_package
from onelook.files import write_bytes, write_text
from onelook.ops.nms import Nms
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.reporter import Reporter
from onelook.threads import check_threads, chosen_threads, threads_note
from onelook.version import __version__

RuntimeName = Literal["auto", "torch", "onnx"]
"""What runs weights on a CPU: PyTorch, ONNX Runtime, or whichever takes less time."""

LEAST_SECONDS = 60.0
"""Seconds that PyTorch would take for a run, from which on an export for it pays: it takes about 10."""

LARGEST_PART = 0.5
"""The export is stopped after this part of the time that PyTorch would take for the whole run."""

_LONGEST_EXPORT = 1800.0  # seconds, where ONNX Runtime was asked for
_RECORD = b"onelook.cached"  # the key of the last metadata entry of a cached file
_MAKE = """import sys
sys.path[:] = sys.argv[1:-2]
from onelook.api.cached_onnx import main
sys.exit(main(*sys.argv[-2:]))"""  # with this process's modules: Python adds the current folder, whose files may differ
_WORTH_MEASURING = 30  # images; fewer do not take a minute


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


def open_cached(model: Model, options: LoadOptions, runtime: RuntimeName, reporter: Reporter) -> Predictor:
    """A predictor for the model, of its cached ONNX file where there is one. runtime "onnx" makes it where not."""
    if runtime not in get_args(RuntimeName):
        raise UsageError(f"There is no runtime '{runtime}'.", f"Give one of: {', '.join(get_args(RuntimeName))}.")
    check_threads(options.threads)  # before an export
    reason = _not_for(model, options)
    if runtime == "onnx" and reason:
        raise UsageError(f"The runtime 'onnx' cannot be chosen: {reason}.", "Leave it away.")
    if runtime == "torch" or reason:
        return open_predictor(model, options)
    assert isinstance(model, str | os.PathLike)
    cached = cached_onnx(model, options)
    path = None if cached is None else cached.find()
    if path is None and runtime == "onnx":
        _check_exporter()
        open_network(model, options.weights)  # whose errors are those of the model
        if cached is None:
            raise ExportError("No ONNX file can be made of this model.", "Use --runtime torch.")
        with reporter.progress("exporting for ONNX Runtime"):
            path = _made(cached, _LONGEST_EXPORT)
    if path is None:
        if cached is not None and (stale := next((place for place in cached.places if place.is_file()), None)):
            reporter.info(f"'{stale}' is damaged, or of other weights or versions; --runtime onnx makes it anew.")
        return open_predictor(model, options)
    return _opened(path, model, options, reporter)


def exported_where_it_pays(
    predictor: Predictor, options: LoadOptions, runtime: RuntimeName, reporter: Reporter, *, images: int, batch: int
) -> Predictor:
    """The predictor, or one of a new ONNX file where PyTorch on a CPU would take `LEAST_SECONDS` for the images.

    batch: images in one run. A run with an export takes at most `LARGEST_PART` longer than PyTorch alone would.
    """
    source = predictor.source if isinstance(predictor, OpenedPredictor) else None
    model = None if source is None else source.model
    if runtime != "auto" or isinstance(predictor.runtime, OnnxRuntime) or images < _WORTH_MEASURING:
        return predictor
    if not isinstance(model, str | os.PathLike) or _not_for(model, options):
        return predictor
    expected = images * _seconds_an_image(predictor, batch)
    if expected < LEAST_SECONDS:
        return predictor
    try:
        _check_exporter()
    except UserError:
        reporter.info(f"ONNX Runtime would take less time than PyTorch here: {install_command('onnx')}")
        return predictor
    cached = cached_onnx(model, options)
    limit = expected * LARGEST_PART
    failure = None if cached is None else cached.failure()
    if cached is None or (failure and (failure.seconds is None or failure.seconds * 2 > limit)):
        return predictor
    if not any(os.access(_existing(place.parent), os.W_OK) for place in cached.places):
        return predictor
    reporter.info(f"PyTorch would take {expected:.0f} s: exporting once for ONNX Runtime, which takes less.")
    try:
        path = _made(cached, limit)
    except UserError as error:
        reporter.info(f"{error.message} PyTorch runs.")
        return predictor
    return _opened(path, model, options, reporter)


def report_threads(predictor: Predictor, threads: int | None, reporter: Reporter) -> None:
    """Says it where fewer threads than cores were chosen for a predictor on the CPU. threads: what the user gave."""
    runtime = predictor.runtime
    if isinstance(runtime, ExportedRuntime) and not hasattr(runtime, "device"):  # which is PyTorch's
        applies = runtime.device_name == "cpu"
    else:
        torch = sys.modules.get("torch")
        on_cpu = getattr(getattr(runtime, "device", None), "type", "") == "cpu"
        applies = on_cpu and torch is not None and torch.get_num_threads() == chosen_threads()
    if applies and (note := threads_note(threads)) is not None:
        reporter.info(note)


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
    path = Path(model)
    own = [path / run_files.BEST_WEIGHTS] if path.is_dir() else [path] if path.is_file() else []
    files = own if weights is None else [*own, Path(weights)]
    return files if all(file.is_file() for file in files) else []


def _not_for(model: Model, options: LoadOptions) -> str:
    """Why ONNX Runtime does not run this model in place of PyTorch; "" where it can."""
    if not isinstance(model, str | os.PathLike):
        return "the model is in memory"
    path = model if options.weights is None else options.weights
    runtime = exported_runtime(path)
    if runtime is not None and (not runtime.holds_weights or names_onelook(Path(path))):
        return "the model is an exported file"
    if options.tta or options.half:
        return "it has neither test-time augmentation nor half precision"
    if options.device != "cpu" and not (options.device is None and has_no_gpu()):
        return "it is for the device cpu"
    return ""


def _opened(path: Path, model: PathLike, options: LoadOptions, reporter: Reporter) -> Predictor:
    """The predictor of a cached file, which remembers the weights as its source; says so."""
    opened = open_predictor(path, LoadOptions(device="cpu", threads=options.threads))
    assert isinstance(opened, OpenedPredictor)
    library = getattr(opened.runtime, "library", "ONNX Runtime")
    reporter.info(f"Running '{path}' in {library}, verified against PyTorch (--runtime torch runs PyTorch itself).")
    stamps = stamps_of(model, options.weights)
    opened.source = replace(opened.source, model=model, weights=options.weights, stamps=stamps)
    return opened


def _made(cached: CachedOnnx, seconds: float) -> Path:
    """A new cached file. ExportError where it cannot be made or written."""
    try:
        return cached.make(seconds)
    except OSError as error:
        raise ExportError(f"The ONNX file cannot be written: {error}.", "Use --runtime torch.") from error


def _check_exporter() -> None:
    """MissingDependencyError where the packages of the export are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_package(package, "Running weights in ONNX Runtime", work="export")


def _seconds_an_image(predictor: Predictor, batch: int) -> float:
    """How long PyTorch takes for one image: the second run of an empty batch."""
    pixels = np.zeros((batch, *predictor.size, 3), np.uint8)
    predictor.runtime(pixels, Nms())
    started = time.perf_counter()
    predictor.runtime(pixels, Nms())
    return (time.perf_counter() - started) / batch


def _failure_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.failed.json")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((one for one in (folder, *folder.parents) if one.is_dir()), folder)


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
