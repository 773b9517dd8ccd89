"""`onelook val`: a model's COCO numbers on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onelook.api import validate as api
from onelook.api.runtime_choice import RuntimeName
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.evaluation import text_of_evaluation
from onelook.evaluation import Evaluation
from onelook.ops.merge import MergeKind
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.runtime import PostprocessKind
from onelook.predict.tiles import MERGE


def validate(
    data: str,
    /,
    *,
    model: str,
    weights: Path | None = None,
    split: str = "val",
    size: int | None = None,
    confidence: float = 0.01,
    iou: float = 0.65,
    postprocess: PostprocessKind | None = None,
    clip_boxes: Annotated[bool | None, Parameter(negative="--no-clip-boxes")] = None,
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
    detections: Path | None = None,
    report: Path | None = None,
    suspects_coco: Path | None = None,
    suspects_cvat: Path | None = None,
    suspects_label_studio: Path | None = None,
    overwrite: bool = False,
    allow_size_mismatch: bool = False,
) -> CommandResult[Evaluation]:
    """Measure the average precision of a model on a data set.

    COCO protocol: twelve numbers, and AP and AP50 of every class; the confidence with the best F1, and which confidence
    reaches which recall. --json holds all results, as docs/training.md lists them. Classes are matched by name. A
    number that no object defines (the AP of small objects where there are none) is shown as - and is -1 in the JSON.
    Exported files are evaluated like any other model. The published numbers of most models are made with --confidence
    0.001.

    Examples:
        onelook val data/coco --model yolox-nano --weights yolox_nano.onnx --size 416
        onelook val data/coco --model exported.onnx --json scores.json
        onelook val data/coco --model runs/yolox-s --report val.html

    Args:
        data: Folder, YAML or JSON file, or URL or pattern of shards, of a data set.
        model: Variant name, weights or exported file, or folder of a run.
        weights: Weights for a variant name.
        split: Part of the data set.
        size: Side of the network's input in pixels; the model's own unless given.
        confidence: Least score of a detection.
        iou: Overlap above which the weaker of two detections of a class is dropped.
        postprocess: How boxes become detections: nms, diou (NMS by overlap and distance, as YOLOv4's numbers are made),
            soft (scores shrink instead), or best (the best rows as they are); best for a model that was trained without
            need of NMS, else nms.
        clip_boxes: Clip boxes to the image before they are compared with the objects; as the family's published numbers
            were made unless given (YOLOv4 and YOLOv7 clip, YOLOX and DAMO-YOLO do not).
        batch: Images that the model sees at once.
        rectangular: Batch images of like aspect ratio, in inputs no larger than they need; how YOLOv7's published
            numbers were made.
        tile: Cut larger images into square tiles of so many pixels, and look at the whole image, too; for objects that
            are small in their image.
        overlap: Share of a tile that neighbours have in common.
        tile_merge: Of an object in several tiles, nms keeps the best box, and nmm joins boxes that borders have cut.
        tta: Look at every image in three scales, once mirrored (test-time augmentation).
        half: Compute in float16; on a GPU only.
        device: Where to run: cpu, cuda, cuda:1, mps; the best there is unless given.
        threads: Threads of one run on a CPU; unless given, as many as there are free cores, and where others use
            some, the number that is fastest in the first runs.
        runtime: What runs weights on a CPU: torch, onnx (a file that is exported and verified once, and cached beside
            the weights), or auto: onnx where the file is there, or where PyTorch would take a minute or more.
        detections: COCO results file to write.
        report: HTML file to write, with thresholds, kinds of error, and the worst and best images.
        suspects_coco: COCO JSON file to write, for FiftyOne: the images whose annotations the detections contradict,
            with their annotations and, marked, what the model says.
        suspects_cvat: The same as XML of "CVAT for images".
        suspects_label_studio: The same as tasks of Label Studio, with the model's boxes as predictions.
        overwrite: Replace files of detections, reports and suspects that are there.
        allow_size_mismatch: Go on although images do not have their annotated sizes, with the boxes as annotated.
    """
    evaluation = api.validate(
        model,
        data,
        weights=weights,
        split=split,
        size=size,
        confidence=confidence,
        iou=iou,
        postprocess=postprocess,
        clip_boxes=clip_boxes,
        batch=batch,
        rectangular=rectangular,
        tile=tile,
        overlap=overlap,
        tile_merge=tile_merge,
        tta=tta,
        half=half,
        device=device,
        threads=threads,
        runtime=runtime,
        detections=detections,
        report=report,
        suspects_coco=suspects_coco,
        suspects_cvat=suspects_cvat,
        suspects_label_studio=suspects_label_studio,
        overwrite=overwrite,
        allow_size_mismatch=allow_size_mismatch,
        reporter=ConsoleReporter(),
    )
    return CommandResult(evaluation, text=text_of_evaluation)
