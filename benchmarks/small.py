"""Is recipe small better than the published settings, in equal time, on many data sets and for all families?

    python benchmarks/small.py runs/small --minutes 5
    python benchmarks/small.py runs/small --minutes 2 --plan; python benchmarks/small.py runs/small
    python benchmarks/small.py runs/small --record benchmarks/small.json --report
    python benchmarks/small.py runs/small --add bccd=data/bccd:320 --add coco_mini=data/coco_mini:320 --data bccd \
        --models yolox-nano --weights yolox-nano=yolox_nano.onnx --settings published small hand

Draws four data sets: the demo's images at two difficulties, many small objects, and long thin ones; --add names others
(NAME=FOLDER:SIZE). Trains the smallest model of each family on each of them with each setting, for every seed and as
many minutes, and prints AP by setting, the difference to the published settings, and the means over everything.
Settings are trained in turn, so that other work on the machine meets all of them. With --plan it measures, on an
idle machine, how many epochs each training has time for on one core, and trains nothing; a later call trains those
epochs, so that other work makes it longer and changes nothing else. Hand-made settings are those that
were found for YOLOX-Nano on BCCD from its official weights: 22 epochs, in their own time. Runs that are done are not
made again, one that was stopped goes on; --report prints what there is. The plan and what came of each run are in
OUT/record.json, or in the file of --record: `benchmarks/small.json` has those that docs/benchmarks.md tells about.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from onelook.api.recipe_choice import RecipeChoice
from onelook.api.train import train
from onelook.api.training_session import TrainOptions, start_training
from onelook.data.synthetic import HARD, Scenes, write_synthetic
from onelook.files import write_text
from onelook.reporter import SilentReporter
from onelook.training.options import RunOptions

MODELS = ("yolox-nano", "yolov7-tiny", "yolov4-tiny", "damo-yolo-ns")
SETTINGS = ("published", "small", "hand")
DEMO = Scenes((160, 160), (1, 4), (0.2, 0.6), 0.2, classes=3)
DRAWN = {
    "demo": (DEMO, 480, 96),
    "demo, hard": (Scenes((160, 160), (1, 4), (0.2, 0.6), 0.8, classes=3), 480, 96),
    "many small": (HARD["many small"], 480, 160),
    "long and thin": (HARD["long and thin"], 200, 160),
}  # scenes, training images, side of the network's input
HAND = ("multiscale=none", "ema.warmup=150", "closing.epochs=7", "schedule.flat_epochs=4")
HAND_EPOCHS = 22


@dataclass(frozen=True)
class Training:
    """One run: which model by which setting on which data. size: of the network's input."""

    data: str
    model: str
    setting: str
    seed: int
    folder: Path
    images: Path
    size: int

    @property
    def planned(self) -> str:
        """What the number of epochs depends on."""
        return f"{self.data} | {self.model} | {self.setting}"

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.planned} | {self.seed}"


@dataclass
class Record:
    """The plan (epochs by `Training.planned`) and the outcomes (by `Training.name`), kept in a file."""

    path: Path
    plan: dict[str, int]
    outcomes: dict[str, dict[str, Any]]

    def write(self) -> None:
        write_text(self.path, json.dumps({"plan": self.plan, "outcomes": self.outcomes}, indent=1) + "\n")


