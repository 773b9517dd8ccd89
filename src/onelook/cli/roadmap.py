"""`onelook roadmap`: a paper's table, trained row by row."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onelook.bench.model import Untouched, pictures
from onelook.cli.train import carry_out
from onelook.cli.train_start import CPU_BATCH, adapted, check_batch, find_teacher, make_detector, open_splits
from onelook.config import change, get, override, to_text
from onelook.data import Dataset
from onelook.errors import UsageError, UserError
from onelook.predict.backends import TorchBackend
from onelook.recipes import RECIPE_TYPES
from onelook.recipes.roadmaps import COUNTS, ROADMAPS, Roadmap, Row
from onelook.recipes.roadmaps import roadmap as roadmap_named
from onelook.report.roadmap import MeasuredRow, RoadmapTable
from onelook.report.training import hardware
from onelook.train.files import write_text
from onelook.train.learner import Learner, Machine
from onelook.train.processes import World, join
from onelook.train.recipe import Recipe
from onelook.train.run import Run
from onelook.train.teacher import record_teacher

if TYPE_CHECKING:
    from rich.console import Console

RESULT, COST, PLAN = "result.json", "cost.json", "roadmap.json"
WARM_UP, RUNS = 5, 30  # images that the latency of a row is measured on


@dataclass(frozen=True)
class RoadmapList:
    """The roadmaps that there are."""

    roadmaps: Mapping[str, Roadmap]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "roadmaps": [
                {"name": one.name, "title": one.title, "source": one.source, "rows": [row.key for row in one.rows]}
                for one in self.roadmaps.values()
            ]
        }

    def show(self, console: Console) -> None:
        """A table."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for title in ("roadmap", "source", "rows", "shows"):
            table.add_column(title, justify="right" if title == "rows" else "left")
        for one in self.roadmaps.values():
            table.add_row(one.name, one.source, str(len(one.rows)), one.title)
        console.print(table)


def roadmap(
    name: str | None = None,
    data: str | None = None,
    /,
    *overrides: str,
    rows: str | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    scale: str | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: Path | None = None,
    teacher: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
) -> RoadmapTable | RoadmapList:
    """A paper's table, trained row by row.

    Trains every row, one run folder for each seed, and writes the table of what was measured beside the paper's
    figures, as CSV, Markdown, HTML, and a picture of speed and accuracy. The same command goes on where it was stopped.
    Without data it shows the rows, their costs and what each changes; without a name, the roadmaps.

    Examples:
        onelook roadmap yolox-table2
        onelook roadmap yolox-table2 data/ --epochs 30 --seeds 2 --scale depth=0.33,width=0.25 --size 320
        onelook roadmap yolox-table2 data/ --rows anchor-free,simota ema.decay=0.998

    Args:
        name: The roadmap.
        data: Data set: a folder, a YAML file or a COCO JSON file.
        overrides: Changes of every row's recipe, each path=value.
        rows: Only these, by key or number, separated by commas.
        epochs: Passes over the data; as published unless given.
        seeds: Trainings of each row, with different seeds.
        scale: Factors on settings of the models, such as depth=0.33,width=0.25.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step; as published on a GPU, at most 16 on a CPU.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        out: Folder of the runs and the table; runs/NAME unless given.
        teacher: Weights file or folder of a run whose features the rows with distillation learn.
        train_split: Split to train on; train, or trainval where that is what there is.
        val_split: Split to evaluate on; val, or test where that is what there is.
        workers: Processes that prepare images.
    """
    if name is None:
        return RoadmapList(ROADMAPS)
    table = roadmap_named(name)
    chosen = chosen_rows(table, rows)
    factors = parse_scale(scale)
    if data is None:
        recipes = {row.key: scaled(table.recipes[row.key], factors) for row in chosen}
        return RoadmapTable(
            table.name, table.title, table.source, [untrained_row(table, row, recipes) for row in chosen]
        )
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}.", "Give the number of trainings of each row, 1 or more.")
    refuse_conflicts(table, chosen, overrides)
    training, validation, _ = open_splits(data, train_split, val_split)
    if validation is None:
        raise UserError(
            f"'{data}' has nothing to evaluate on, and a roadmap compares what it measures.", "Add a split."
        )
    folder = Path("runs") / table.name if out is None else out
    with join(device) as world:
        if world.size > 1:
            raise UsageError("A roadmap is trained by one process.", "Train single rows: --recipe ROADMAP:ROW.")
        if batch is None and world.device.type == "cpu":
            batch = min(CPU_BATCH, *(recipe.batch_size for recipe in table.recipes.values()))
        recipes = {
            row.key: override(
                scaled(adapted(table.recipes[row.key], training.names, epochs, size, batch), factors),
                *overrides,
                types=RECIPE_TYPES,
            )
            for row in chosen
        }
        if teacher is None and (learning := [row.key for row in chosen if recipes[row.key].distillation is not None]):
            raise UsageError(
                f"The row '{learning[0]}' learns from a teacher.", "Add --teacher, or leave it out: --rows."
            )
        keep_plan(folder, {"roadmap": table.name, "data": str(Path(data).resolve())})
        job = Job(table, recipes, folder, training, validation, world, workers, teacher)
        for seed in range(seeds):
            for row in chosen:
                job.train(row, seed)
        found = job.table(chosen, seeds)
        found.write()
        return found


