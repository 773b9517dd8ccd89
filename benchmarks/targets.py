"""Every model in every format and precision of export: differences from PyTorch, AP, and latency beside a bare loop.

    python benchmarks/targets.py data/coco yolox-nano=yolox_nano.onnx yolox-s --evaluate yolox-nano --out targets.json

Differences are those of `onelook export`, on images of the data set instead of made-up ones. Latency is the median
processor time of one image at one thread, of our runtime in alternation with a bare loop of the library's own calls
(`bare_runtimes`).
A model of `--evaluate` has its AP measured through each file, and its 8-bit files judged by it (`onelook export
--int8`); 8-bit files of others are judged by nothing. What is done is in the file of `--out`, with a Markdown table
beside it: the same command goes on where another was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from itertools import cycle
from pathlib import Path
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from bare_runtimes import BARE_LOOPS
from command import run_benchmark
from onelook.api.alternation import alternate
from onelook.api.bench import NoPostprocess
from onelook.api.export_int8 import Int8Settings, open_quantization
from onelook.api.open import open_network
from onelook.api.validate import validate
from onelook.config import change
from onelook.data import Dataset, open_dataset
from onelook.devices import processor_name
from onelook.errors import MissingDependencyError, UsageError, UserError
from onelook.exporting.graph import ExportGraph
from onelook.exporting.int8 import Quantization
from onelook.exporting.target import ExportedFile, ExportOptions
from onelook.exporting.targets import INT8, TARGETS
from onelook.exporting.verify import NOT_COMPARED, compare_rows
from onelook.files import write_text
from onelook.networks.detector import Detector
from onelook.ops.nms import Postprocess
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.reporter import SilentReporter

if TYPE_CHECKING:
    from rich.console import Console

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
TIMED = 3  # runs of a turn that count, after one that does not


@dataclass(frozen=True)
class Row:
    """One file.

    weights: digest of their file, "" of a freshly initialised model.  refused: why there is no file.  library: that
    runs it.  bytes: of all its files.  confident_box, box: pixels; of rows with at least half of the best score, and of
    all.  ap: 0..1, None where it was not measured.  in_float: convolutions of an 8-bit file in float, besides the last
    ones.  within: share of its confident rows within the bounds of export.  milliseconds: of processor time an image.
    ratio: to the bare loop.  of_float: the 8-bit file's time to the float file's.
    """

    model: str
    weights: str
    target: str
    precision: Precision
    refused: str = ""
    library: str = ""
    bytes: int = 0
    confident_box: float = 0.0
    box: float = 0.0
    score: float = 0.0
    best_score: float = 0.0
    ap: float | None = None
    in_float: int | None = None
    within: float | None = None
    milliseconds: float = 0.0
    ratio: float = 0.0
    of_float: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.model, self.weights, self.target, self.precision)


@dataclass
class Table:
    """All rows so far. setting: what the figures depend on.  pytorch_ap: AP in PyTorch, by model."""

    setting: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    pytorch_ap: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"setting": self.setting, "pytorch_ap": self.pytorch_ap, "rows": [asdict(row) for row in self.rows]}

    def show(self, console: Console) -> None:
        console.print(self.markdown(), markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """The table in Markdown, with its setting above."""
        lines = [", ".join(f"{name} {value}" for name, value in self.setting.items()), ""]
        lines += [f"AP of {model} in PyTorch: {ap:.4f}" for model, ap in self.pytorch_ap.items()]
        head = ["model", "target", "precision", "MB", "box px", "score", "AP", "ms", "to the bare loop", "to float"]
        lines += ["", "| " + " | ".join(head) + " |", "|---|---|---|" + "--:|" * (len(head) - 3)]
        lines += [f"| {' | '.join(_cells(row))} |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def save(self, out: Path) -> None:
        write_text(out, json.dumps(self.to_dict(), indent=2) + "\n")
        write_text(out.with_suffix(".md"), self.markdown())


def targets(
    data: Path,
    *models: str,
    out: Path,
    to: list[str] | None = None,
    precision: list[Precision] | None = None,
    evaluate: list[str] | None = None,
    images: int = 8,
    calibration_images: int = 60,
    seconds: float = 20.0,
) -> Table:
    """Exports models to formats in all precisions, and measures the files.

    Args:
        data: A data set with splits `train` and `val`.
        models: NAME=FILE of weights, or NAME, which is freshly initialised. The network is that of the file where it
            is of our own training, else the published one of the name.
        out: The JSON file of all rows; a Markdown table is written beside it. Rows that are there stay.
        to: Formats.
        precision: float32, float16, int8.
        evaluate: Names of the models whose AP is measured.
        images: How many images of `val` are compared.
        calibration_images: How many images of `train` the ranges of 8 bits come from.
        seconds: Of processor time for the latency of one file, of both loops together.
    """
    torch.set_num_threads(1)
    setting = {
        "data": data.name,
        "images": images,
        "calibration images": calibration_images,
        "threads": 1,
        "processor": processor_name(),
        "PyTorch": torch.__version__,
    }
    table = _opened(out, setting)
    done = {row.key for row in table.rows}
    for model in models:
        subject = _Subject.of(model, data, images)
        if subject.name in (evaluate or []) and subject.name not in table.pytorch_ap:
            table.pytorch_ap[subject.name] = _ap(subject.detector, subject.dataset)
            table.save(out)
        for row in subject.rows(to or list(BARE_LOOPS), precision or PRECISIONS):
            if row.key in done:
                continue
            work = _Work(subject, row, seconds, calibration_images, evaluated=subject.name in (evaluate or []))
            try:
                table.rows.append(work.measured())
            except MissingDependencyError:  # the row can be made once the package is there
                raise
            except UserError as error:
                table.rows.append(replace(row, refused=error.message))
            table.save(out)
            print("| " + " | ".join(_cells(table.rows[-1])) + " |", file=sys.stderr, flush=True)
    return table


def _opened(out: Path, setting: dict[str, Any]) -> Table:
    """The table of the file, or a new one; UsageError where it is of another setting."""
    if not out.is_file():
        return Table(setting | {"date": date.today().isoformat()})
    known = json.loads(out.read_text(encoding="utf-8"))
    other = [name for name, value in setting.items() if known["setting"].get(name) != value]
    if other:
        raise UsageError(
            f"'{out}' was made with {other[0]} {known['setting'].get(other[0])}, not {setting[other[0]]}.",
            "Give another file with --out, or the same settings.",
        )
    names = {one.name for one in fields(Row)}
    rows = [Row(**{name: value for name, value in row.items() if name in names}) for row in known["rows"]]
    return Table(known["setting"], rows, known["pytorch_ap"])


@dataclass(frozen=True)
class _Subject:
    """A model, with the images that its files are compared on and what PyTorch finds there."""

    name: str
    weights: str
    detector: Detector
    data: Path
    dataset: Dataset
    pixels: np.ndarray
    expected: tuple[np.ndarray, np.ndarray]

    @staticmethod
    def of(model: str, data: Path, images: int) -> _Subject:
        name, separator, file = model.partition("=")
        torch.manual_seed(0)
        own = file.endswith(".safetensors")  # a file of our own training says which network it is of, and in which size
        opened = open_network(*((file,) if own else (name, file or None)), untrained=not separator)
        detector, dataset = opened.detector, open_dataset(data, split="val")
        assert detector.architecture is not None
        architecture = detector.architecture = change(detector.architecture, {"size": opened.size})
        chosen = np.linspace(0, len(dataset) - 1, images).astype(int)
        pixels = np.stack([architecture.frame(dataset.image(int(row)), architecture.size)[0] for row in chosen])
        weights = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if separator else ""
        return _Subject(name, weights, detector, data, dataset, pixels, _expected(ExportGraph(detector), pixels))

    def rows(self, formats: Sequence[str], precisions: Sequence[Precision]) -> Iterator[Row]:
        for target in formats:
            for precision in precisions:
                if precision != "int8" or target in INT8:
                    yield Row(self.name, self.weights, target, precision)


@dataclass(frozen=True)
class _Work:
    """One row that is to be measured."""

    subject: _Subject
    row: Row
    seconds: float
    calibration_images: int
    evaluated: bool

    def measured(self) -> Row:
        with tempfile.TemporaryDirectory() as folder:
            file = self._written(Path(folder))
            kind = exported_runtime(file.path)
            assert kind is not None
            runtime = kind(file.path, "cpu", threads=1)
            row = replace(self._compared(runtime), library=runtime.library, bytes=file.bytes)
            ours, bare = self._times(runtime)
            row = replace(row, milliseconds=ours * 1e3, ratio=ours / bare)
            if file.int8 is not None:
                times = file.int8.comparison
                row = replace(row, in_float=len(file.int8.kept), of_float=times.int8_ms / times.float_ms)
                row = replace(row, within=file.agreement.within)
            if self.evaluated:
                row = replace(row, ap=_ap(file.path, self.subject.dataset))
        return row

    def _written(self, folder: Path) -> ExportedFile:
        target = TARGETS[self.row.target]
        path = folder / f"model{target.suffix}"
        options = ExportOptions(half=self.row.precision == "float16")
        if self.row.precision != "int8":
            return target.write(self.subject.detector, path, options)
        return INT8[self.row.target].write(self.subject.detector, path, options, self._quantization())

    def _quantization(self) -> Quantization:
        architecture = self.subject.detector.architecture
        assert architecture is not None
        settings = Int8Settings(calibrate=self.subject.data, calibration_images=self.calibration_images)
        made = open_quantization(settings, architecture.frame, architecture.size, SilentReporter())
        return made if self.evaluated else replace(made, judge=lambda path: 1.0)

    def _compared(self, runtime: ExportedRuntime) -> Row:
        images = [np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) for image in self.subject.pixels]
        outputs = [runtime.run(["boxes", "scores"], {"images": image}) for image in images]
        found = np.concatenate([one[0] for one in outputs]), np.concatenate([one[1] for one in outputs])
        agreement = compare_rows(found, self.subject.expected, NOT_COMPARED, runtime.size)
        return replace(
            self.row,
            confident_box=agreement.confident_box,
            box=agreement.box,
            score=agreement.score,
            best_score=agreement.best_score,
        )

    def _times(self, runtime: ExportedRuntime) -> tuple[float, float]:
        """Median seconds of processor time of an image: ours and the bare loop's."""
        pixels = self.subject.pixels
        loops = {"ours": _ours(runtime, pixels), "bare": BARE_LOOPS[self.row.target](runtime, pixels)}
        for loop in loops.values():
            loop()
        start = process_time()
        loops["ours"]()
        turns = int(self.seconds / (process_time() - start) / len(loops) / (TIMED + 1))
        found = alternate(loops, min(max(turns, 4), 50), timed=TIMED, untimed=1, clock=process_time)
        return median(found["ours"]), median(found["bare"])


