"""`onelook compare`: several models on one data set and one machine."""

from __future__ import annotations

from pathlib import Path

from onelook.api import compare as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.comparison import show_comparison
from onelook.report.comparison import Comparison


def compare(
    data: Path,
    /,
    *models: str,
    split: str | None = None,
    size: int | None = None,
    confidence: float = 0.01,
    iou: float = 0.65,
    batch: int = 8,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    runs: int = 50,
    fps: float | None = None,
    without_memory: bool = False,
    resamples: int | None = None,
    seed: int = 0,
    allow_size_mismatch: bool = False,
    out: Path = Path("runs/compare"),
    on: str | None = None,
) -> CommandResult[Comparison]:
    """Compare models on one data set and one machine: accuracy, speed, cost, and whether they differ.

    AP has 95 % intervals, and each difference a p-value, from the same resampled images for all models. Times are
    measured in alternation. Writes an HTML page with charts, CSV and JSON; the same command continues what was stopped.
    Exported files need no PyTorch.

    Examples:
        onelook compare data/ runs/first runs/second
        onelook compare data/coco small.onnx large.onnx yolox-s=yolox_s.pth --out runs/three
        onelook compare data/argoverse small.onnx large.onnx --fps 30

    Args:
        data: Folder, or YAML or JSON file, of a data set.
        models: Weights, exported files and folders of runs, two or more; NAME=FILE gives a name, or weights to a
            built-in model.
        split: Part of the data set; val, or test where that is what there is.
        size: Side of the networks' input in pixels; each model's own unless given.
        confidence: Least score of a detection that AP counts.
        iou: Overlap above which the weaker of two detections of a class is dropped.
        batch: Images at once, in the evaluation and for the images a second.
        device: Where to run: cpu, cuda, cuda:1, mps; the best there is unless given.
        threads: Threads of one run on a CPU; each runtime's choice unless given.
        half: Compute in float16; on a GPU only.
        runs: Images that the time of each model is measured on.
        fps: Frames a second of data that are videos: shows streaming AP beside AP, and a chart of it against speed.
        without_memory: Do not run each model in a process of its own for its memory.
        resamples: Resamples of the images; 1000 unless given, more for many models.
        seed: Of the resampling.
        allow_size_mismatch: Go on although images do not have their annotated sizes, with the boxes as annotated.
        out: Folder of the results.
        on: Evaluate the models on a Ray cluster whose machines share the files: ray, or ray://HOST:PORT. Memory and
            times are measured here.
    """
    found = api.compare(
        models,
        data,
        split=split,
        size=size,
        confidence=confidence,
        iou=iou,
        batch=batch,
        device=device,
        threads=threads,
        half=half,
        runs=runs,
        fps=fps,
        memory=not without_memory,
        resamples=resamples,
        seed=seed,
        allow_size_mismatch=allow_size_mismatch,
        out=out,
        on=on,
        reporter=ConsoleReporter(),
    )
    return CommandResult(found, show_comparison)
