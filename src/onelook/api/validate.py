"""`onelook.validate`: the average precision of a model on a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from onelook.api.checks import check_batch, check_thresholds
from onelook.api.open import LoadOptions, Model, PathLike
from onelook.api.runtime_choice import RuntimeName, exported_where_it_pays, open_cached, with_thread_trial
from onelook.api.written_files import check_new, suspect_paths, write_all_suspects
from onelook.config import check_arguments
from onelook.data import Dataset, open_dataset
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.objects import evaluation_notes
from onelook.data.uncounted import uncounted_objects
from onelook.errors import UsageError, UserError
from onelook.evaluation import Evaluation, evaluate, write_results
from onelook.evaluation.rectangular import Rectangular
from onelook.evaluation.shards import shard
from onelook.ops.merge import MergeKind
from onelook.ops.nms import with_clip, with_thresholds
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.runtime import PostprocessKind, postprocess_of_kind
from onelook.predict.tiles import MERGE, chosen_tiles
from onelook.report.validation import report_validation
from onelook.reporter import PlainReporter, Progress, Reporter, SilentReporter


def validate(
    model: Model,
    data: Dataset | PathLike,
    *,
    weights: PathLike | None = None,
    split: str = "val",
    size: int | tuple[int, int] | None = None,
    confidence: float = 0.01,
    iou: float = 0.65,
    postprocess: PostprocessKind | None = None,
    clip_boxes: bool | None = None,
    batch: int = 8,
    rectangular: bool = False,
    tile: int | None = None,
    overlap: float = OVERLAP,
    tile_merge: MergeKind = MERGE,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    threads: int | None = None,
    runtime: RuntimeName = "auto",
    detections: PathLike | None = None,
    report: PathLike | None = None,
    suspects_coco: PathLike | None = None,
    suspects_cvat: PathLike | None = None,
    suspects_label_studio: PathLike | None = None,
    overwrite: bool = False,
    allow_size_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> Evaluation:
    """The average precision of a model on a data set, by the COCO protocol.

    model: a name, a weights or exported file, the folder of a run, a `Detector` or a loaded detector.  data: a data
    set, or its folder or file, of which `split` is opened.  postprocess: how boxes become detections ("nms", "diou",
    "soft", "best"); None is the model's own for validation.  clip_boxes: clip boxes to the image before they are
    compared; None is how the family's published numbers were made (YOLOv4 and YOLOv7 clip).  batch: images that the
    network sees at once.  rectangular: images of like aspect ratio share a batch, in inputs no larger than they need.
    tile, overlap, tile_merge: cut larger images into tiles of so many pixels; see `onelook.load(...).detect`.
    runtime: what runs weights on a CPU, as in `onelook.detect`; with rectangles or several processes it is PyTorch.
    detections: the COCO results file to write.  report: the HTML file to write, with thresholds, errors and the worst
    and best images; it needs no network.  suspects_coco, suspects_cvat, suspects_label_studio: files to write for
    FiftyOne (COCO JSON), CVAT ("CVAT for images" XML) and Label Studio (tasks): the images whose annotations the
    detections contradict, with their annotations and, marked, what the model says.  overwrite: replace files that
    are there.  allow_size_mismatch: go on although images do not have their annotated sizes.

    The other settings are those of `onelook.load`. Classes are matched by name. A number that no object defines (the AP
    of small objects where there are none) is -1. Raises UserError for models and data sets that cannot be used, and for
    a data set without the model's classes.
    """
    check_arguments(validate, locals())
    start = perf_counter()
    check_batch(batch)
    tiles = chosen_tiles(tile, overlap, tile_merge)
    if tiles is not None and rectangular:
        raise UsageError("Tiles are squares, and rectangles are whole images.", "Leave one of the two away.")
    check_thresholds(confidence, iou)
    suspects = suspect_paths(suspects_coco, suspects_cvat, suspects_label_studio)
    check_new(
        [*suspects.values(), *(Path(one) for one in (report, detections) if one is not None)], overwrite=overwrite
    )
    options = LoadOptions(weights=weights, device=device, size=size, tta=tta, half=half, threads=threads)
    first, processes = shard()[0] == 0, shard()[1]
    shown = (reporter or PlainReporter()) if first else SilentReporter()  # one process reports for all
    if rectangular and runtime == "onnx":
        raise UsageError("The ONNX file takes images of one size only.", "Leave the rectangles or the runtime away.")
    chosen_runtime: RuntimeName = "torch" if rectangular or processes > 1 else runtime
    predictor = open_cached(model, options, chosen_runtime, shown)
    dataset = open_evaluated(data, split, shown)
    check_annotated_sizes(dataset, shown, allow=allow_size_mismatch)
    predictor = exported_where_it_pays(predictor, options, chosen_runtime, shown, images=dataset.__len__, batch=batch)
    chosen = predictor.runtime.evaluating
    if postprocess is not None:
        chosen = postprocess_of_kind(postprocess, chosen)
    loaded = perf_counter()
    with (
        with_thread_trial(predictor.runtime, model, threads, shown, tries=processes == 1) as network,
        shown.progress("validating") as progress,
    ):
        evaluation = evaluate(
            network,
            dataset,
            with_thresholds(with_clip(chosen, clip_boxes), confidence, iou),
            batch=batch,
            progress=image_counter(progress, -(-len(dataset) // shard()[1])),
            rectangular=Rectangular() if rectangular else None,
            tiles=tiles,
        )
    written: tuple[Path, ...] = ()
    if detections is not None and first:
        written = (write_results(Path(detections), evaluation.truth, evaluation.results),)
    evaluation.seconds.update(loading=loaded - start, total=perf_counter() - start)
    notes = (*dataset.notes, *evaluation.notes, *evaluation_notes(dataset), *uncounted_note(dataset))
    evaluation = replace(evaluation, notes=tuple(dict.fromkeys(notes)))
    if report is not None and first:
        settings = {"confidence": confidence, "iou": iou, "postprocess": postprocess, "size": size, "tta": tta}
        facts = {
            "model": " with ".join(_text(given) for given in (model, weights) if given is not None),
            "settings": ", ".join(f"{name} {value}" for name, value in settings.items() if value not in (None, False)),
        }
        written += (report_validation(Path(report), evaluation, dataset, _title(model), facts),)
    if suspects and first:
        written += write_all_suspects(suspects, dataset, evaluation)
    return replace(evaluation, written=written)


def _text(model: object) -> str:
    return os.fspath(model) if isinstance(model, str | os.PathLike) else f"{type(model).__name__} in memory"


def _title(model: object) -> str:
    """A model's name for a title: of a file or a run's folder, its own name."""
    return Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__


def uncounted_note(dataset: Dataset) -> tuple[str, ...]:
    """A note where a data set has objects and none of them counts; else nothing."""
    reason = uncounted_objects(dataset)
    return (f"The split has {reason}. Every number is undefined.",) if reason else ()


def open_evaluated(data: Dataset | PathLike, split: str, reporter: Reporter) -> Dataset:
    """The data set to validate on; UserError where it has no boxes."""
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, str | os.PathLike):
        dataset = open_dataset(os.fspath(data), split=split, reporter=reporter)
    else:
        raise UsageError(
            f"A value of type '{type(data).__name__}' is no data set.", "Give a path, or a Dataset of open_dataset()."
        )
    if not dataset.has_boxes:
        where = dataset.described_by
        raise UserError(f"'{where}' has class folders and no boxes to compare with.", "Give a data set with boxes.")
    return dataset


def image_counter(progress: Progress, total: int) -> Callable[[int], None]:
    """A function that adds a number of images to those that are done."""
    done = 0

    def add(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    return add
