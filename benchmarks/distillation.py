"""Does a teacher help? The same small model with and without one, at equal epochs and over several seeds.

    python benchmarks/distillation.py runs/distillation

Draws the demo's pictures, trains a larger model on them from scratch, and then the small one: for every seed once alone
and with the larger one as its teacher, by the settings of DAMO-YOLO's code, by those of its paper, and with a tenth of
the weight. Runs that are done are not made again; one that was stopped goes on. Prints every figure and the means.
--runs makes at most so many trainings now.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from onelook.cli.demo import BATCH, CLASSES
from onelook.cli.train import train
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
# What is compared: None is the student alone, else the settings of `distillation`.
KINDS: dict[str, tuple[str, ...] | None] = {
    "alone": None,
    "taught": (),
    "light": ("distillation.weight=0.1",),
    "paper": ("distillation.weight=0.5", "distillation.closing=false"),
}
RATES = {TEACHER: 0.00125, STUDENT: 0.000125}  # per image, for SGD and for AdamW


@dataclass(frozen=True)
class Training:
    """What is trained into a folder; teacher: the folder of another, settings: how it teaches."""

    folder: Path
    model: str
    epochs: int
    seed: int
    teacher: Path | None = None
    settings: tuple[str, ...] = ()


def run(one: Training, data: Path, size: int) -> None:
    """The training, from its start or from where it stopped."""
    folder, model, teacher = one.folder, one.model, one.teacher
    if (folder / "state.pt").exists():
        result = train(str(data), out=str(folder), resume=True)
    else:
        result = train(
            str(data),
            *SHORT,
            f"optimizer.lr_per_image={RATES[model]}",
            f"seed={one.seed}",
            *(() if teacher is None else ("clip=none", *one.settings)),  # the teacher is to be the only difference
            model=model,
            epochs=one.epochs,
            size=size,
            batch=BATCH,
            out=str(folder),
            teacher=None if teacher is None else str(teacher),
        )
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    (folder / "last.json").write_text(json.dumps({name: result.last[name] for name in METRICS} | {"s": result.seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of the student")
    parser.add_argument("--teacher-epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--runs", type=int, default=1000, help="trainings to make now, at most")
    given = parser.parse_args()
    size = given.size
    scenes = Scenes(size=(size, size), things=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=CLASSES, seed=0)
    data = given.out / "data"
    if not data.exists():
        write_synthetic(data, scenes, {"train": given.images, "val": given.images // 4})
    teacher = given.out / "teacher"
    wanted = [Training(teacher, TEACHER, given.teacher_epochs, 0)]
    for seed in range(given.seeds):
        for kind, settings in KINDS.items():
            folder = given.out / f"{kind}-{seed}"
            if settings is None:
                wanted.append(Training(folder, STUDENT, given.epochs, seed))
            else:
                wanted.append(Training(folder, STUDENT, given.epochs, seed, teacher, settings))
    left = [one for one in wanted if not (one.folder / "last.json").exists()]
    for one in left[: given.runs]:
        run(one, data, size)
    report(given.out, [one.folder.name for one in wanted])


def report(out: Path, names: list[str]) -> None:
    """The figures of the finished runs, and their means."""
    done = {
        name: json.loads((out / name / "last.json").read_text())
        for name in names
        if (out / name / "last.json").exists()
    }
    for name, row in done.items():
        print(f"{name:10}", *(f"{metric} {row[metric]:.4f}" for metric in METRICS), f"{row['s']:.0f} s")
    for kind in KINDS:
        rows = [row for name, row in done.items() if name.startswith(kind)]
        if len(rows) > 1:
            values = [(mean(row[m] for row in rows), stdev(row[m] for row in rows)) for m in METRICS]
            print(f"{kind:10}", *(f"{m} {a:.4f} +- {s:.4f}" for m, (a, s) in zip(METRICS, values)))


if __name__ == "__main__":
    main()
