"""`onelook demo`: a whole training with synthetic data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onelook.api import demo as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.output import quiet_native_errors
from onelook.cli.views.demo import show_demo, show_video_demo


def demo(
    *,
    out: Path | None = None,
    model: str = "yolox-nano",
    epochs: int = api.EPOCHS,
    size: int = api.SIZE,
    images: int = api.IMAGES,
    difficulty: float = api.DIFFICULTY,
    classes: int = api.CLASSES,
    seed: int = 0,
    video: bool = False,
    data_only: Path | None = None,
) -> CommandResult[Any]:
    """Train, validate, detect and export, on images that the program draws itself.

    Draws labelled images, trains a small detector on them from scratch, validates it, detects, exports the detector,
    validates the exported file, and writes a report. Takes some minutes on two cores.

    With --video, draws a video of moving objects as well, tracks them with the trained detector, measures tracks and
    streaming AP, and writes a report with the video inside. Some minutes, too.

    Examples:
        onelook demo
        onelook demo --out runs/demo --epochs 100
        onelook demo --video
        onelook demo --data-only scenes --images 2000 --size 320 --difficulty 0.6

    Args:
        out: Folder for everything the demo makes, runs/demo or runs/demo-video unless given; a demo that was stopped in
            it is continued, a finished one stays.
        model: Name of the model.
        epochs: Passes over the images.
        size: Side of the images in pixels, 32 to 4096; the network sees them at three fifths of it.
        images: Images to train on; a quarter as many are kept for validation.
        difficulty: Of the images, 0 to 1: how much clutter, hiding, noise and odd light there is in them.
        classes: Kinds of things in the images.
        seed: Of the images and of the training.
        video: Track and stream a drawn video, instead of exporting.
        data_only: Draw the data set into this folder and do nothing else; it is a COCO data set like any other.
    """
    if data_only is not None:
        drawn = api.draw_data(data_only, size=size, images=images, difficulty=difficulty, classes=classes, seed=seed)
        return CommandResult(drawn)
    settings: dict[str, Any] = {
        "model": model,
        "epochs": epochs,
        "size": size,
        "images": images,
        "difficulty": difficulty,
        "classes": classes,
        "seed": seed,
    }
    if video:
        from onelook.api.demo_video import demo_video  # here, because it imports what makes reports

        with quiet_native_errors():
            filmed = demo_video(out or "runs/demo-video", **settings, reporter=ConsoleReporter())
        return CommandResult(filmed, show_video_demo)
    return CommandResult(api.demo(out or "runs/demo", **settings, reporter=ConsoleReporter()), show_demo)
