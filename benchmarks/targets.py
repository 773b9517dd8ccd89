"""Every model in every format of export: its largest difference from PyTorch on real images, and its latency.

    python benchmarks/targets.py data/coco yolox_nano=nano.safetensors damo.safetensors --to onnx openvino ncnn

Differences are those of `onelook export`, on images of the data set instead of made-up ones. Latency is the median of
one image at one thread, of our runtime in alternation with a bare loop of the library's own calls: both begin with
uint8 pixels in the size of the input and end with boxes and scores of all rows.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from command import run_benchmark
from onelook.api.alternation import alternate
from onelook.api.bench import NoPostprocess
from onelook.api.open import open_network
from onelook.data import open_dataset
from onelook.errors import UserError
from onelook.exporting.graph import ExportGraph
from onelook.exporting.target import ExportOptions
from onelook.exporting.targets import TARGETS
from onelook.exporting.verify import NOT_COMPARED, compare_rows
from onelook.ops.nms import Postprocess
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One file. confident_box, box: pixels.  ratio: of the latency to that of the bare loop.  refused: why none is."""

    model: str
    target: str
    precision: str
    refused: str = ""
    bytes: int = 0
    confident_box: float = 0.0
    box: float = 0.0
    score: float = 0.0
    best_score: float = 0.0
    milliseconds: float = 0.0
    ratio: float = 0.0


@dataclass(frozen=True)
class Table:
    rows: list[Row]
    images: int

    def to_dict(self) -> dict[str, Any]:
        return {"images": self.images, "rows": [asdict(row) for row in self.rows]}

    def show(self, console: Console) -> None:
        console.print(
            f"{'model':14} {'format':9} {'type':8} {'MB':>6} {'box px':>8} {'all px':>8} {'score':>8}", end=""
        )
        console.print(f" {'of best':>8} {'ms':>7} {'to bare':>8}")
        for row in self.rows:
            head = f"{row.model:14} {row.target:9} {row.precision:8}"
            if row.refused:
                console.print(f"{head} {row.refused}", markup=False)
                continue
            differences = f"{row.confident_box:8.2g} {row.box:8.2g} {row.score:8.2g} {row.best_score:8.2g}"
            console.print(f"{head} {row.bytes / 1e6:6.1f} {differences} {row.milliseconds:7.1f} {row.ratio:8.2f}")


def targets(data: Path, *models: str, to: list[str] | None = None, images: int = 8, turns: int = 10) -> Table:
    """Exports models to formats, in float32 and float16, and measures the files.

    Args:
        data: A data set with a split `val`, for real images.
        models: Weights files, or NAME=FILE.
        to: Formats.
        images: How many images are compared.
        turns: Turns of each of the two loops, of 5 images.
    """
    torch.set_num_threads(1)
    dataset = open_dataset(data, split="val")
    rows = []
    for model in models:
        name, separator, file = model.partition("=")
        detector = open_network(*((name, file) if separator else (model,))).detector
        architecture = detector.architecture
        assert architecture is not None
        chosen = np.linspace(0, len(dataset) - 1, images).astype(int)
        pixels = np.stack([architecture.frame(dataset.image(int(row)), architecture.size)[0] for row in chosen])
        expected = _expected(ExportGraph(detector), pixels)
        for target in to or ["onnx", "openvino", "ncnn", "torch"]:
            for half in (False, True):
                row = Row(Path(name).stem, target, "float16" if half else "float32")
                try:
                    rows.append(_measured(row, detector, pixels, expected, turns))
                except UserError as error:
                    rows.append(replace(row, refused=error.message))
                print(rows[-1], file=sys.stderr, flush=True)
    return Table(rows, images)


def _expected(graph: ExportGraph, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = [graph(torch.from_numpy(image[None].transpose(0, 3, 1, 2).astype(np.float32))) for image in pixels]
    return np.concatenate([one[0].numpy() for one in found]), np.concatenate([one[1].numpy() for one in found])


def _measured(row: Row, detector: Any, pixels: np.ndarray, expected: tuple[np.ndarray, np.ndarray], turns: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[row.target]
        options = ExportOptions(half=row.precision == "float16")
        file = target.write(detector, Path(folder) / f"model{target.suffix}", options)
        kind = exported_runtime(file.path)
        assert kind is not None
        runtime = kind(file.path, "cpu", threads=1)
        images = [np.ascontiguousarray(image[None].transpose(0, 3, 1, 2), np.float32) for image in pixels]
        outputs = [runtime.run(["boxes", "scores"], {"images": image}) for image in images]
        found = np.concatenate([one[0] for one in outputs]), np.concatenate([one[1] for one in outputs])
        agreement = compare_rows(found, expected, NOT_COMPARED, runtime.size)
        loops = {"ours": _ours(runtime, pixels), "bare": BARE[row.target](runtime)(pixels)}
        seconds = alternate(loops, turns, warm_up=1, timed=5, untimed=1)
        ours, bare, size = median(seconds["ours"]), median(seconds["bare"]), file.bytes
    differences = (agreement.confident_box, agreement.box, agreement.score, agreement.best_score)
    return Row(row.model, row.target, row.precision, "", size, *differences, ours * 1e3, ours / bare)


def _ours(runtime: ExportedRuntime, pixels: np.ndarray) -> Callable[[], object]:
    postprocess = cast(Postprocess, NoPostprocess())
    turn = iter(range(1 << 40))

    def call() -> object:
        row = next(turn) % len(pixels)
        return runtime(pixels[row : row + 1], postprocess)

    return call


def _loop(run: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], Callable[[], object]]:
    """A call that prepares the next image as any program has to, and runs it."""

    def of(pixels: np.ndarray) -> Callable[[], object]:
        turn = iter(range(1 << 40))

        def call() -> object:
            image = pixels[next(turn) % len(pixels)]
            return run(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)[None])

        return call

    return of


def _onnx(runtime: ExportedRuntime) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(runtime.path, options, providers=["CPUExecutionProvider"])
    return _loop(lambda images: session.run(["boxes", "scores"], {"images": images}))


def _openvino(runtime: ExportedRuntime) -> Any:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(runtime.path, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> object:
        found = request.infer({"images": images}, share_inputs=True)
        return found["boxes"].copy(), found["scores"].copy()

    return _loop(run)


def _ncnn(runtime: ExportedRuntime) -> Any:
    import ncnn

    net = ncnn.Net()
    half = runtime.precision == "float16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.num_threads = 1
    net.load_param(runtime.path)
    net.load_model(runtime.files()[1])

    def run(images: np.ndarray) -> object:
        extractor = net.create_extractor()
        extractor.input("images", ncnn.Mat(images[0]).clone())
        return [np.array(extractor.extract(name)[1]) for name in ("boxes", "scores")]

    return _loop(run)


def _torch(runtime: ExportedRuntime) -> Any:
    module = torch.export.load(runtime.path).module()

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return [tensor.numpy() for tensor in module(torch.from_numpy(images))]

    return _loop(run)


BARE = {"onnx": _onnx, "openvino": _openvino, "ncnn": _ncnn, "torch": _torch}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_benchmark(targets, arguments)


if __name__ == "__main__":
    sys.exit(main())
