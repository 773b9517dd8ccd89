"""Detection in photographs on a CPU against a bare loop of OpenCV and ONNX Runtime, in processor and wall time.

    python benchmarks/detection.py photos/ --model yolox-nano --weights yolox_nano.onnx --size 416

The bare loop reads each photograph, fits it into the input, runs the network with `session.run` and calls OpenCV's NMS.
Sides take turns: the bare loop, `stream` with an exported file, with the cached file that is made of the weights, with
PyTorch, and with a file that has NMS inside. Ratios are the medians of the rounds' ratios to the bare loop.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from command import run_benchmark
from onelook.api.export import export
from onelook.api.load import load
from onelook.devices import processor_name
from onelook.errors import UsageError
from onelook.predict.predictor import Predictor
from onelook.threads import free_cores

if TYPE_CHECKING:
    from rich.console import Console

CONFIDENCE, IOU = 0.25, 0.45


@dataclass(frozen=True)
class Side:
    """Milliseconds an image, medians: of processor time and of wall time; and their ratios to the bare loop."""

    name: str
    processor: float
    wall: float
    processor_ratio: float
    wall_ratio: float
    detections: int


@dataclass(frozen=True)
class DetectionBench:
    sides: list[Side]
    setup: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"setup": self.setup, "sides": [asdict(side) for side in self.sides]}

    def show(self, console: Console) -> None:
        console.print(f"{'':24} {'cpu ms':>8} {'ratio':>6} {'wall ms':>8} {'ratio':>6} {'found':>6}")
        for side in self.sides:
            numbers = f"{side.processor:8.2f} {side.processor_ratio:6.3f} {side.wall:8.2f} {side.wall_ratio:6.3f}"
            console.print(f"{side.name:24} {numbers} {side.detections:6}")
        console.print(", ".join(f"{name} {value}" for name, value in self.setup.items()), highlight=False)


def detection(
    photos: Path,
    *,
    model: str,
    weights: Path | None = None,
    size: int | None = None,
    images: int = 100,
    rounds: int = 9,
    threads: int = 1,
    without: tuple[str, ...] = (),
) -> DetectionBench:
    """Measures detection in photographs.

    Args:
        photos: Folder of photographs.
        model: A model's name, or a weights file.
        weights: Weights for a name.
        size: Side of the input.
        images: How many of the photographs are used.
        rounds: Turns of each side, after one that does not count.
        threads: Of the network.
        without: Sides that are left out: exported, cached, torch, inside.
    """
    paths = sorted(str(path) for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".png"))[:images]
    if not paths:
        raise UsageError(f"There are no photographs in '{photos}'.", "Name a folder of .jpg or .png files.")
    cv2.setNumThreads(1)
    given: dict[str, Any] = {"weights": weights, "device": "cpu", "size": size, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        raw, inside = Path(folder) / "raw.onnx", Path(folder) / "inside.onnx"
        export(model, weights=weights, size=size, out=raw)
        sides: dict[str, Callable[[], int]] = {"bare loop": bare_loop(raw, paths, threads)}
        if "exported" not in without:
            sides["exported file"] = _stream(load(raw, threads=threads), paths)
        if "inside" not in without:
            export(model, weights=weights, size=size, out=inside, nms=True)
            sides["NMS inside the file"] = _stream(load(inside, threads=threads), paths)
        if "cached" not in without:
            sides["weights, cached file"] = _stream(load(model, runtime="onnx", **given), paths)
        if "torch" not in without:
            sides["weights, PyTorch"] = _stream(load(model, **given), paths)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        found = {}
        for turn in range(rounds + 1):
            for name, run in sides.items():
                started, used = time.perf_counter(), time.process_time()
                found[name] = run()
                taken = time.process_time() - used, time.perf_counter() - started
                if turn:
                    times[name].append(taken)
    setup = {"images": len(paths), "threads": threads, "rounds": rounds, "processor": processor_name()}
    setup |= {"free cores at the end": round(free_cores(len(os.sched_getaffinity(0))), 1)}
    return DetectionBench([_side(name, times, len(paths), found[name]) for name in sides], setup)


def _side(name: str, times: dict[str, list[tuple[float, float]]], images: int, found: int) -> Side:
    own, bare = np.array(times[name]), np.array(times["bare loop"])
    processor, wall = (median(column) / images * 1e3 for column in own.T.tolist())
    processor_ratio, wall_ratio = (median(column) for column in (own / bare).T.tolist())
    return Side(name, processor, wall, processor_ratio, wall_ratio, found)


def _stream(predictor: Predictor, paths: list[str]) -> Callable[[], int]:
    def run() -> int:
        return sum(len(found) for found in predictor.stream(paths, CONFIDENCE, IOU))

    return run


def bare_loop(model: Path, paths: list[str], threads: int) -> Callable[[], int]:
    """Decode, letterbox, `session.run`, OpenCV's NMS, boxes in pixels of the photograph: the number of detections."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]

    def run() -> int:
        count = 0
        for path in paths:
            image = cv2.imread(path)
            assert image is not None
            ratio = min(height / image.shape[0], width / image.shape[1])
            small = cv2.resize(image, (int(image.shape[1] * ratio), int(image.shape[0] * ratio)))
            canvas = np.full((height, width, 3), 114, np.uint8)
            canvas[: small.shape[0], : small.shape[1]] = small
            pixels = np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1), np.float32)[None]
            boxes, scores = session.run(["boxes", "scores"], {"images": pixels})
            best = scores[0].max(1)
            rows = np.flatnonzero(best >= CONFIDENCE)
            labels = scores[0, rows].argmax(1)
            corners = boxes[0, rows] / ratio
            sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
            kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), best[rows].tolist(), labels.tolist(), CONFIDENCE, IOU)
            found = [(corners[row], float(best[rows[row]]), int(labels[row])) for row in kept]
            count += len(found)
        return count

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    return run_benchmark(detection, arguments)


if __name__ == "__main__":
    sys.exit(main())
