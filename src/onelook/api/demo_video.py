"""`onelook demo --video`: a training on drawn images, then tracking and streaming AP on a drawn video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from onelook import run_files
from onelook.api.demo import (
    CLASSES,
    DIFFICULTY,
    EPOCHS,
    IMAGES,
    SIZE,
    demo_choice,
    demo_scenes,
    finished_demo,
    input_side,
    train_demo,
)
from onelook.api.detect import detect
from onelook.api.open import PathLike
from onelook.api.score import score_tracks
from onelook.config import check_arguments
from onelook.data.synthetic import write_synthetic
from onelook.data.synthetic_video import demo_clip, write_clips
from onelook.evaluation.tracks import TrackEvaluation
from onelook.report.build import read_metrics
from onelook.report.clip import check_webm, write_webm
from onelook.report.streaming import Streaming
from onelook.report.video_demo import VideoReport, write_video_report
from onelook.reporter import PlainReporter, Reporter
from onelook.tracking.tracker import TrackerName
from onelook.types import text_repr

CLIP = "demo"
TRACKER: TrackerName = "bytetrack"
CONFIDENCE = 0.4
SLOW_MS = 80.0  # of a frame on the slower machine that is simulated: two and a half frames of the clip pass meanwhile
# Objects of the clip have 64 to 76 pixels of 480: at this width they are as large as in the training's inputs.
WIDTH = 2.0  # of the network's input for the clip, in sides of its input in training


@dataclass(frozen=True)
class VideoDemo:
    """The demo's results.

    seconds: of each stage.  tracks: of the clip.  streaming, slower: streaming AP on this machine and on a slower one.
    """

    folder: Path
    seconds: dict[str, float]
    tracks: TrackEvaluation
    streaming: Streaming
    slower: Streaming
    paths: dict[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "seconds": self.seconds,
            "tracks": self.tracks.to_dict(),
            "streaming": self.streaming.to_dict(),
            "slower": self.slower.to_dict(),
            "paths": {name: str(path) for name, path in self.paths.items()},
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        best = self.streaming.best
        figures = (
            f"HOTA {self.tracks.metrics['HOTA']:.3f}, sAP {best.streaming['AP']:.3f} (AP {best.offline['AP']:.3f})"
        )
        return "\n".join([f"{figures}, in {sum(self.seconds.values()):.0f} s.", *map(str, self.paths.values())])


def demo_video(
    out: PathLike = "runs/demo-video",
    *,
    model: str = "yolox-nano",
    epochs: int = EPOCHS,
    size: int = SIZE,
    images: int = IMAGES,
    difficulty: float = DIFFICULTY,
    classes: int = CLASSES,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> VideoDemo:
    """Trains a small detector on drawn images, and tracks moving objects with it in a video that is drawn as well.

    Draws labelled images and a video of eight seconds whose objects cross each other and pass behind a wall; trains as
    `onelook.demo` does, with the same settings; tracks the video with ByteTrack, compares the tracks with the exact
    identities (HOTA, IDF1, MOTA), and measures streaming AP with the run times of this machine and of a slower one.
    `report.html` has the numbers, and the video with boxes, identities and trails inside.

    Ctrl-C stops it with KeyboardInterrupt, and the same call continues. UserError where the folder holds a finished
    demo, and where videos for browsers cannot be written here.
    """
    check_arguments(demo_video, locals())
    from onelook.api.load import load  # here, because showing the options needs no torch

    scenes, counts = demo_scenes(size, images, difficulty, classes, seed)
    reporter = PlainReporter() if reporter is None else reporter
    out = Path(out)
    report, run, clips = out / "report.html", out / "run", out / "clips"
    if report.exists():
        raise finished_demo(out)
    check_webm()
    side = input_side(size)
    choice = demo_choice(model, epochs, side, seed)
    seconds: dict[str, float] = {}
    clock = perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        seconds[stage], clock = perf_counter() - clock, perf_counter()

    data = write_synthetic(out / "data", scenes, counts)
    if not clips.exists():
        write_clips(clips, {CLIP: demo_clip(scenes.names, seed)})
    done("draw")
    weights = train_demo(choice, data, run, reporter).weights
    done("train")
    detector = load(weights, size=_clip_input(side))
    tracked = detect(
        detector,
        clips / "videos" / f"{CLIP}.mp4",
        out=out / "tracks",
        track=TRACKER,
        confidence=CONFIDENCE,
        formats="json,mot,video",
        overwrite=True,
        reporter=reporter,
    )
    tracks = score_tracks(clips / "tracks", tracked.folder / "tracks")
    done("track")
    streaming, slower = _streamed({model: detector}, clips, out / "streaming", reporter)
    done("measure streaming AP")
    clip = write_webm(tracked.folder / "videos" / f"{CLIP}.mp4", out / "clip.webm")
    facts = {
        "detector": f"{model}, trained for {epochs} epochs on {images} drawn images",
        "tracker": f"{TRACKER}; tracks start at confidence {CONFIDENCE:g}",
        **streaming.facts,
        "time": ", ".join(f"{stage} {taken:.0f} s" for stage, taken in seconds.items()),
    }
    history = read_metrics(run / run_files.METRICS)
    page = VideoReport(f"{model} on a drawn video", clip, tracks, streaming, slower, history, facts)
    paths = {
        "report": write_video_report(report, page),
        "clip": clip,
        "tracks": tracked.folder,
        "streaming": out / "streaming",
        "weights": weights,
        "training": run / run_files.REPORT,
        "data": data,
    }
    return VideoDemo(out, seconds, tracks, streaming, slower, paths)


def _clip_input(side: int) -> tuple[int, int]:
    """(height, width) of the network's input for the clip, multiples of 32 that hold its 3:4 frames."""
    width = max(32, round(WIDTH * side / 32) * 32)
    return -(-width * 3 // 4 // 32) * 32, width


def _streamed(models: Mapping[str, Any], clips: Path, folder: Path, reporter: Reporter) -> tuple[Streaming, Streaming]:
    """Streaming AP with the run times measured here, and with the same as long as on the slower machine."""
    from onelook.api.stream import RUN_TIMES, stream

    here = stream(models, clips, out=folder, reporter=reporter)
    speed = min(1.0, here.models[0].milliseconds["mean"] / SLOW_MS)
    return here, stream(
        models, clips, run_times=folder / RUN_TIMES, speed=speed, out=folder / "slower", reporter=reporter
    )
