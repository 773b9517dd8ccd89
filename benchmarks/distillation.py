"""Does a teacher help? The same small model with and without one, at equal epochs and over several seeds.

    python benchmarks/distillation.py runs/distillation

Draws the demo's images, trains a larger model on them from scratch, and then the small one: for every seed once alone
and, for every weight of --weights, with the larger one as its teacher, by the settings of DAMO-YOLO's code (whose
weight is 1). Runs that are done are not made again; one that was stopped goes on. Prints every figure and the means.
--only makes the trainings of these names now, so that several processes share the work.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from onelook.api.demo import BATCH, CLASSES
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.train import train
from onelook.data.synthetic import Scenes, write_synthetic

TEACHER, STUDENT = "damo-yolo-t", "damo-yolo-ns"
METRICS = ("AP", "AP50", "AP75")
# As the demo's: a few hundred steps from scratch are few.
SHORT = (
    "ema.decay=0.99",
    "ema.warmup=100",
    "augment.mosaic=0.3",
    "augment.affine.scale=(0.7,1.3)",
    "evaluate_every=1000",
)
RATES = {TEACHER: 0.0025, STUDENT: 0.000125}  # per image, for SGD and for AdamW


@dataclass(frozen=True)
class Training:
    """What is trained into a folder; teacher: the folder of another, settings: how it teaches."""

    folder: Path
    model: str
    epochs: int
    seed: int
    teacher: Path | None = None
    settings: tuple[str, ...] = ()


def run(one: Training, data: Path, size: int, workers: int | None) -> None:
    """The training, from its start or from where it stopped."""
    folder, model, teacher = one.folder, one.model, one.teacher
    if (folder / "state.pt").exists():
        result = train(None, data, out=folder, resume=True, workers=workers)
    else:
        settings = (
            *SHORT,
            f"optimizer.lr_per_image={RATES[model]}",
            f"seed={one.seed}",
            *(() if teacher is None else ("clip=none", *one.settings)),  # the teacher is to be the only difference
        )
        choice = RecipeChoice(model=model, recipe=model, epochs=one.epochs, size=size, batch=BATCH, overrides=settings)
        result = train(choice, data, out=folder, workers=workers, teacher=teacher)
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    (folder / "last.json").write_text(json.dumps({name: result.last[name] for name in METRICS} | {"s": result.seconds}))


def wanted(out: Path, given: argparse.Namespace) -> list[Training]:
    """The teacher's training, and those of every seed, "alone-0" and "taught-0.1-0" (the weight, the seed)."""
    teacher = out / "teacher"
    found = [Training(teacher, TEACHER, given.teacher_epochs, 0)]
    for seed in range(given.seeds):
        found.append(Training(out / f"alone-{seed}", STUDENT, given.epochs, seed))
        for weight in given.weights:
            folder, settings = out / f"taught-{weight}-{seed}", (f"distillation.weight={weight}",)
            found.append(Training(folder, STUDENT, given.epochs, seed, teacher, settings))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 0.1], help="of the teacher's term at first")
    parser.add_argument("--epochs", type=int, default=10, help="of the student")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--workers", type=int, help="processes that prepare images")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainings to make now; all unless given")
    given = parser.parse_args()
    size = given.size
    scenes = Scenes(size=(size, size), objects=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=CLASSES, seed=0)
    data = given.out / "data"
    if not data.exists():
        write_synthetic(data, scenes, {"train": given.images, "val": given.images // 4})
    trainings = wanted(given.out, given)
    unknown = set(given.only or ()) - {one.folder.name for one in trainings}
    if unknown:
        parser.error(f"there is no training {', '.join(sorted(unknown))}")
    for one in trainings:
        if (given.only is None or one.folder.name in given.only) and not (one.folder / "last.json").exists():
            run(one, data, size, given.workers)
    report(given.out, [one.folder.name for one in trainings])


def report(out: Path, names: list[str]) -> None:
    """The figures of the finished runs, and their means."""
    done = {
        name: json.loads((out / name / "last.json").read_text())
        for name in names
        if (out / name / "last.json").exists()
    }
    for name, row in done.items():
        print(f"{name:14}", *(f"{metric} {row[metric]:.4f}" for metric in METRICS), f"{row['s']:.0f} s")
    for kind in dict.fromkeys(name.rpartition("-")[0] for name in names):
        rows = [row for name, row in done.items() if name.rpartition("-")[0] == kind]
        if len(rows) > 1:
            values = [(mean(row[m] for row in rows), stdev(row[m] for row in rows)) for m in METRICS]
            print(f"{kind:14}", *(f"{m} {a:.4f} +- {s:.4f}" for m, (a, s) in zip(METRICS, values)))


if __name__ == "__main__":
    main()
