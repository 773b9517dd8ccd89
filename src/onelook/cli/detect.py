"""`onelook detect`: images and videos in, files of detections out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.api import detect as api
from onelook.api.cached_onnx import RuntimeName
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.output import quiet_native_errors
from onelook.cli.views.detect import text_of_result
from onelook.errors import UsageError
from onelook.predict.runtime import PostprocessKind
from onelook.tracking.tracker import TrackerName

if TYPE_CHECKING:
    from onelook.api.detect_shards import ShardsResult


def detect(
    *sources: str,
    model: str,
    weights: Path | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    agnostic: bool = False,
    postprocess: PostprocessKind | None = None,
    size: int | None = None,
    out: str | None = None,
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
    on: str | None = None,
    shard: int | None = None,
) -> CommandResult[Any]:
    """Find objects in images, folders, videos, cameras and streams.

    Folders are searched with their subfolders. Damaged files are reported and left out; the exit code is then 1.
    Ctrl-C ends a camera or a stream, and keeps what was done.

    Examples:
        onelook detect photo.jpg --model yolox-s --weights yolox_s.pth
        onelook detect photos/ "more/*.png" clip.mp4 --model runs/train --out found
        onelook detect 0 --model yolox-nano.onnx --format video
        onelook detect clip.mp4 --model yolox-s.onnx --track bytetrack --format video,mot
        onelook detect s3://bucket/photos/ --model yolox-s.onnx --on ray --out s3://bucket/found

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
        format: what to write, separated by commas: json, images, coco, yolo, csv, video, mot.
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
        on: write Parquet shards, of any number of images, with workers on a Ray cluster: ray, ray://HOST:PORT, either
            with settings behind it (ray,workers=8,cpus=2); or local, in this process. The same command continues.
        shard: with --on, images in a file; 1000 unless given.
    """
    if not sources:
        remedy = "Name images, folders, globs, videos, camera numbers or stream addresses."
        raise UsageError("No source was given.", remedy)
    if on is not None:
        only_files = {"format": format != api.FORMATS, "track": track is not None, "every": every != 1}
        only_files |= {"start": start != 0.0, "end": end is not None, "runtime": runtime != "auto"}
        if refused := next((name for name, given in only_files.items() if given), None):
            raise UsageError(f"--{refused} cannot be used with --on, which writes Parquet shards.", "Leave it away.")
        return _detect_shards(
            model,
            sources,
            out,
            shard,
            on=on,
            weights=weights,
            confidence=confidence,
            iou=iou,
            agnostic=agnostic,
            postprocess=postprocess,
            size=size,
            batch=batch,
            tta=tta,
            half=half,
            device=device,
            threads=threads,
        )
    if shard is not None:
        raise UsageError("--shard is for the shards that --on writes.", "Leave it away, or give --on.")
    with quiet_native_errors():
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
            formats=format,
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
            reporter=ConsoleReporter(),
        )
    return CommandResult(result, exit_code=result.exit_code, text=text_of_result)


def _detect_shards(
    model: str, sources: Sequence[str], out: str | None, shard: int | None, **settings: Any
) -> CommandResult[ShardsResult]:
    from onelook.api.detect_shards import SHARD, detect_shards

    if out is None:
        raise UsageError("--on needs a folder, in which the same command continues.", "Give --out.")
    with quiet_native_errors():
        result = detect_shards(
            model,
            sources,
            out,
            shard=SHARD if shard is None else shard,
            reporter=ConsoleReporter(),
            **settings,
        )
    return CommandResult(result, exit_code=result.exit_code)
