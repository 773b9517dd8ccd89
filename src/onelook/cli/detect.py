"""`onelook detect`: images and videos in, files of detections out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.api import detect as api
from onelook.api.runtime_choice import RuntimeName
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.output import quiet_native_errors
from onelook.cli.terminate import terminate_as_interrupt
from onelook.cli.views.detect import text_of_result
from onelook.errors import UsageError
from onelook.ops.merge import MergeKind
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.runtime import PostprocessKind
from onelook.predict.tiles import MERGE
from onelook.tracking.tracker import ForecastName, TrackerName

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
    format: str | None = None,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    tile_merge: MergeKind = MERGE,
    track: TrackerName | None = None,
    every: int = 1,
    start: str = "0",
    end: str | None = None,
    live: bool = False,
    forecast: ForecastName = "kalman",
    reconnect: float = 60.0,
    show: bool = False,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    threads: int | None = None,
    runtime: RuntimeName = "auto",
    on: str | None = None,
    shard_size: int | None = None,
    classes: str | None = None,
    line_width: int | None = None,
    hide_labels: bool = False,
    crops: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
) -> CommandResult[Any]:
    """Find objects in images, folders, videos, cameras and streams.

    Folders are searched with their subfolders. Damaged files are reported and left out; the exit code is then 1.
    Ctrl-C and SIGTERM end a camera or a stream, and keep what was done. The exit code is 1 where one has ended for
    good. detections.jsonl gets a line for each image as soon as it is done, so that even a run that was killed goes on
    with --resume.

    Examples:
        onelook detect photo.jpg --model yolox-s --weights yolox_s.pth
        onelook detect photos/ "more/*.png" clip.mp4 --model runs/train --out found
        onelook detect 0 --model yolox-nano.onnx --format video
        onelook detect 0 --model yolox-nano.onnx --live --track bytetrack --show
        onelook detect aerial.tif --model yolox-s.onnx --tile 640 --overlap 0.2
        onelook detect clip.mp4 --model yolox-s.onnx --track bytetrack --format video,mot
        onelook detect photos/ --model yolox-s.onnx --out found --shard 1/8 --resume
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
        format: what to write, separated by commas: json, images, coco, yolo, csv, video, mot, crops; json,images,video
            unless given, json,video with --live.
        batch: most images in one run of the network; 1 on a CPU, 8 on a GPU, or what a file has built in,
            unless given.
        tile: cut larger images and frames into square tiles of so many pixels, for objects that are small in them; the
            whole image is looked at, too.
        overlap: share of a tile that neighbours have in common.
        tile_merge: of an object in several tiles, nms keeps the best box, and nmm joins boxes that borders have cut.
        track: follow the objects of videos, with bytetrack or ocsort; confidence then starts a track.
        every: use every second, third, ... frame of videos; what is written keeps the numbers and times of the frames.
        start: time after the first frame of videos from which frames are used: seconds, or h:m:s.
        end: time after the first frame of videos at which no more are used; their end unless given.
        live: use one camera, stream or video in real time: the newest frame first, others dropped and counted; a video
            is played at its own rate. Latencies are shown, and logged in live.jsonl.
        forecast: with --live and --track, how boxes are moved to the moment of display: kalman, linear or none.
        reconnect: with --live, seconds for which a camera or a stream that stalls or ends is opened again; inf is
            without end.
        show: with --live, show the result in a window, where there is a display; q or Escape ends.
        tta: look at every image in three scales, once mirrored (test-time augmentation).
        half: compute in float16; on a GPU only.
        device: cpu, cuda, cuda:1, mps; a GPU where there is one unless given.
        threads: threads of one run on a CPU; unless given, as many as there are free cores, and where others use
            some, the number that is fastest in the first runs.
        runtime: what runs weights on a CPU: torch, onnx (a file that is exported and verified once, and cached beside
            the weights), or auto: onnx where the file is there, or where PyTorch would take a minute or more.
        on: write Parquet shards, of any number of images, with workers on a Ray cluster: ray, ray://HOST:PORT, either
            with settings behind it (ray,workers=8,cpus=2); or local, in this process. The same command continues.
        shard_size: with --on, images in a file; 1000 unless given.
        classes: classes to keep, by name or number, separated by commas; all unless given.
        line_width: width of the drawn boxes in pixels; fits image and object unless given.
        hide_labels: draw boxes without names and scores.
        crops: also write every object as an image of its own (crops/CLASS/NAME-1.jpg).
        resume: continue the run in the folder --out: what it has done is not done again.
        overwrite: write into a folder that holds results already.
        shard: a part of the sources, such as 1/8, which goes to OUT/1-of-8; for several processes or machines.
    """
    given = {name: value for name, value in locals().items() if name != "sources"}
    if not sources:
        remedy = "Name images, folders, globs, videos, camera numbers or stream addresses."
        raise UsageError("No source was given.", remedy)
    if on is not None:
        return _detect_shards(sources, given)
    if shard_size is not None:
        raise UsageError("--shard-size is for the shards that --on writes.", "Leave it away, or give --on.")
    if crops:
        format = f"{format or (api.LIVE_FORMATS if live else api.FORMATS)},crops"
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
            formats=format,
            batch=batch,
            tile=tile,
            overlap=overlap,
            tile_merge=tile_merge,
            track=track,
            every=every,
            start=start,
            end=end,
            live=live,
            forecast=forecast,
            reconnect=reconnect,
            show=show,
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


def _detect_shards(sources: Sequence[str], given: Mapping[str, Any]) -> CommandResult[ShardsResult]:
    """Writes Parquet shards. given: all options; UsageError for one that shards have no use for."""
    from onelook.api.detect_shards import SHARD_SIZE, detect_shards

    taken = inspect.signature(detect_shards).parameters
    options = inspect.signature(detect).parameters
    for name, value in given.items():
        if name not in taken and value != options[name].default:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} cannot be used with --on, which writes Parquet shards.", "Leave it away.")
    if given["out"] is None:
        raise UsageError("--on needs a folder, in which the same command continues.", "Give --out.")
    settings = {name: value for name, value in given.items() if name in taken}
    if settings["shard_size"] is None:
        settings["shard_size"] = SHARD_SIZE
    with quiet_native_errors():
        result = detect_shards(sources=sources, reporter=ConsoleReporter(), **settings)
    return CommandResult(result, exit_code=result.exit_code)
