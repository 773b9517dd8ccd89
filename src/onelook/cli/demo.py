"""`onelook demo`: the whole main job, with nothing but the package."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from onelook.api.detect import detect
from onelook.api.export import export
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.train import train
from onelook.api.validate import validate
from onelook.cli.console_reporter import ConsoleReporter
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError, UserError

if TYPE_CHECKING:
    from rich.console import Console

PICTURES = 6
# Few thousand steps from scratch are few: a higher rate, an average with a shorter memory, and pictures near their own
# scale and seldom in a mosaic teach more in them than the published settings, made for a hundred times as many. At this
# rate a batch now and then has a gradient of a hundred times the usual norm (4 to 9), which undoes some epochs.
SHORT = (
    "optimizer.lr_per_image=0.0025",
    "clip=15",
    "ema.decay=0.998",
    "ema.warmup=200",
    "multiscale=none",
    "augment.mosaic=0.1",
    "augment.affine.scale=(0.7,1.3)",
    "evaluate_every=10",
)
BATCH = 8
CLASSES = 3  # a detector of few things can be had in minutes
INPUT = 0.6  # side of the network's input, of a picture's: things are large, and twice as many epochs fit into the time


@dataclass(frozen=True)
class Demo:
    """What the demo made. seconds: of each stage.  stats: of the trained model.  exported: of the exported file."""

    folder: Path
    seconds: dict[str, float]
    stats: dict[str, float]
    exported: dict[str, float]
    paths: dict[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        paths = {name: str(path) for name, path in self.paths.items()}
        return {"seconds": self.seconds, "stats": self.stats, "exported_stats": self.exported, "paths": paths}

    def show(self, console: Console) -> None:
        """Prints the stages, the numbers, and where everything is."""
        from rich.table import Table
        from rich.text import Text

        stages = Table(box=None, header_style="bold", pad_edge=False)
        for column, side in (("stage", "left"), ("seconds", "right"), ("what came of it", "left")):
            stages.add_column(column, justify=side)  # type: ignore[arg-type]
        said = {
            "train": f"AP {self.stats['AP']:.3f}, AP50 {self.stats['AP50']:.3f} on images it has not seen",
            "validate": f"the exported file has AP {self.exported['AP']:.3f}, AP50 {self.exported['AP50']:.3f}",
        }
        for stage, seconds in self.seconds.items():
            stages.add_row(stage, f"{seconds:.1f}", said.get(stage, ""))
        console.print(stages)
        places = Table(box=None, show_header=False, pad_edge=False)
        for name, path in self.paths.items():
            places.add_row(name, Text(str(path)), style=None)
        console.print()
        console.print(places, soft_wrap=True)


@dataclass(frozen=True)
class DrawnData:
    """A data set that was drawn and nothing else. pictures: of each split."""

    folder: Path
    names: tuple[str, ...]
    pictures: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"folder": str(self.folder), "classes": list(self.names), "pictures": self.pictures}

    def show(self, console: Console) -> None:
        """Prints what there is and where."""
        counts = ", ".join(f"{count} {split}" for split, count in self.pictures.items())
        text = f"{self.folder}: {counts} pictures of {', '.join(self.names)}, in COCO's format."
        console.print(text, soft_wrap=True, markup=False)


def _input_side(picture: int) -> int:
    """The multiple of 32 nearest to three fifths of a picture's side."""
    return max(32, round(picture * INPUT / 32) * 32)


def demo(
    *,
    out: Path = Path("runs/demo"),
    model: str = "yolox-nano",
    epochs: int = 50,
    size: int = 160,
    images: int = 480,
    difficulty: float = 0.2,
    classes: int = CLASSES,
    seed: int = 0,
    data_only: Path | None = None,
) -> Demo | DrawnData:
    """Run the whole main job on a data set that the program draws itself.

    Draws labelled pictures, trains a small detector on them from scratch, validates it, detects, exports the detector,
    validates the exported file, and writes a report. Takes some minutes on two cores.

    Examples:
        onelook demo
        onelook demo --out runs/demo --epochs 100
        onelook demo --data-only scenes --images 2000 --size 320 --difficulty 0.6

    Args:
        out: Folder for everything the demo makes; a demo that was stopped in it goes on, a finished one stays.
        model: Name of the model.
        epochs: Passes over the pictures.
        size: Side of the pictures, a multiple of 32; the network sees them at three fifths of it.
        images: Pictures to train on; a quarter as many are kept for validation.
        difficulty: Of the pictures, 0 to 1: how much clutter, hiding, noise and odd light there is in them.
        classes: Kinds of things in the pictures.
        seed: Of the pictures and of the training.
        data_only: Draw the data set into this folder and do nothing else; it is a COCO data set like any other.
    """
    scenes, counts = _asked(size, images, difficulty, classes, seed)
    if data_only is not None:
        return DrawnData(write_synthetic(data_only, scenes, counts), scenes.names, counts)
    run, exported = out / "run", out / "detector.onnx"
    if exported.exists():
        raise UserError(f"{out} holds a finished demo already.", "Remove the folder, or choose another with --out.")
    seconds: dict[str, float] = {}
    clock = perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        seconds[stage], clock = perf_counter() - clock, perf_counter()

    data = write_synthetic(out / "data", scenes, counts)
    done("draw the data")
    settings = (*SHORT, f"seed={seed}")
    # The network is so small that threads which wait for each other would take the loader's time.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        trained = train(
            RecipeChoice(model=model, epochs=epochs, size=_input_side(size), batch=BATCH, overrides=settings),
            data,
            out=run,
            resume=(run / "state.pt").exists(),
            reporter=ConsoleReporter(),
        )
    finally:
        torch.set_num_threads(threads)
    if trained.reason == "interrupted":
        print("The same onelook demo again goes on from there, and makes the rest.", file=sys.stderr)
        raise KeyboardInterrupt
    done("train")
    weights = run / "best.safetensors"
    stats = validate(weights, data).stats
    detect(weights, data / "new", out=out / "detections", formats="json,images")
    done("detect")
    export(weights, nms=True, out=exported)
    done("export")
    exported_stats = validate(exported, data).stats
    done("validate")
    paths = {
        "report": run / "report.html",
        "weights": weights,
        "exported": exported,
        "pictures": out / "detections",
        "data": data,
    }
    return Demo(out, seconds, stats, exported_stats, paths)


def _asked(size: int, images: int, difficulty: float, classes: int, seed: int) -> tuple[Scenes, dict[str, int]]:
    """The scenes that the options describe, and the pictures of each split; UsageError where there can be none."""
    if images < 1 or seed < 0:
        raise UsageError("--images is at least 1, and --seed at least 0.")
    try:
        scenes = Scenes((size, size), (1, 4), (0.2, 0.6), difficulty, classes=classes, seed=seed)
    except ValueError as error:
        raise UsageError(f"Such pictures cannot be drawn: {error}.", "See: onelook demo --help") from None
    return scenes, {"train": images, "val": max(1, images // 4), "new": PICTURES}