def chosen_rows(table: Roadmap, rows: str | None) -> list[Row]:
    """The rows that `--rows` names, in the table's order; all without it."""
    if rows is None:
        return list(table.rows)
    wanted = [table.row(key.strip()) for key in rows.split(",") if key.strip()]
    if not wanted:
        raise UsageError("--rows names no row.", f"Rows: {', '.join(row.key for row in table.rows)}.")
    return [row for row in table.rows if row in wanted]


def parse_scale(text: str | None) -> dict[str, float]:
    """`depth=0.33,width=0.25` as numbers."""
    factors: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        try:
            factors[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--scale has '{part}'.", "Write name=factor, such as depth=0.33,width=0.25.") from None
        if not 0 < factors[name.strip()] < 100:
            raise UsageError(f"--scale has '{part}'.", "A factor is a number above 0.")
    return factors


def scaled(recipe: Recipe, factors: Mapping[str, float]) -> Recipe:
    """The recipe with settings of its model multiplied."""
    new: dict[str, object] = {}
    for name, factor in factors.items():
        present = get(recipe.model, name)
        if isinstance(present, bool) or not isinstance(present, float):
            raise UsageError(
                f"--scale has '{name}', which is {to_text(present)} and no factor.", "Scale depth or width."
            )
        new[f"model.{name}"] = present * factor
    return change(recipe, new)


def refuse_conflicts(table: Roadmap, rows: list[Row], overrides: tuple[str, ...]) -> None:
    """UsageError where a setting is given that the rows differ in: it would make them the same."""
    for text in overrides:
        path = text.partition("=")[0].strip()
        for row in rows:
            for changed in row.change:
                if f"{path}.".startswith(f"{changed}.") or f"{changed}.".startswith(f"{path}."):
                    raise UsageError(
                        f"'{path}' is what the row '{row.key}' of {table.name} changes.", "Leave it to the rows."
                    )


def keep_plan(folder: Path, plan: Mapping[str, str]) -> None:
    """Notes in the folder what it is for; UserError if it is for something else."""
    path = folder / PLAN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != plan:
            said = ", ".join(f"{key} {value}" for key, value in before.items())
            raise UserError(f"'{folder}' holds another roadmap: {said}.", "Choose another folder with --out.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(plan, indent=1) + "\n")


@dataclass(frozen=True)
class Job:
    """A roadmap on its way: its folder says at any moment what is done."""

    table_of: Roadmap
    recipes: Mapping[str, Recipe]
    folder: Path
    training: Dataset
    validation: Dataset
    world: World
    workers: int | None
    teacher: str | None

    def train(self, row: Row, seed: int) -> None:
        """One training, from where it is; nothing if it is done. KeyboardInterrupt where Ctrl-C stopped it."""
        from rich.console import Console

        folder = self.folder / row.key / f"seed-{seed}"
        if (folder / RESULT).is_file():
            return
        recipe = change(self.recipes[row.key], {"seed": self.recipes[row.key].seed + seed})
        check_batch(recipe, self.world, self.training)
        console = Console(file=sys.stderr, highlight=False)
        console.print(f"\n{row.name}, seed {seed}", style="bold")
        resume = (folder / "state.pt").is_file()
        told = find_teacher(recipe, folder, self.teacher if recipe.distillation else None, None, resume)
        detector = make_detector(recipe, self.training.names)
        learner = Learner(recipe, detector, self.world, Machine(), None if told is None else told[0])
        again = f"onelook roadmap {self.table_of.name} ... --out {shlex.quote(str(self.folder))} (the same command)"
        run = Run(folder, recipe, learner, console=console, resume=resume, resume_with=again)
        if told is not None and not resume:
            record_teacher(folder, told[1])
        trained = carry_out(run, self.training, self.validation, workers=self.workers, begins=not resume)
        if trained.reason == "interrupted":
            raise KeyboardInterrupt
        result = {"AP": trained.last["AP"], "epochs": trained.epochs, "seconds": trained.seconds}
        write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")

    def table(self, rows: list[Row], seeds: int) -> RoadmapTable:
        """What the folder holds, as a table; rows whose cost is not known yet are measured."""
        measured = []
        for row in rows:
            results = {}
            for seed in range(seeds):
                path = self.folder / row.key / f"seed-{seed}" / RESULT
                results[seed] = json.loads(path.read_text(encoding="utf-8"))
            cost = self.cost(row)
            recipe = self.recipes[row.key]
            measured.append(
                measured_row(
                    self.table_of,
                    row,
                    recipe,
                    aps={seed: 100 * float(result["AP"]) for seed, result in results.items()},
                    latency=float(cost["latency"]),
                    seconds=sum(float(result["seconds"]) for result in results.values()),
                )
            )
        return RoadmapTable(
            self.table_of.name, self.table_of.title, self.table_of.source, measured, self.facts(seeds), self.folder
        )

    def cost(self, row: Row) -> dict[str, Any]:
        """The row's latency, measured once and kept."""
        path = self.folder / row.key / COST
        if not path.is_file():
            recipe = self.recipes[row.key]
            backend = TorchBackend(
                make_detector(recipe, self.training.names), self.world.device, size=recipe.input_size
            )
            write_text(path, json.dumps({"latency": latency(backend), "device": hardware(self.world.device)}) + "\n")
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    def facts(self, seeds: int) -> dict[str, str]:
        """What the figures depend on."""
        recipe, device = next(iter(self.recipes.values())), hardware(self.world.device)
        height, width = recipe.input_size
        spread = f"mean and sample standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
        return {
            "trained on": self.training.describe(),
            "evaluated on": self.validation.describe(),
            "training": f"{recipe.epochs} epochs, batch {recipe.batch_size}, {width}x{height}",
            "AP": f"in per cent, of the last epoch's weights; {spread}",
            "ms": f"median of {RUNS} images, batch 1, float32, deploy form, NMS not in it; {device}",
            "parameters and GFLOPs": f"{COUNTS[self.table_of.counts]}; at the size trained at",
            "paper": self.table_of.setting,
        }


def untrained_row(table: Roadmap, row: Row, recipes: Mapping[str, Recipe]) -> MeasuredRow:
    """What can be said of a row without training."""
    return measured_row(table, row, recipes[row.key], aps={}, latency=None, seconds=0.0)


def measured_row(
    table: Roadmap, row: Row, recipe: Recipe, *, aps: Mapping[int, float], latency: float | None, seconds: float
) -> MeasuredRow:
    """The row with its cost: parameters and GFLOPs of the model as it is trained."""
    parameters, gflops = table.cost(row, recipe.model, recipe.input_size)
    return MeasuredRow(
        key=row.key,
        name=row.name,
        base=table.base_of(row),
        change=tuple(f"{path}={to_text(value)}" for path, value in row.change.items()),
        aps=aps,
        parameters=parameters,
        gflops=gflops,
        latency=latency,
        published=row.published,
        note=row.note,
        seconds=seconds,
    )


def latency(backend: TorchBackend) -> float:
    """Milliseconds of the network for one image, the median of some; choosing boxes is not in it."""
    from time import perf_counter

    batch, select, milliseconds = pictures(backend, 1), Untouched(), []
    for turn in range(WARM_UP + RUNS):
        start = perf_counter()
        backend(batch, select)
        if backend.device.type == "cuda":
            torch.cuda.synchronize(backend.device)
        if turn >= WARM_UP:
            milliseconds.append(1000 * (perf_counter() - start))
    return statistics.median(milliseconds)
