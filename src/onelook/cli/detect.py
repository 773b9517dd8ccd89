"""`onelook detect`: pictures and videos in, files of detections out."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.cli.checks import check_batch, check_thresholds
from onelook.data.progress import Progress, shown, silent
from onelook.errors import ImageError, UsageError, UserError
from onelook.predict.backends import PostprocessKind, postprocess_of_kind
from onelook.predict.frames import read_frames
from onelook.predict.load import load
from onelook.predict.predictor import Predictor, batches
from onelook.predict.sources import Damage, Framed, Source, find_sources
from onelook.predict.writers import Writers, free_folder, parse_formats

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_FOLDER = "runs/detect"
_SHOWN_CLASSES, _SHOWN_FAILURES = 20, 10


@dataclass
class DetectResult:
    """What was found where, what could not be read, and what was written."""

    folder: Path
    sources: int = 0
    images: int = 0
    frames: int = 0
    detections: int = 0
    per_class: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0, 1 where a source failed, 130 after Ctrl-C."""
        return 130 if self.interrupted else int(bool(self.failures))

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "sources": self.sources,
            "images": self.images,
            "frames": self.frames,
            "detections": self.detections,
            "per_class": dict(self.per_class.most_common()),
            "failures": self.failures,
            "written": [str(path) for path in self.written],
            "seconds": self.seconds,
            "interrupted": self.interrupted,
        }

    def show(self, console: Console) -> None:
        """A table of classes, then what failed and what was written."""
        from rich.table import Table
        from rich.text import Text

        if self.per_class:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("class", no_wrap=True)
            table.add_column("detections", justify="right", no_wrap=True)
            table.add_column("share", justify="right", no_wrap=True)
            common = self.per_class.most_common()
            for name, count in common[:_SHOWN_CLASSES]:
                table.add_row(Text(name), f"{count:,}", f"{count / self.detections:.0%}")
            if rest := sum(count for _, count in common[_SHOWN_CLASSES:]):
                table.add_row(
                    f"{len(common) - _SHOWN_CLASSES} more classes", f"{rest:,}", f"{rest / self.detections:.0%}"
                )
            console.print(table)
        what = [_counted(self.images, "image")] if self.images or not self.frames else []
        what += [_counted(self.frames, "video frame")] if self.frames else []
        done = self.images + self.frames
        rate = f", {done / self.seconds:.1f} a second" if done and self.seconds else ""
        console.print(
            f"{'Interrupted: ' if self.interrupted else ''}{_counted(self.detections, 'detection')} in "
            f"{' and '.join(what)}; {self.seconds:.1f} s{rate}."
        )
        if self.failures:
            console.print(f"{_counted(len(self.failures), 'source')} could not be read:", style="bold red")
            for failure in self.failures[:_SHOWN_FAILURES]:
                console.print(Text(f"  {failure['message']}"), soft_wrap=True)
            if more := len(self.failures) - _SHOWN_FAILURES:
                console.print(f"  and {more} more (--json has them all)") if more > 0 else None
        for path in self.written:
            console.print(Text(f"wrote {path}{os.sep if path.is_dir() else ''}"), soft_wrap=True)


def detect(
    *sources: str,
    model: str,
    weights: Path | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    agnostic: bool = False,
    select: PostprocessKind | None = None,
    size: int | None = None,
    out: Path | None = None,
    format: str = "json,images,video",
    batch: int | None = None,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
) -> DetectResult:
    """Find objects in images, folders, videos, cameras and streams.

    Folders are searched with their subfolders. Damaged files are reported and left out; the exit code is then 1.
    Ctrl-C ends a camera or a stream, and keeps what was done.

    Examples:
        onelook detect photo.jpg --model yolox-s --weights yolox_s.pth
        onelook detect photos/ "more/*.png" clip.mp4 --model runs/train --out found
        onelook detect 0 --model yolox-nano.onnx --format video

    Args:
        sources: images, folders, globs, .txt lists, videos, camera numbers, stream addresses.
        model: a model's name (see `onelook models`), a weights or exported file, or the folder of a run.
        weights: weights for a model given by name.
        confidence: least score of a detection.
        iou: boxes of one class that overlap a better one by more are dropped.
        agnostic: let boxes of different classes suppress each other, as the official YOLOX demos do.
        select: how boxes become detections: nms, diou, soft or best, as in `onelook val`.
        size: side of the network's input; what the weights were made for unless given.
        out: folder to write to; runs/detect, runs/detect-2, ... unless given.
        format: what to write, separated by commas: json, images, coco, yolo, csv, video.
        batch: most pictures in one run of the network; 1 on a CPU, 8 on a GPU unless given.
        tta: look at every picture in three scales, once mirrored (test-time augmentation).
        half: compute in float16; on a GPU only.
        device: cpu, cuda, cuda:1, mps; a GPU where there is one unless given.

    Returns:
        Counts, failures, and the files that were written.
    """
    formats = parse_formats(format)
    if not sources:
        remedy = "Name images, folders, globs, videos, camera numbers or stream addresses."
        raise UsageError("No source was given.", remedy)
    check_thresholds(confidence, iou)
    check_batch(1 if batch is None else batch)
    with _quiet_native_errors():
        found = find_sources(sources, leave_out=out)
        _check_alone(found)
        predictor = load(model, weights, device, size, tta=tta, half=half)
        predictor.batch = batch or predictor.batch
        if select is not None:
            predictor.select = postprocess_of_kind(select, predictor.select)
        predictor.select = predictor.settings(confidence, iou, agnostic or None)
        folder = out if out is not None else next(path for path in free_folder(DEFAULT_FOLDER) if not path.exists())
        return _run(predictor, found, folder, formats)