def open_record(path: Path) -> Record:
    """What the file has; nothing without a file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    return Record(path, known.get("plan", {}), known.get("outcomes", {}))


def _file_name(data: str) -> str:
    return data.replace(", ", "-").replace(" ", "-")


def trainings(given: argparse.Namespace) -> list[Training]:
    """All runs, settings in turn for each seed, data set and model."""
    added = {}
    for text in given.add:
        name, _, place = text.partition("=")
        folder, _, size = place.rpartition(":")
        added[name] = (Path(folder), int(size))
    known = {name: (given.out / "data" / _file_name(name), row[2]) for name, row in DRAWN.items()}
    known |= added
    if unknown := set(given.data or ()) - set(known):
        raise SystemExit(f"There are no data {', '.join(sorted(unknown))}; known are {', '.join(known)}.")
    found = []
    for seed, name, model, setting in product(range(given.seeds), given.data or known, given.models, given.settings):
        if setting == "hand" and model != "yolox-nano":
            continue
        images, size = known[name]
        folder = given.out / f"{_file_name(name)}-{model}-{setting}-{seed}"
        found.append(Training(name, model, setting, seed, folder, images, size))
    return found


def choice(one: Training, epochs: int | None, *changes: str) -> RecipeChoice:
    """The recipe of a training, with further changes."""
    return RecipeChoice(
        model=one.model,
        recipe=f"{one.model}:{'small' if one.setting == 'small' else 'published'}",
        epochs=epochs,
        size=one.size,
        batch=16,
        overrides=(f"seed={one.seed}", *(HAND if one.setting == "hand" else ()), *changes),
    )


def planned_epochs(one: Training, minutes: float, weights: dict[str, str]) -> int:
    """The epochs that a training of so many minutes on one core has time for, measured; nothing is trained."""
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(
            run=RunOptions(budget=f"{minutes:g}m", workers=0, threads=1),
            weights=weights.get(one.model),
            out=Path(folder) / "run",
            reporter=SilentReporter(),
        )
        # YOLOv7's accumulation over a number of passes that grows has no plan by time, and a pass takes as long.
        with start_training(choice(one, None, "grow_accumulation=false"), one.images, options) as session:
            return session.run.recipe.epochs


def run(one: Training, minutes: float, weights: dict[str, str], workers: int | None, record: Record) -> None:
    """Trains, from the start or from where it stopped, and records what came of it."""
    begun = (one.folder / "state.pt").exists()
    by_hand = one.setting == "hand"
    epochs = HAND_EPOCHS if by_hand else record.plan.get(one.planned)
    result = train(
        None if begun else choice(one, epochs),
        one.images,
        budget=None if begun or epochs is not None else f"{minutes:g}m",
        weights=None if begun else weights.get(one.model),
        out=one.folder,
        resume=begun,
        workers=0 if epochs is not None else workers,
        threads=1 if epochs is not None else None,
    )
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    last = result.last.get("AP")
    row = {"best": result.best, "last": last, "epochs": result.epochs, "steps": result.steps, "seconds": result.seconds}
    record.outcomes[one.name] = row
    record.write()


def report(runs: Sequence[Training], record: Record) -> None:
    """AP of the best epoch by data, model and setting: mean, spread of the seeds, and difference to published."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for one in runs:
        if outcome := record.outcomes.get(one.name):
            found.setdefault((one.data, one.model, one.setting), []).append(outcome["best"] or 0.0)
    print(f"{'data':16}{'model':16}{'setting':12}{'AP':>8}{'spread':>8}{'seeds':>7}{'to published':>14}")
    differences: dict[str, list[float]] = {}
    for (data, model, setting), values in found.items():
        spread = stdev(values) if len(values) > 1 else float("nan")
        before, shown = found.get((data, model, "published")), ""
        if before is not None and setting != "published":
            differences.setdefault(setting, []).append(mean(values) - mean(before))
            shown = f"{differences[setting][-1]:+.4f}"
        print(f"{data:16}{model:16}{setting:12}{mean(values):8.4f}{spread:8.4f}{len(values):7}{shown:>14}")
    for setting, values in differences.items():
        print(
            f"{setting}: {mean(values):+.4f} on average, {min(values):+.4f} to {max(values):+.4f}, {len(values)} rows"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--settings", nargs="+", default=["published", "small"], choices=SETTINGS)
    parser.add_argument("--data", nargs="+", help="names of data sets; all unless given")
    parser.add_argument("--add", action="append", default=[], metavar="NAME=FOLDER:SIZE")
    parser.add_argument("--weights", action="append", default=[], metavar="MODEL=FILE", help="to start from")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--plan", action="store_true", help="measure the epochs of every training; train nothing")
    parser.add_argument("--record", type=Path, help="the file of plan and outcomes; OUT/record.json unless given")
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    runs = trainings(given)
    weights = dict(text.partition("=")[::2] for text in given.weights)
    record = open_record(given.record or given.out / "record.json")
    for one in () if given.report else runs:
        if one.data in DRAWN:
            scenes, count, _ = DRAWN[one.data]
            write_synthetic(one.images, scenes, {"train": count, "val": 100})
        if given.plan:
            if one.planned not in record.plan and one.setting != "hand":
                record.plan[one.planned] = planned_epochs(one, given.minutes, weights)
                record.write()
                print(f"{one.planned}: {record.plan[one.planned]} epochs", flush=True)
        elif one.name not in record.outcomes:
            run(one, given.minutes, weights, given.workers, record)
    if not given.plan:
        report(runs, record)


if __name__ == "__main__":
    main()