def _ap(model: Detector | Path, dataset: Dataset) -> float:
    return validate(model, dataset, reporter=SilentReporter()).stats["AP"]


def _expected(graph: ExportGraph, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = [graph(torch.from_numpy(image[None].transpose(0, 3, 1, 2).astype(np.float32))) for image in pixels]
    return np.concatenate([one[0].numpy() for one in found]), np.concatenate([one[1].numpy() for one in found])


def _ours(runtime: ExportedRuntime, pixels: np.ndarray) -> Callable[[], object]:
    postprocess, rows = cast(Postprocess, NoPostprocess()), cycle(range(len(pixels)))

    def call() -> object:
        row = next(rows)
        return runtime(pixels[row : row + 1], postprocess)

    return call


def _cells(row: Row) -> list[str]:
    """The row's cells in the table; a refused one has the reason as one line."""
    head = [row.model, row.target, row.precision]
    if row.refused:
        return [*head, "", "refused: " + " ".join(row.refused.split()).replace("|", "/"), *[""] * 5]
    ap = "" if row.ap is None else f"{row.ap:.4f}"
    of_float = "" if row.of_float is None else f"{row.of_float:.2f}"
    differences = [f"{row.bytes / 1e6:.1f}", f"{row.confident_box:.2g}", f"{row.score:.2g}"]
    return [*head, *differences, ap, f"{row.milliseconds:.1f}", f"{row.ratio:.2f}", of_float]


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return run_benchmark(targets, arguments)
    except KeyboardInterrupt:
        print("Interrupted: the rows so far are in the file of --out, and the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