def _check_alone(found: list[Source]) -> None:
    """Before the model is loaded: nothing to do is an error, not an empty result."""
    missing = [source for source in found if source.error is not None]
    if len(missing) == len(found) and missing[0].error is not None:
        raise missing[0].error


def _run(predictor: Predictor, found: list[Source], folder: Path, formats: tuple[str, ...]) -> DetectResult:
    result = DetectResult(folder, sources=len(found))
    start = time.perf_counter()
    live = any(source.kind == "live" for source in found)
    with Writers(folder, formats, predictor.class_names) as writers:
        frames = read_frames(found, predictor.frame, predictor.size, keep=writers.keeps_images)
        groups = batches(frames, 1 if live else predictor.batch)  # a camera's picture waits for no other
        try:
            with contextlib.closing(groups), shown("detecting") as progress:
                places = {source.name: number for number, source in enumerate(found)}
                for items in groups:
                    _write(predictor, items, writers, result)
                    _report(silent if live else progress, items[-1], places)
        except KeyboardInterrupt:
            result.interrupted = True
        if not (result.images or result.frames or result.interrupted):
            raise _nothing(result.failures)
    result.written = writers.written
    result.seconds = time.perf_counter() - start
    return result


def _nothing(failures: list[dict[str, str]]) -> UserError:
    """What a run without a single picture ends in."""
    first = failures[0]
    if len(failures) == 1:
        return ImageError(first["message"], first["remedy"])
    return ImageError(
        f"None of the {len(failures)} sources can be read. The first: {first['message']}", first["remedy"]
    )


def _write(predictor: Predictor, items: list[Framed | Damage], writers: Writers, result: DetectResult) -> None:
    """One batch through the network and into the files."""
    framed = [item for item in items if isinstance(item, Framed)]
    pixels, placements = [item.pixels for item in framed], [item.placement for item in framed]
    outputs = iter(predictor.run(pixels, placements, predictor.select))
    for item in items:
        if isinstance(item, Damage):
            error = item.error
            result.failures.append({"source": item.source.path, "message": error.message, "remedy": error.remedy})
            continue
        detections = item.attach(next(outputs))
        writers.add(item, detections)
        result.images += item.frame is None
        result.frames += item.frame is not None
        result.detections += len(detections)
        result.per_class.update(detections.names)


def _report(progress: Progress, item: Framed | Damage, places: dict[str, int]) -> None:
    """How many sources are done; a video counts by its frames."""
    part = 1.0
    if isinstance(item, Framed) and item.video is not None and item.frame is not None:
        part = min(1.0, (item.frame + 1) / max(item.video.frames, item.frame + 1))
    progress(places[item.source.name] + part, len(places))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def _quiet_native_errors() -> Iterator[None]:
    """Keeps image, video and network libraries from writing to standard error; Python's own messages still go there.

    They report by file what this command reports by name, or warn of what nobody asked for.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # a test's or a notebook's stream: libraries write elsewhere
        yield
        return
    sys.stderr.flush()
    kept = os.dup(descriptor)
    silent = os.open(os.devnull, os.O_WRONLY)
    before = sys.stderr
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    os.dup2(silent, descriptor)
    os.close(silent)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(kept, descriptor)
        os.close(kept)
