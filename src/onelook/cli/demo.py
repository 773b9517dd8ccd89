"""`onelook demo`: a whole training with synthetic data."""

from __future__ import annotations

from pathlib import Path

from onelook.api import demo as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.demo import show_demo


def demo(
    *,
    out: Path = Path("runs/demo"),
    model: str = "yolox-nano",
    epochs: int = api.EPOCHS,
    size: int = api.SIZE,
    images: int = api.IMAGES,
    difficulty: float = api.DIFFICULTY,
    classes: int = api.CLASSES,
    seed: int = 0,
    data_only: Path | None = None,
) -> CommandResult[api.Demo] | CommandResult[api.DrawnData]:
    """Train, validate, detect and export, on images that the program draws itself.

    Draws labelled images, trains a small detector on them from scratch, validates it, detects, exports the detector,
    validates the exported file, and writes a report. Takes some minutes on two cores.

    Examples:
        onelook demo
        onelook demo --out runs/demo --epochs 100
        onelook demo --data-only scenes --images 2000 --size 320 --difficulty 0.6

    Args:
        out: Folder for everything the demo makes; a demo that was stopped in it is continued, a finished one stays.
        model: Name of the model.
        epochs: Passes over the images.
        size: Side of the images, a multiple of 32; the network sees them at three fifths of it.
        images: Images to train on; a quarter as many are kept for validation.
        difficulty: Of the images, 0 to 1: how much clutter, hiding, noise and odd light there is in them.
        classes: Kinds of things in the images.
        seed: Of the images and of the training.
        data_only: Draw the data set into this folder and do nothing else; it is a COCO data set like any other.
    """
    if data_only is not None:
        drawn = api.draw_data(data_only, size=size, images=images, difficulty=difficulty, classes=classes, seed=seed)
        return CommandResult(drawn)
    made = api.demo(
        out,
        model=model,
        epochs=epochs,
        size=size,
        images=images,
        difficulty=difficulty,
        classes=classes,
        seed=seed,
        reporter=ConsoleReporter(),
    )
    return CommandResult(made, show_demo)
