"""Does a teacher help? The same small model with and without one, over several seeds.

    python benchmarks/distillation.py runs/distillation --workers 0
    python benchmarks/distillation.py runs/distillation --workers 0 --times
    python benchmarks/distillation.py runs/distillation --workers 0 --alone-epochs 13 --compare

Draws the demo's images, trains a larger model on them from scratch, and then the small one: for every seed once alone
and, for every way of --ways, with the larger one as its teacher. A way is a name of `WAYS`, or "NAME:SETTING SETTING"
with settings of a recipe. The student alone also trains for --alone-epochs: as many more as its teacher would cost,
which --times measures. Runs that are done are not made again; one that was stopped goes on. Prints every figure and the
means; --compare also resamples the validation images, as `onelook compare`. --only makes the trainings of these names
now, so that several processes share the work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from onelook.api.compare import compare
from onelook.api.demo import BATCH, CLASSES
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.train import train
from onelook.data import open_dataset
from onelook.data.loader import Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.build import build
from onelook.recipes import default_recipe
from onelook.training.batches import make_loader
from onelook.training.loop import Step
from onelook.training.loop import train as train_events
from onelook.training.optimizer import AdamW
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.weights import open_detector

TIMED = 31  # steps of each kind; the first is left out
METRICS = ("AP", "AP50", "AP75")
# As the demo's: a few hundred steps from scratch are few.
SHORT = (
    "ema.decay=0.99",
    "ema.warmup=100",
    "augment.mosaic=0.3",
    "augment.affine.scale=(0.7,1.3)",
    "evaluate_every=1000",
)
SGD_RATE, ADAMW_RATE = 0.0025, 0.000125  # per image
WAYS = {
    "taught-1.0": ("distillation=Distillation()",),  # as in DAMO-YOLO's code
    "taught-0.1": ("distillation=Distillation(weight=0.1)",),
    "balanced": ("distillation=Distillation(share=0.3,start=0.1)",),
    "predictions": ("distillation=PredictionDistillation()",),
    "wide": ("distillation=PredictionDistillation(share=1.0,sharpness=1.0)",),
    "half": ("distillation=PredictionDistillation(every=2)",),
}


@dataclass(frozen=True)
class Training:
    """What is trained into a folder; teacher: the folder of another, settings: how it teaches.

    weights: a file that it begins with, None for a training from scratch.
    """

    folder: Path
    model: str
    epochs: int
    seed: int
    teacher: Path | None = None
    settings: tuple[str, ...] = ()
    weights: Path | None = None


def short_rate(model: str) -> float:
    """The learning rate per image of a short training of a model, by its published optimizer."""
    return ADAMW_RATE if isinstance(default_recipe(model).optimizer, AdamW) else SGD_RATE


def choice_of(one: Training, size: int) -> RecipeChoice:
    """The recipe of a training; the teacher is the only difference of the students."""
    rate = f"optimizer.lr_per_image={short_rate(one.model)}"
    overrides = (*SHORT, rate, f"seed={one.seed}", "clip=none", "multiscale=none", *one.settings)
    return RecipeChoice(
        model=one.model, recipe=one.model, epochs=one.epochs, size=size, batch=BATCH, overrides=overrides
    )


def run(one: Training, data: Path, size: int, workers: int | None) -> None:
    """The training, from its start or from where it stopped."""
    begin = time.process_time()
    if (one.folder / "state.pt").exists():
        result = train(None, data, out=one.folder, resume=True, workers=workers)
    else:
        choice = choice_of(one, size)
        result = train(choice, data, out=one.folder, workers=workers, teacher=one.teacher, weights=one.weights)
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    row = {name: result.last[name] for name in METRICS} | {"cpu_s": time.process_time() - begin}
    (one.folder / "last.json").write_text(json.dumps(row))


def settings_of(way: str) -> tuple[str, tuple[str, ...]]:
    """Name and settings of a way: a name of `WAYS`, or "NAME:SETTING SETTING"."""
    name, _, given = way.partition(":")
    if not given and name not in WAYS:
        raise SystemExit(f"--ways: there is no way '{name}'; known are {', '.join(WAYS)}, or NAME:SETTING")
    return name, tuple(given.split()) if given else WAYS[name]


def teacher_folder(given: argparse.Namespace) -> Path:
    """The folder of the teacher's training."""
    return Path(given.trained_teacher or given.out / "teacher")


def wanted(given: argparse.Namespace) -> list[Training]:
    """The teacher's training, and those of every seed, "alone-0", "alone13-0" (13 epochs) and "predictions-0"."""
    teacher, student, begin = teacher_folder(given), given.student, given.student_weights
    found = [] if given.trained_teacher else [Training(teacher, given.teacher, given.teacher_epochs, 0)]
    for seed in range(given.seeds):
        found.append(Training(given.out / f"alone-{seed}", student, given.epochs, seed, weights=begin))
        for epochs in given.alone_epochs:
            found.append(Training(given.out / f"alone{epochs}-{seed}", student, epochs, seed, weights=begin))
        for way in given.ways:
            name, settings = settings_of(way)
            folder = given.out / f"{name}-{seed}"
            found.append(Training(folder, student, given.epochs, seed, teacher, settings, begin))
    return found


