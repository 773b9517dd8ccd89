"""`onelook roadmap`: a paper's table, trained row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.cli.roadmap_job import Job, keep_plan, measured_row
from onelook.cli.tasks import task_of
from onelook.cli.train_start import CPU_BATCH, adapted, open_splits
from onelook.config import change, get, override, to_text
from onelook.data import Dataset
from onelook.errors import UsageError, UserError
from onelook.models.classifier import Classification
from onelook.models.detector import Scalable
from onelook.recipes import RECIPE_TYPES
from onelook.recipes.roadmaps import ROADMAPS, Roadmap, Row
from onelook.recipes.roadmaps import roadmap as roadmap_named
from onelook.report.roadmap import MeasuredRow, RoadmapTable
from onelook.training.preflight import missing_for_metric
from onelook.training.processes import join_process_group
from onelook.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console


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
    pictures: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
) -> RoadmapTable | RoadmapList:
    """A paper's table, trained row by row.

    Trains every row, one run folder for each seed, and writes the table of what was measured beside the paper's
    figures, as CSV, Markdown, HTML, and a picture of speed and accuracy. The same command goes on where it was stopped.
    Without data it shows the rows, their costs and what each changes; without a name, the roadmaps. Rows that compare
    classifiers (yolov4-table2 and 3) take a folder of class folders.

    Examples:
        onelook roadmap yolox-table2
        onelook roadmap yolox-table2 data/ --epochs 30 --seeds 2 --scale depth=0.33,width=0.25 --size 320
        onelook roadmap yolox-table2 data/ --rows anchor-free,simota ema.decay=0.998

    Args:
        name: The roadmap.
        data: Data set: a folder, a YAML file or a COCO JSON file; or a folder of class folders.
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
        pictures: Folder of class folders, for rows whose backbones are trained as classifiers first.
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
        shown = [untrained_row(table, row, recipes) for row in chosen]
        return RoadmapTable(table.name, table.title, table.source, shown, measures=table.measures)
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}.", "Give the number of trainings of each row, 1 or more.")
    refuse_conflicts(table, chosen, overrides)
    training, validation = open_both(data, train_split, val_split)
    folder = Path("runs") / table.name if out is None else out
    with join_process_group(device) as process_group:
        if process_group.size > 1:
            raise UsageError("A roadmap is trained by one process.", "Train single rows: --recipe ROADMAP:ROW.")
        on_cpu, published = process_group.device.type == "cpu", table.recipes
        if batch is None and on_cpu:
            batch = min(CPU_BATCH, *(recipe.batch_size for recipe in published.values()))
        recipes = {}
        for row in chosen:
            start = lighter(published[row.key]) if on_cpu else published[row.key]
            start = scaled(adapted(start, training.names, epochs, size, batch), factors)
            recipes[row.key] = override(start, *overrides, types=RECIPE_TYPES)
        for recipe in recipes.values():
            task_of(recipe, training)  # which refuses data of another task
        if lacking := missing_for_metric(table.measures[0], validation):
            raise UserError(
                f"The validation split of '{data}' has no {lacking}: {table.measures[0]}, which a roadmap compares, is "
                "undefined on it.",
                "Choose another with --val-split.",
            )
        if teacher is None and (learning := [row.key for row in chosen if recipes[row.key].distillation is not None]):
            raise UsageError(
                f"The row '{learning[0]}' learns from a teacher.", "Add --teacher, or leave it out: --rows."
            )
        classes = open_pictures(pictures, recipes)
        keep_plan(folder, plan_of(table, data, pictures, {"train": train_split, "val": val_split}))
        changed = (*(f"{name} times {factor:g}" for name, factor in factors.items()), *overrides)
        job = Job(table, recipes, folder, training, validation, process_group, workers, teacher, classes, changed)
        for seed in range(seeds):
            for row in chosen:
                job.train(row, seed)
        found = job.table(chosen, seeds)
        found.write()
        return found


def plan_of(table: Roadmap, data: str, pictures: str | None, splits: Mapping[str, str | None]) -> dict[str, str]:
    """What the rows of a folder have in common beside their recipes; only what was asked for."""
    plan = {"roadmap": table.name, "data": str(Path(data).resolve())}
    if pictures is not None:
        plan["pictures"] = str(Path(pictures).resolve())
    return plan | {f"{use} split": name for use, name in splits.items() if name is not None}


def open_both(data: str, train_split: str | None, val_split: str | None) -> tuple[Dataset, Dataset]:
    """The splits to train and to evaluate on."""
    training, validation, _ = open_splits(data, train_split, val_split)
    if validation is None:
        raise UserError(
            f"'{data}' has nothing to evaluate on, and a roadmap compares what it measures.", "Add a split."
        )
    return training, validation


def open_pictures(pictures: str | None, recipes: Mapping[str, Recipe]) -> tuple[Dataset, Dataset] | None:
    """The class folders that backbones are trained on; None where no row needs them."""
    before = {key: recipe.pretraining for key, recipe in recipes.items() if recipe.pretraining is not None}
    if pictures is None:
        if before:
            raise UsageError(
                f"The backbone of the row '{next(iter(before))}' is trained as a classifier first.",
                "Add --pictures with a folder of class folders, or pretraining=none.",
            )
        return None
    if not before:
        raise UsageError("No row's backbone is trained as a classifier first.", "Leave --pictures away.")
    training, validation = open_both(pictures, None, None)
    for recipe in before.values():
        task_of(recipe, training)
    return training, validation


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
    """The recipe with settings of its model multiplied, and of the classifier's that its backbone was before."""
    networks = ["model.network" if isinstance(recipe.model, Classification) else "model"]
    if recipe.pretraining is not None:
        networks.append("pretraining.model.network")
    new: dict[str, object] = {}
    for network in networks if factors else ():
        model = get(recipe, network)
        if isinstance(model, Scalable):
            if unknown := next((name for name in factors if name not in ("depth", "width")), None):
                raise UsageError(f"--scale has '{unknown}', which is no factor.", "Scale depth or width.")
            new[network] = model.scaled(**factors)
            continue
        for name, factor in factors.items():
            present = get(model, name)
            if isinstance(present, bool) or not isinstance(present, float):
                raise UsageError(
                    f"--scale has '{name}', which is {to_text(present)} and no factor.", "Scale depth or width."
                )
            new[f"{network}.{name}"] = present * factor
    return change(recipe, new)


def lighter(recipe: Recipe) -> Recipe:
    """The recipe whose backbone is trained before in batches that a computer without an accelerator can hold."""
    before = recipe.pretraining
    if before is None or before.batch_size <= CPU_BATCH:
        return recipe
    return change(recipe, {"pretraining.batch_size": CPU_BATCH})


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


def untrained_row(table: Roadmap, row: Row, recipes: Mapping[str, Recipe]) -> MeasuredRow:
    """What can be said of a row without training."""
    return measured_row(table, row, recipes[row.key], results={}, latency=None, seconds=0.0)
