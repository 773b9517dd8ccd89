"""How long an evaluation takes: the scoring alone, and a whole `val` against a bare loop over the same images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from command import run_benchmark
from onelook.api.checks import check_batch
from onelook.api.load import load
from onelook.data import open_dataset
from onelook.devices import num_cores, processor_name
from onelook.errors import UsageError
from onelook.evaluation import GroundTruth, Results, evaluate, score
from onelook.evaluation.runner import LabelledImages
from onelook.predict.runtime import Runtime

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Timing:
    """What was measured, how often, and the seconds of the rounds: least, median, 90th percentile, most."""

    name: str
    rounds: int
    least: float
    median: float
    p90: float
    most: float

    @staticmethod
    def of(name: str, seconds: list[float]) -> Timing:
        """The summary of some rounds."""
        median, p90 = np.percentile(seconds, [50, 90]).tolist()
        return Timing(name, len(seconds), min(seconds), median, p90, max(seconds))


@dataclass(frozen=True)
class EvaluateBench:
    """Timings of an evaluation.  setup: what they hold for.  ratio: median of val / bare loop, round by round."""

    timings: tuple[Timing, ...]
    setup: dict[str, Any]
    ratio: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {"setup": self.setup, "timings": [asdict(timing) for timing in self.timings], "ratio": self.ratio}

    def show(self, console: Console) -> None:
        """A table of the timings, what they hold for, and the ratio."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("seconds", "rounds", "least", "median", "p90", "most"):
            table.add_column(heading, justify="left" if heading == "seconds" else "right")
        for timing in self.timings:
            numbers = (timing.least, timing.median, timing.p90, timing.most)
            table.add_row(timing.name, str(timing.rounds), *(f"{number:.3f}" for number in numbers))
        console.print(table)
        console.print(", ".join(f"{name} {value}" for name, value in self.setup.items()), highlight=False)
        if self.ratio is not None:
            console.print(f"val / bare loop: {self.ratio:.3f} (median of the rounds)", highlight=False)


def bench_score(images: int = 5000, per_image: int = 100, classes: int = 80, rounds: int = 5) -> EvaluateBench:
    """Times the COCO protocol on random objects (7 an image, as in COCO) and detections near them or nowhere.

    Ground truth and detections are in memory as arrays; reading files is not counted.
    """
    truth, results = random_evaluation(images, per_image, classes)
    score(truth, results)
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        score(truth, results)
        seconds.append(perf_counter() - start)
    setup: dict[str, Any] = {"images": images, "objects": len(truth.labels), "detections": len(results)}
    setup |= {"classes": classes, "device": processor_name(), "warm-up": 1}
    return EvaluateBench((Timing.of("score", seconds),), setup)


def random_evaluation(images: int, per_image: int, classes: int, seed: int = 0) -> tuple[GroundTruth, Results]:
    """Objects and detections such as a middling model would make of them."""
    rng = np.random.default_rng(seed)
    objects = 7 * images
    boxes = np.concatenate([rng.uniform(0, 400, (objects, 2)), rng.lognormal(4, 0.8, (objects, 2))], 1)
    truth = GroundTruth(
        np.arange(images),
        tuple(map(str, range(images))),
        tuple(map(str, range(classes))),
        tuple(range(classes)),
        np.sort(rng.integers(0, images, objects)),
        rng.integers(0, classes, objects),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        rng.random(objects) < 0.01,
    )
    near = rng.integers(0, objects, images * per_image)
    found = boxes[near] + rng.normal(0, 8, (len(near), 4))
    found[:, 2:] = found[:, 2:].clip(1)
    elsewhere = rng.random(len(near)) < 0.7
    labels = np.where(elsewhere, rng.integers(0, classes, len(near)), truth.labels[near])
    return truth, Results.join([Results(truth.images[near], labels, found, rng.random(len(near)))])


def bench_val(
    model: Runtime,
    forward: Callable[[np.ndarray], Any],
    dataset: LabelledImages,
    postprocess: Any,
    *,
    batch: int = 8,
    rounds: int = 5,
) -> EvaluateBench:
    """Times a whole evaluation against a bare loop: decode, frame and forward pass of the same images, nothing else.

    forward: the model's forward pass of a (B, H, W, 3) uint8 batch, without selection. Both run once before counting,
    then in turn, so that what else the machine does hits both; the ratio is the median of the rounds' ratios.
    """
    bare, whole = [], []
    for _ in range(rounds + 1):
        bare.append(_bare_loop(model, forward, dataset, batch))
        start = perf_counter()
        evaluate(model, dataset, postprocess, batch=batch)
        whole.append(perf_counter() - start)
    ratios = [one / other for one, other in zip(whole[1:], bare[1:])]
    setup: dict[str, Any] = {"images": len(dataset), "size": f"{model.size[0]}x{model.size[1]}", "batch": batch}
    setup |= {"nms": "in val only", "warm-up": 1, **_surroundings(model)}
    timings = (Timing.of("bare loop", bare[1:]), Timing.of("val", whole[1:]))
    return EvaluateBench(timings, setup, float(np.median(ratios)))