def train_steps(recipe: Recipe, state: TrainState, batches: Loader) -> Iterator[Step]:
    """The steps of a training."""
    return (event for event in train_events(recipe, state, batches) if isinstance(event, Step))


def step_times(given: argparse.Namespace, data: Path) -> None:
    """Prints the CPU time of a step alone and in every way, each with its batch; in alternation."""
    training = open_dataset(str(data), "train")
    single, teacher = ProcessGroup(0, 1, torch.device("cpu")), open_detector(str(teacher_folder(given))).detector
    steps = {}
    for name, settings in {"alone": (), **dict(map(settings_of, given.ways))}.items():
        one = Training(given.out, given.student, given.epochs, 0, settings=settings)
        recipe = choice_of(one, given.size).resolve(training.names, has_teacher=bool(settings))
        student = build(recipe.model, classes=training.names)
        state = TrainState(recipe, student, single, RuntimeOptions(), teacher if settings else None)
        steps[name] = train_steps(recipe, state, make_loader(training, recipe, single, 0))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TIMED):
        for name, one_step in steps.items():
            begin = time.process_time()
            next(one_step)
            times[name].append(time.process_time() - begin)
    alone = mean(times["alone"][1:])
    for name, found in times.items():
        print(f"{name:14} {1000 * mean(found[1:]):.0f} ms a step, {mean(found[1:]) / alone:.2f} of a step alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--student", default="damo-yolo-ns", help="name of a model")
    parser.add_argument("--student-weights", type=Path, help="a file that the student begins with")
    parser.add_argument("--teacher", default="damo-yolo-t")
    parser.add_argument("--trained-teacher", type=Path, help="the folder of a finished training; trains no teacher")
    parser.add_argument("--ways", nargs="*", default=["taught-1.0", "taught-0.1", "predictions"], metavar="WAY")
    parser.add_argument("--epochs", type=int, default=10, help="of the student")
    parser.add_argument("--alone-epochs", type=int, nargs="*", default=[], help="others of the student alone")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, help="processes that prepare images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainings to make now; all unless given")
    parser.add_argument("--times", action="store_true", help="measure steps instead; the teacher must be trained")
    parser.add_argument("--compare", action="store_true", help="compare the finished runs of each seed")
    given = parser.parse_args()
    size = given.size
    scenes = Scenes(size=(size, size), objects=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=CLASSES, seed=0)
    data = given.out / "data"
    if not data.exists():
        write_synthetic(data, scenes, {"train": given.images, "val": given.images // 4})
    if given.times:
        step_times(given, data)
        return
    trainings = wanted(given)
    unknown = set(given.only or ()) - {one.folder.name for one in trainings}
    if unknown:
        parser.error(f"there is no training {', '.join(sorted(unknown))}")
    for one in trainings:
        if (given.only is None or one.folder.name in given.only) and not (one.folder / "last.json").exists():
            run(one, data, size, given.workers)
    names = [one.folder.name for one in trainings if (one.folder / "last.json").exists()]
    report(given.out, names)
    if given.compare:
        report_differences(given.out, names, data, given.seeds, size)


def report(out: Path, names: list[str]) -> None:
    """The figures of the finished runs, and their means."""
    done = {name: json.loads((out / name / "last.json").read_text()) for name in names}
    for name, row in done.items():
        print(f"{name:14}", *(f"{metric} {row[metric]:.4f}" for metric in METRICS), f"{row['cpu_s']:.0f} s of CPU time")
    for kind in dict.fromkeys(name.rpartition("-")[0] for name in names):
        rows = [row for name, row in done.items() if name.rpartition("-")[0] == kind]
        if len(rows) > 1:
            values = [(mean(row[m] for row in rows), stdev(row[m] for row in rows)) for m in METRICS]
            print(f"{kind:14}", *(f"{m} {a:.4f} +- {s:.4f}" for m, (a, s) in zip(METRICS, values)))


def report_differences(out: Path, names: list[str], data: Path, seeds: int, size: int) -> None:
    """What `onelook compare` says of the students of each seed: the last weights, on the validation images."""
    for seed in range(seeds):
        own = [name for name in names if name.endswith(f"-{seed}")]
        if len(own) < 2:
            continue
        models = {name: out / name / "last.safetensors" for name in own}
        found = compare(models, data, size=size, runs=1, memory=False, threads=1)
        for pair in found.pairs:
            print(pair.sentence(len(found.pairs)))


if __name__ == "__main__":
    main()
