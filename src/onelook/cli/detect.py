"""`onelook detect`: images and videos in, files of detections out."""

from __future__ import annotations

from pathlib import Path

from onelook.api import detect as api
from onelook.api.cached_onnx import RuntimeName
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.output import quiet_native_errors
from onelook.cli.terminate import terminate_as_interrupt
from onelook.cli.views.detect import text_of_result
from onelook.errors import UsageError
from onelook.predict.runtime import PostprocessKind
from onelook.tracking.tracker import TrackerName


def detect(
    *sources: str,
    model: str,
    weights: Path | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    agnostic: bool = False,
    postprocess: PostprocessKind | None = None,
    size: int | None = None,
    out: Path | None = None,
    format: str = api.FORMATS,
    batch: int | None = None,
    track: TrackerName | None = None,
    every: int = 1,
    start: float = 0.0,
    end: float | None = None,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    threads: int | None = None,
    runtime: RuntimeName = "auto",
    classes: str | None = None,
    line_width: int | None = None,
    hide_labels: bool = False,
    crops: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
) -> CommandResult[api.DetectResult]:
    """Find objects in images, folders, videos, cameras and streams.

    Folders are searched with their subfolders. Damaged files are reported and left out; the exit code is then 1.
    Ctrl-C ends a camera or a stream, and keeps what was done; so does SIGTERM. detections.jsonl gets a line for each
    image as soon as it is done, so that even a run that was killed continues with --resume.

    Examples:
        onelook detect photo.jpg --model yolox-s --weights yolox_s.pth
        onelook detect photos/ "more/*.png" clip.mp4 --model runs/train --out found
        onelook detect 0 --model yolox-nano.onnx --format video
        onelook detect clip.mp4 --model yolox-s.onnx --track bytetrack --format video,mot
        onelook detect photos/ --model yolox-s.onnx --out found --shard 1/8 --resume

    Args:
        sources: images, folders, globs, .txt lists, videos, camera numbers, stream addresses.
        model: a model's name (see `onelook models`), a weights or exported file, or the folder of a run.
        weights: weights for a model given by name.
        confidence: least score of a detection.
        iou: boxes of one class that overlap a better one by more are dropped.
        agnostic: let boxes of different classes suppress each other, as the official YOLOX demos do.
        postprocess: how boxes become detections: nms, diou, soft or best, as in `onelook val`.
        size: side of the network's input; what the weights were made for unless given.
        out: folder to write to; runs/detect, runs/detect-2, ... unless given.
        format: what to write, separated by commas: json, images, coco, yolo, csv, video, mot, crops.
        batch: most images in one run of the network; 1 on a CPU, 8 on a GPU unless given.
        track: follow the objects of videos, with bytetrack or ocsort; confidence then starts a track.
        every: use every second, third, ... frame of videos; what is written keeps the numbers and times of the frames.
        start: seconds after the first frame of videos from which frames are used.
        end: seconds after the first frame of videos at which no more are used; their end unless given.
        tta: look at every image in three scales, once mirrored (test-time augmentation).
        half: compute in float16; on a GPU only.
        device: cpu, cuda, cuda:1, mps; a GPU where there is one unless given.
        threads: threads of one run on a CPU; as many as there are free cores unless given.
        runtime: what runs weights on a CPU: torch, onnx (a file that is exported and verified once, and cached beside
            the weights), or auto: onnx where the file is there, or where PyTorch would take a minute or more.
        classes: classes to keep, by name or number, separated by commas; all unless given.
        line_width: width of the drawn boxes in pixels; fits image and object unless given.
        hide_labels: draw boxes without names and scores.
        crops: also write every object as an image of its own (crops/CLASS/NAME-1.jpg).
        resume: continue the run in the folder --out: what it has done is not done again.
        overwrite: write into a folder that holds results already.
        shard: a part of the sources, such as 1/8, which goes to OUT/1-of-8; for several processes or machines.
    """
    if not sources:
        remedy = "Name images, folders, globs, videos, camera numbers or stream addresses."
        raise UsageError("No source was given.", remedy)
    with quiet_native_errors(), terminate_as_interrupt():
        result = api.detect(
            model,
            sources,
            weights=weights,
            confidence=confidence,
            iou=iou,
            agnostic=agnostic,
            postprocess=postprocess,
            size=size,
            out=out,
            formats=f"{format},crops" if crops else format,
            batch=batch,
            track=track,
            every=every,
            start=start,
            end=end,
            tta=tta,
            half=half,
            device=device,
            threads=threads,
            runtime=runtime,
            classes=classes,
            line_width=line_width,
            hide_labels=hide_labels,
            resume=resume,
            overwrite=overwrite,
            shard=shard,
            reporter=ConsoleReporter(),
        )
    return CommandResult(result, exit_code=result.exit_code, text=text_of_result)
