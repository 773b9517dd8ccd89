"""`onelook.detect`: detections of files, folders, videos and cameras, written to files."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelook.api.checks import check_batch, check_thresholds
from onelook.api.detect_output import check_sources, of_classes, output_folder, parse_shard, selected_labels, shard_of
from onelook.api.live_choice import chosen_live
from onelook.api.open import LoadOptions, Model, PathLike, stamps_of
from onelook.api.runtime_choice import RuntimeName, exported_where_it_pays, open_cached, with_thread_trial
from onelook.config import check_arguments
from onelook.errors import ImageError, UsageError, UserError
from onelook.ops.merge import MergeKind
from onelook.ops.nms import Postprocess
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import PostprocessKind, postprocess_of_kind
from onelook.predict.sources import WHOLE, Excerpt, PreparedImage, Source, UnreadableSource, find_sources
from onelook.predict.tiles import MERGE, Tiles, chosen_tiles
from onelook.predict.track import Result, track_results
from onelook.predict.writers import Start, Writers, parse_formats
from onelook.predict.writers.files import Output
from onelook.reporter import PlainReporter, Progress, Reporter, ignore_progress
from onelook.tracking.tracker import ForecastName, Tracker, TrackerName, named_tracker
from onelook.types import Detections, counted, text_repr

if TYPE_CHECKING:
    from onelook.api.live import LiveOptions, LiveSummary
    from onelook.predict.live import LiveDetections

_PLAYED_LONGER = 1.0  # seconds; less is not worth a note
FORMATS = "json,images,video"
LIVE_FORMATS = "json,video"  # an image of each frame of an endless camera would fill the disk


@dataclass
class DetectResult:
    """Counts of what was detected, what could not be read, and the files that were written.

    folder: where the files are.  sources, images, frames, detections: how many there were; frames are those of videos.
    per_class, best_scores: number of detections and best score, by class.  tracks: the identities of each video's
    objects, by source.  only: the detections of the image, where there was one image alone; None otherwise.
    failures: source, message and remedy of each source that could not be read, or not to its end; that a camera or a
    stream has ended is one.  notes: what else there is to know of a source.  written: files and folders.  seconds: wall
    time without loading the model.  interrupted: whether Ctrl-C ended it.  live: latencies and dropped frames, where a
    source was used in real time.  resumed: images and frames among these that an earlier run had done.  can_resume:
    whether `resume` would do more.
    """

    folder: Path
    sources: int = 0
    images: int = 0
    frames: int = 0
    detections: int = 0
    per_class: Counter[str] = field(default_factory=Counter)
    best_scores: dict[str, float] = field(default_factory=dict)
    tracks: dict[str, set[int]] = field(default_factory=dict)
    only: Detections | None = None
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    live: LiveSummary | None = None
    resumed: int = 0
    can_resume: bool = False

    @property
    def exit_code(self) -> int:
        """0, 1 where a source failed, 130 after Ctrl-C."""
        return 130 if self.interrupted else int(bool(self.failures))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        return {
            "sources": self.sources,
            "images": self.images,
            "frames": self.frames,
            "detections": self.detections,
            "per_class": dict(self.per_class.most_common()),
            "best_scores": dict(self.best_scores),
            **({"tracks": {source: len(found) for source, found in self.tracks.items()}} if self.tracks else {}),
            "failures": self.failures,
            "notes": self.notes,
            "written": [str(path) for path in self.written],
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            **({} if self.live is None else {"live": self.live.to_dict()}),
            "resumed": self.resumed,
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        what = [counted(self.images, "image")] if self.images or not self.frames else []
        what += [counted(self.frames, "video frame")] if self.frames else []
        done = self.images + self.frames - self.resumed
        rate = f", {done / self.seconds:.1f} a second" if done and self.seconds else ""
        start = "Interrupted: " if self.interrupted else ""
        found = counted(self.detections, "detection")
        if self.tracks:
            found += f" of {counted(sum(map(len, self.tracks.values())), 'track')}"
        before = f" ({self.resumed:,} done before)" if self.resumed else ""
        live = "" if self.live is None else f"\n{self.live}"
        return f"{start}{found} in {' and '.join(what)}{before}; {self.seconds:.1f} s{rate}.{live}"


def detect(
    model: Model,
    sources: PathLike | int | Sequence[PathLike | int],
    *,
    weights: PathLike | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    agnostic: bool = False,
    postprocess: PostprocessKind | None = None,
    size: int | tuple[int, int] | None = None,
    out: PathLike | None = None,
    formats: str | Sequence[str] | None = None,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    tile_merge: MergeKind = MERGE,
    track: Tracker | TrackerName | None = None,
    every: int = 1,
    start: float | str = 0.0,
    end: float | str | None = None,
    live: bool = False,
    forecast: ForecastName = "kalman",
    reconnect: float = 60.0,
    show: bool = False,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    threads: int | None = None,
    runtime: RuntimeName = "auto",
    classes: str | Sequence[str | int] | None = None,
    line_width: int | None = None,
    hide_labels: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    shard: str | None = None,
    reporter: Reporter | None = None,
) -> DetectResult:
    """Detects objects in images, folders, videos, cameras and streams, and writes the results to files.

    model: a name, a weights or exported file, the folder of a run, a `Detector` or a loaded detector.  sources: one, or
    a list; numbers are cameras.  postprocess: how boxes become detections ("nms", "diou", "soft", "best"); None is the
    model's own.  out: the folder to write to; None is runs/detect, runs/detect-2 and so on.  formats: any of "json",
    "images", "coco", "yolo", "csv", "video", "mot", "crops"; None is json, images and video, and without images where
    `live`.  batch: most images in one run of the network; None is 1 on a CPU, 8 on a GPU, or what a file has built in.
    tile, overlap, tile_merge: how larger images and frames are cut, as in `onelook.load(...).detect`.  track: follow
    the objects of videos, by "bytetrack" or "ocsort"; `confidence` is then the least score that starts a track.  every,
    start, end: use every `every`th frame of videos, from `start` up to `end`, in seconds or as a text "h:m:s".  live:
    use one camera, stream or file in real time: the newest frame first, others dropped and counted.  forecast: how the
    boxes of tracked objects are then moved to the moment of display ("linear", "kalman", "none").  reconnect: for how
    many seconds a camera or a stream that stalls is opened again.  show: in a window.
    runtime: what runs weights on a CPU. "torch" is PyTorch. "onnx" is ONNX Runtime, with a file that is exported and
    verified once, and cached beside the weights. "auto" runs that file where there is one, and makes it where PyTorch
    would take a minute or more for all images; the export is stopped after half of that time.
    classes: names or numbers of the classes to keep; a text is separated by commas.  line_width, hide_labels: how boxes
    are drawn; a width of None fits image and object.  resume: continue the run in `out`, with the settings that it had:
    what is done is not done again.  overwrite: write into a folder that holds results already, which is a UsageError
    otherwise.  shard: "1/8" takes the first of eight disjoint parts of the sources, and writes to OUT/1-of-8.

    Besides the formats, `detections.jsonl` gets a line for each image and frame as soon as it is done, and for each
    source that could not be read. It survives the end of the process, whatever ends it.

    The other settings are those of `onelook.load`. Damaged files are reported in the result and left out. Ctrl-C ends
    the work and keeps what was done. For detections as values see `onelook.load(...).detect` and `.stream`.
    """
    arguments = dict(locals())
    check_arguments(detect, arguments)
    formats = (LIVE_FORMATS if live else FORMATS) if formats is None else formats
    names = parse_formats(formats if isinstance(formats, str) else ",".join(formats))
    excerpt = Excerpt.of(every, start, end)
    how_live = (forecast, reconnect, show)
    real_time = chosen_live(live, how_live, tracked=track is not None, every=every, batch=batch)
    tiles = chosen_tiles(tile, overlap, tile_merge)
    part = parse_shard(shard)
    folder = output_folder(out, part, resume=resume, overwrite=overwrite)
    given = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
    _check_numbers(arguments, names)
    listed = find_sources([str(one) if isinstance(one, int) else os.fspath(one) for one in given], leave_out=out)
    found = shard_of(listed, part)
    check_sources(found, resume, live)
    options = LoadOptions(weights=weights, device=device, size=size, tta=tta, half=half, threads=threads)
    shown = reporter or PlainReporter()
    opened = open_cached(model, options, runtime, shown)
    images = partial(_count_images, found, excerpt)
    opened = exported_where_it_pays(opened, options, runtime, shown, images=images, batch=batch or opened.batch)
    predictor = Predictor(opened.runtime, opened.frame, opened.postprocess, batch=batch or opened.batch)
    if postprocess is not None:
        predictor.postprocess = postprocess_of_kind(postprocess, predictor.postprocess)
    tracker = None if track is None else named_tracker(track, confidence)
    has_frames = any(source.kind in ("video", "live") for source in found)
    if not has_frames:
        tracker = None  # whose lower threshold is not for images
    settings = predictor.settings(confidence if tracker is None else tracker.detects_from(), iou, agnostic or None)
    result = DetectResult(folder, len(found))
    labels = None if classes is None else selected_labels(classes, predictor.class_names)
    record = _record(arguments, names, excerpt, labels)
    output = Output(folder, names, predictor.class_names, track is not None, line_width, not hide_labels, not live)
    begun = time.perf_counter()
    with (
        Writers(output, Start(record, resume, overwrite)) as writers,
        shown.progress("detecting") as progress,
        with_thread_trial(opened.runtime, model, threads, shown) as predictor.runtime,
    ):
        for item, detections in writers.restore(found):
            _count(result, item, detections)
        result.resumed = result.images + result.frames
        if real_time is None:
            how = (settings, tracker, confidence, excerpt, tiles, labels)
            _detect(predictor, writers.left(found), how, result, (writers, progress))
        else:
            live_how = (settings, tracker, excerpt, tiles, real_time)
            _detect_live(predictor, found[0], live_how, result, (writers, shown, progress, labels))
    result.written = [*writers.written, *(() if result.live is None or result.live.log is None else (result.live.log,))]
    result.notes += writers.notes if has_frames else _of_no_use(names, excerpt, tracked=track is not None)
    result.seconds = time.perf_counter() - begun
    return result


def _count_images(sources: Sequence[Source], excerpt: Excerpt) -> int:
    """About how many images and frames the sources have."""
    from onelook.predict.video import count_images  # with the readers of videos, which images do without

    return count_images(sources, excerpt)


def _of_no_use(names: Sequence[str], excerpt: Excerpt, *, tracked: bool) -> list[str]:
    """Notes of the settings that change nothing where all sources are images. names: of the formats."""
    unused = {
        "Nothing was tracked: only videos, cameras and streams are": tracked,
        "'every', 'start' and 'end' changed nothing: they are for videos": excerpt != WHOLE,
        f"Nothing was written: the format {' and '.join(names)} is for videos": set(names) <= {"video", "mot"},
    }
    return [f"{what}, and no source is one." for what, is_so in unused.items() if is_so]


_OF_RESULTS = (
    *("confidence", "iou", "agnostic", "postprocess", "size", "tta", "half", "tile", "overlap", "tile_merge"),
    *("line_width", "hide_labels", "shard", "live"),
)


def _record(
    arguments: Mapping[str, Any], names: Sequence[str], excerpt: Excerpt, labels: np.ndarray | None
) -> dict[str, Any]:
    """The settings that a resumed run must share, as plain data; others change no result."""
    model, track = arguments["model"], arguments["track"]
    return {
        "model": os.fspath(model) if isinstance(model, str | os.PathLike) else "in memory",
        "weights": [[os.path.basename(file), *stamp] for file, *stamp in stamps_of(model, arguments["weights"])],
        **{name: arguments[name] for name in _OF_RESULTS},
        **{"classes": None if labels is None else labels.tolist(), "format": list(names)},
        **{"track": None if track is None else str(track)},
        **{"every": excerpt.every, "start": float(excerpt.start), "end": excerpt.end},
    }


def _check_numbers(arguments: Mapping[str, Any], names: Sequence[str]) -> None:
    """UsageError for arguments out of range, and for a format of tracks without any."""
    if "mot" in names and arguments["track"] is None:
        raise UsageError("The format 'mot' is for tracks.", "Track the objects: --track bytetrack.")
    check_thresholds(arguments["confidence"], arguments["iou"])
    check_batch(1 if arguments["batch"] is None else arguments["batch"])
    width = arguments["line_width"]
    if width is not None and not 1 <= width <= 1000:
        raise UsageError(f"line_width is {width}.", "Give a number of pixels from 1 on.")


def _detect(
    predictor: Predictor,
    sources: Sequence[Source],
    how: tuple[Postprocess, Tracker | None, float, Excerpt, Tiles | None, np.ndarray | None],
    result: DetectResult,
    to: tuple[Writers, Progress],
) -> None:
    """Detects in every source; fills the result."""
    (postprocess, tracker, confidence, excerpt, tiles, labels), (writers, progress) = how, to
    if any(source.kind == "live" for source in sources):
        progress = ignore_progress
    places = {source.name: number for number, source in enumerate(sources)}

    def report_tiles(item: PreparedImage, share: float) -> None:
        if item.frame is None:
            progress(places[item.source.name] + share, len(places))

    try:
        keep = writers.keeps_images
        found: Generator[Result, None, None] = predictor.stream_sources(
            sources, postprocess, keep_images=keep, excerpt=excerpt, tiles=tiles, report=report_tiles
        )
        found = found if labels is None else of_classes(found, labels)
        with closing(found if tracker is None else track_results(found, tracker, confidence)) as results:
            for item, detections in results:
                _add(result, item, detections, writers)
                _report(progress, item, places)
    except KeyboardInterrupt:
        result.interrupted = True
    if not (result.images or result.frames or result.interrupted):
        raise _no_image_error(result.failures)
    if not result.interrupted:
        writers.finish()
    result.can_resume = result.interrupted and all(source.kind != "live" for source in sources)


def _detect_live(
    predictor: Predictor,
    source: Source,
    how: tuple[Postprocess, Tracker | None, Excerpt, Tiles | None, LiveOptions],
    result: DetectResult,
    to: tuple[Writers, Reporter, Progress, np.ndarray | None],
) -> None:
    """Detects in a source in real time; fills the result."""
    from onelook.api.live import run_live

    writers, reporter, progress, labels = to

    def add(item: PreparedImage, found: LiveDetections) -> None:
        kept = found.detections
        _add(result, item, kept if labels is None else kept[np.isin(kept.labels, labels)], writers)

    result.live, ended = run_live(
        predictor, source, how, add, (result.folder, writers.keeps_images, reporter, progress)
    )
    result.interrupted = isinstance(ended, KeyboardInterrupt)
    if isinstance(ended, ImageError):
        if not result.frames:
            raise ended
        _add(result, UnreadableSource(source, ended), None, writers)
    longer = result.live.played_longer
    if longer > _PLAYED_LONGER:
        result.notes.append(
            f"'{source.path}' could not be decoded at its own rate: it was played {longer:.1f} s longer."
        )


def _add(
    result: DetectResult, item: PreparedImage | UnreadableSource, detections: Detections | None, writers: Writers
) -> None:
    """Counts one image and writes its detections, or records why it cannot be read."""
    if isinstance(item, UnreadableSource) and not item.is_error:
        result.notes.append(item.error.message)
    elif isinstance(item, UnreadableSource):
        error = item.error
        writers.add_failure(item)
        result.failures.append({"source": item.source.path, "message": error.message, "remedy": error.remedy})
    elif detections is not None:
        writers.add(item, detections)
        _count(result, item, detections)


def _count(result: DetectResult, item: PreparedImage, detections: Detections) -> None:
    """Adds one image to the counts."""
    result.images += item.frame is None
    result.frames += item.frame is not None
    result.detections += len(detections)
    result.only = replace(detections, image=None) if (result.images, result.frames) == (1, 0) else None
    names = detections.names
    result.per_class.update(names)
    if detections.tracks is not None:
        result.tracks.setdefault(item.source.path, set()).update(detections.tracks.tolist())
    for name, score in zip(names, detections.scores.tolist()):
        result.best_scores[name] = max(score, result.best_scores.get(name, 0.0))


def _no_image_error(failures: Sequence[dict[str, str]]) -> UserError:
    """The error where no image could be read."""
    first = failures[0]
    if len(failures) == 1:
        return ImageError(first["message"], first["remedy"])
    return ImageError(
        f"None of the {len(failures)} sources can be read. The first: {first['message']}", first["remedy"]
    )


def _report(progress: Progress, item: PreparedImage | UnreadableSource, places: dict[str, int]) -> None:
    """Reports the number of finished sources; a video counts by its frames."""
    part = 1.0
    if isinstance(item, PreparedImage) and item.video is not None and item.frame is not None:
        part = min(1.0, (item.frame + 1) / max(item.video.frames, item.frame + 1))
    progress(places[item.source.name] + part, len(places))
