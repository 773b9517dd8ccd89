"""`onelook val`: a model's COCO numbers on a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from onelook.cli.checks import check_batch, check_thresholds
from onelook.data import open_dataset
from onelook.errors import UserError
from onelook.evaluation import Evaluation, evaluate, write_results
from onelook.evaluation.rectangular import Rectangular
from onelook.evaluation.shards import shard
from onelook.ops.nms import with_thresholds
from onelook.predict.backends import PostprocessKind, postprocess_of_kind
from onelook.predict.load import load


def validate(
    data: str | Path,
    /,
    *,
    model: str | Path,
    weights: str | Path | None = None,
    split: str = "val",
    size: int | None = None,
    confidence: float = 0.01,
    iou: float = 0.65,
    select: PostprocessKind | None = None,
    batch: int = 8,
    rectangular: bool = False,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    detections: str | Path | None = None,
) -> Evaluation:
    """Average precision of a model on a data set.

    COCO protocol: twelve numbers, and AP and AP50 of every class. Classes are matched by name. A number that no object
    defines (the AP of small objects where there are none) is shown as - and is -1 in the JSON. Exported files are
    evaluated like any other model. The published numbers of most models are made with --confidence 0.001.

    Examples:
        onelook val data/coco --model yolox-nano --weights yolox_nano.onnx --size 416
        onelook val data/coco --model exported.onnx --json scores.json

    Args:
        data: Folder, or YAML or JSON file, of a data set.
        model: Variant name, weights or exported file, or folder of a run.
        weights: Weights for a variant name.
        split: Part of the data set.
        size: Side of the network's input in pixels; the model's own unless given.
        confidence: Least score of a detection.
        iou: Overlap above which the weaker of two detections of a class is dropped.
        select: How boxes become detections: nms, diou (NMS by overlap and distance, as YOLOv4's numbers are made), soft
            (scores shrink instead), or best (the best rows as they are); best for a model that was trained without need
            of NMS, else nms.
        batch: Images that the model sees at once.
        rectangular: Batch images of like aspect ratio, in inputs no larger than they need; how YOLOv7's published
            numbers were made.
        tta: Look at every image in three scales, once mirrored (test-time augmentation).
        half: Compute in float16; on a GPU only.
        device: Where to run: cpu, cuda, cuda:1, ...; the best there is unless given.
        detections: COCO results file to write.

    Returns:
        The evaluation; `to_dict()` is what `--json` writes.
    """
    begin = perf_counter()
    check_batch(batch)
    check_thresholds(confidence, iou)
    if detections is not None and Path(detections).is_dir():
        raise UserError(f"{detections} is a folder, so no detections can be written to it.", "Give a file name.")
    predictor = load(model, weights=weights, device=device, size=size, tta=tta, half=half)
    dataset = open_dataset(data, split=split)
    if dataset.format == "classes":
        raise UserError(f"'{data}' has class folders and no boxes to compare with.", "Give a data set with boxes.")
    natural = predictor.backend.evaluating
    if select is not None:
        natural = postprocess_of_kind(select, natural)
    chosen = with_thresholds(natural, confidence, iou)
    loaded = perf_counter()
    with _progress(len(dataset)) as told:
        shapes = Rectangular() if rectangular else None
        evaluation = evaluate(predictor.backend, dataset, chosen, batch=batch, progress=told, rectangular=shapes)
    written: tuple[Path, ...] = ()
    if detections is not None and shard()[0] == 0:
        written = (write_results(Path(detections), evaluation.truth, evaluation.results),)
    evaluation.seconds.update(loading=loaded - begin, total=perf_counter() - begin)
    return replace(evaluation, written=written)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on standard error while somebody watches; None otherwise."""
    if not sys.stderr.isatty() or shard()[0] != 0:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total // shard()[1])
        yield lambda done: bar.advance(task, done)