def bare_forward(model: Any) -> Callable[[np.ndarray], Any]:
    """The forward pass alone of a back-end of `predict`: its network as it is, a batch in, nothing selected."""
    from onelook.predict.runtimes.onnx import OnnxRuntime

    if isinstance(model, OnnxRuntime):
        outputs = ["boxes", "scores"] if model.metadata.outputs == "raw" else ["count", "boxes", "scores", "labels"]
        return lambda batch: [model.run(outputs, {"images": pixels}) for pixels, _ in model._parts(batch)]

    import torch

    network, parameter = model.detector, next(model.detector.parameters())

    def forward(batch: np.ndarray) -> Any:
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(parameter.device)
            predictions = network(pixels.permute(0, 3, 1, 2).to(parameter.dtype))
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        return predictions

    return forward


def _surroundings(model: Any) -> dict[str, Any]:
    """Device, threads and precision of a back-end of `predict`; the processor alone of anything else."""
    from onelook.predict.runtimes.onnx import OnnxRuntime
    from onelook.predict.runtimes.torch import TorchRuntime

    if isinstance(model, OnnxRuntime):
        return {"device": processor_name(), "threads": num_cores(), "precision": model.metadata.precision}
    if not isinstance(model, TorchRuntime):
        return {"device": processor_name()}
    import torch

    precision = str(next(model.detector.parameters()).dtype).removeprefix("torch.")
    if model.device.type == "cuda":
        return {"device": torch.cuda.get_device_name(model.device), "precision": precision}
    return {"device": processor_name(), "threads": torch.get_num_threads(), "precision": precision}


def _bare_loop(model: Runtime, forward: Callable[[np.ndarray], Any], dataset: LabelledImages, batch: int) -> float:
    start = perf_counter()
    for first in range(0, len(dataset), batch):
        rows = range(first, min(first + batch, len(dataset)))
        forward(np.stack([model.frame(dataset.image(row), model.size)[0] for row in rows]))
    return perf_counter() - start


def evaluation(
    data: Path | None = None,
    /,
    *,
    model: str | None = None,
    weights: Path | None = None,
    split: str = "val",
    size: int | None = None,
    batch: int = 8,
    device: str | None = None,
    images: int = 5000,
    rounds: int = 5,
) -> EvaluateBench:
    """A whole validation against a bare loop over the same images; without a model, the scoring alone.

    The bare loop decodes, frames and runs the network, and does nothing else; both take turns in one process, and the
    ratio is the median of the rounds' ratios. Scoring alone takes random objects and detections, 100 an image.

    Examples:
        python benchmarks/evaluation.py
        python benchmarks/evaluation.py data/ --model yolox-nano --weights yolox_nano.onnx --size 416

    Args:
        data: Data set for the whole validation.
        model: A model's name, a weights or exported file, or the folder of a run.
        weights: Weights for a model that was given by name.
        split: Part of the data set.
        size: Side of the network's input in pixels; the model's own if not given.
        batch: Images that the model sees at once.
        device: cpu, cuda, cuda:1, mps; the first GPU if there is one.
        images: Images of the scoring alone.
        rounds: Rounds that are measured, after one of warm-up.

    Returns:
        Seconds of every part, with percentiles, and the ratio.
    """
    if (data is None) != (model is None):
        raise UsageError("A validation needs a data set and a model.", "Give DATA and --model, or neither.")
    for flag, value in (("rounds", rounds), ("images", images)):
        if value < 1:
            raise UsageError(f"--{flag} is {value}.", "Give a number of 1 or more.")
    check_batch(batch)
    if data is None or model is None:
        return bench_score(images, rounds=rounds)
    predictor = load(model, weights=weights, device=device, size=size)
    forward = bare_forward(predictor.runtime)
    dataset = open_dataset(data, split=split)
    return bench_val(predictor.runtime, forward, dataset, predictor.settings(0.01, 0.65), batch=batch, rounds=rounds)


if __name__ == "__main__":
    sys.exit(run_benchmark(evaluation))
