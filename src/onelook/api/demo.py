"""`onelook demo`: a whole training with synthetic data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onelook import run_files
from onelook.api.detect import detect
from onelook.api.open import PathLike
from onelook.api.validate import validate
from onelook.config import check_arguments
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError, UserError
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

if TYPE_CHECKING:
    from onelook.api.load import TrainResult
    from onelook.api.recipe_choice import RecipeChoice

NEW_IMAGES = 6
# Few thousand steps from scratch are few: a higher rate, an average with a shorter memory, and images near their own
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
SIZE, IMAGES, DIFFICULTY, EPOCHS = 160, 480, 0.2, 50
CLASSES = 3  # a detector of few things can be had in minutes
INPUT = 0.6  # side of the network's input, of an image's: things are large, and twice as many epochs fit into the time


@dataclass(frozen=True)
class Demo:
    """The demo's results. seconds: of each stage.  stats: of the trained model.  exported: of the exported file."""

    folder: Path
    seconds: dict[str, float]
    stats: dict[str, float]
    exported: dict[str, float]
    paths: dict[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        paths = {name: str(path) for name, path in self.paths.items()}
        return {"seconds": self.seconds, "stats": self.stats, "exported_stats": self.exported, "paths": paths}

    __repr__ = text_repr

    def __str__(self) -> str:
        trained = f"AP {self.stats['AP']:.3f}, as an exported file {self.exported['AP']:.3f}"
        return "\n".join([f"{trained}, in {sum(self.seconds.values()):.0f} s.", *map(str, self.paths.values())])


@dataclass(frozen=True)
class DrawnData:
    """A data set of drawn images. images: how many in each split."""

    folder: Path
    names: tuple[str, ...]
    images: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {"folder": str(self.folder), "classes": list(self.names), "images": self.images}

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.images.items())
        return f"{self.folder}: {counts} images of {', '.join(self.names)}, in COCO's format."


def input_side(image: int) -> int:
    """The multiple of 32 nearest to three fifths of an image's side."""
    return max(32, round(image * INPUT / 32) * 32)


def draw_data(
    out: PathLike,
    *,
    size: int = SIZE,
    images: int = IMAGES,
    difficulty: float = DIFFICULTY,
    classes: int = CLASSES,
    seed: int = 0,
) -> DrawnData:
    """Draws the data set of the demo into a folder, in COCO's format; the settings are those of `demo`."""
    check_arguments(draw_data, locals())
    scenes, counts = demo_scenes(size, images, difficulty, classes, seed)
    return DrawnData(write_synthetic(Path(out), scenes, counts), scenes.names, counts)


def demo(
    out: PathLike = "runs/demo",
    *,
    model: str = "yolox-nano",
    epochs: int = EPOCHS,
    size: int = SIZE,
    images: int = IMAGES,
    difficulty: float = DIFFICULTY,
    classes: int = CLASSES,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Demo:
    """Trains, validates, detects and exports, on images that the program draws itself.

    Draws labelled images, trains a small detector on them from scratch, validates it, detects, exports the detector,
    validates the exported file, and writes a report.

    out: folder for everything that is made; a demo that was stopped in it is continued.  model: name of the model.
    epochs: passes over the images.  size: side of the images in pixels, 32 to 4096; the network sees them at three
    fifths of it.  images: to train on; a quarter as many are kept for validation.  difficulty: of the images, 0 to 1:
    how much clutter, hiding, noise and odd light there is in them.  classes: kinds of things in the images.  seed: of
    the images and of the training.

    Ctrl-C stops the training between two steps, with KeyboardInterrupt. UserError where the folder holds a finished
    demo.
    """
    check_arguments(demo, locals())
    from onelook.api.export import export  # here, because drawing the images and showing the options need no torch

    scenes, counts = demo_scenes(size, images, difficulty, classes, seed)
    reporter = PlainReporter() if reporter is None else reporter
    out = Path(out)
    run, exported = out / "run", out / "detector.onnx"
    if exported.exists():
        raise finished_demo(out)
    choice = demo_choice(model, epochs, input_side(size), seed)  # before any image is drawn: it may name no model
    seconds: dict[str, float] = {}
    clock = perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        seconds[stage], clock = perf_counter() - clock, perf_counter()

    data = write_synthetic(out / "data", scenes, counts)
    done("draw the data")
    weights = train_demo(choice, data, run, reporter).weights
    done("train")
    stats = validate(weights, data, reporter=reporter).stats
    detect(weights, data / "new", out=out / "detections", formats="json,images", overwrite=True, reporter=reporter)
    done("detect")
    export(weights, nms=True, out=exported)
    done("export")
    exported_stats = validate(exported, data, reporter=reporter).stats
    done("validate")
    paths = {
        "report": run / run_files.REPORT,
        "weights": weights,
        "exported": exported,
        "detections": out / "detections",
        "data": data,
    }
    return Demo(out, seconds, stats, exported_stats, paths)


def demo_choice(model: str, epochs: int, side: int, seed: int) -> RecipeChoice:
    """The published recipe of a model with the demos' settings. model: its name, or a model file."""
    from onelook.api.recipe_choice import RecipeChoice
    from onelook.networks.variants import variant

    found, settings = variant(model), (*SHORT, f"seed={seed}")
    name = found.like or found.name
    return RecipeChoice(model=model, recipe=name, epochs=epochs, size=side, batch=BATCH, overrides=settings)


def finished_demo(out: Path) -> UserError:
    """The error for a folder that a demo has been finished in."""
    return UserError(f"{out} holds a finished demo already.", "Remove the folder, or choose another (out).")


def train_demo(choice: RecipeChoice, data: Path, run: Path, reporter: Reporter) -> TrainResult:
    """Trains, or continues the training in the folder; KeyboardInterrupt where Ctrl-C has stopped it."""
    import torch

    from onelook.api.train import train

    # The network is so small that threads which wait for each other would take the loader's time.
    resume = (run / run_files.CHECKPOINT).exists()
    choice = replace(choice, recipe=None) if resume else choice  # a resumed run has its own
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        result = train(
            choice,
            data,
            out=run,
            resume=resume,
            reporter=reporter,
            resume_command=lambda _: "the same demo again, which makes the rest too",
        )
    finally:
        torch.set_num_threads(threads)
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return result


def demo_scenes(size: int, images: int, difficulty: float, classes: int, seed: int) -> tuple[Scenes, dict[str, int]]:
    """The scenes of the options, and the number of images of each split; UsageError where there can be none."""
    if images < 1 or seed < 0:
        raise UsageError("images is at least 1, and seed at least 0.")
    try:
        scenes = Scenes((size, size), (1, 4), (0.2, 0.6), difficulty, classes=classes, seed=seed)
    except ValueError as error:
        raise UsageError(f"Such images cannot be drawn: {error}.", "See: onelook demo --help") from None
    return scenes, {"train": images, "val": max(1, images // 4), "new": NEW_IMAGES}
