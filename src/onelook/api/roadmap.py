"""`onelook.roadmap`: a paper's table, trained row by row."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onelook.api.open import PathLike
from onelook.api.recipe_choice import CPU_BATCH, overridden
from onelook.api.roadmap_job import RoadmapTraining, measured_row, write_plan
from onelook.api.splits import open_splits
from onelook.api.tasks import task_of
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import device_of, workers_at
from onelook.cluster.workers import InProcess
from onelook.config import change, check_arguments, get, to_text
from onelook.data import Dataset
from onelook.errors import UsageError, UserError
from onelook.networks.classifier import Classification
from onelook.networks.detector import Scalable
from onelook.recipes.records import PRINTED_TABLES, PrintedTable, printed_table
from onelook.recipes.roadmaps import ROADMAPS, Roadmap, Row
from onelook.recipes.roadmaps import roadmap as roadmap_named
from onelook.report.roadmap import MeasuredRow, RoadmapTable
from onelook.reporter import PlainReporter, Reporter
from onelook.training.preflight import missing_for_metric
from onelook.training.processes import join_process_group
from onelook.training.recipe import Recipe, adapted
from onelook.types import text_repr


@dataclass(frozen=True)
class RoadmapList:
    """The tables of the papers.

    roadmaps: by name, those that can be trained, each with its title, its source and its rows.  printed: by name, the
    others, of which only the printed figures are here.
    """

    roadmaps: Mapping[str, Roadmap]
    printed: Mapping[str, PrintedTable]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "roadmaps": [
                {"name": one.name, "title": one.title, "source": one.source, "rows": [row.key for row in one.rows]}
                for one in self.roadmaps.values()
            ],
            "printed": [{"name": one.name, "title": one.title, "source": one.source} for one in self.printed.values()],
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        rows = ((one.name, one.title, one.source, len(one.rows)) for one in self.roadmaps.values())
        return "\n".join(f"{name}: {title} ({source}, {count} rows)" for name, title, source, count in rows)


def roadmaps() -> RoadmapList:
    """The tables of the papers: those that can be trained row by row, and those that are only printed figures."""
    return RoadmapList(ROADMAPS, {name: printed_table(name) for name in PRINTED_TABLES if name not in ROADMAPS})


def roadmap(
    name: str,
    data: PathLike | None = None,
    *,
    overrides: Sequence[str] = (),
    rows: str | Sequence[str] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    scale: str | Mapping[str, float] | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: PathLike | None = None,
    teacher: PathLike | None = None,
    class_folders: PathLike | None = None,
    split: str | None = None,
    validation: str | None = None,
    workers: int | None = None,
    on: str | None = None,
    reporter: Reporter | None = None,
) -> RoadmapTable:
    """Trains a paper's table row by row, and measures what the paper measured.

    name: of the roadmap, see `roadmaps`.  data: folder or file of a data set; None trains nothing and returns the rows
    with their costs.  overrides: changes of every row's recipe, each "path=value".  rows: only these, by key or number;
    in one text they are separated by commas.  epochs, size, batch: None is as published, the batch at most 16 on a CPU.
    seeds: trainings of each row, with different seeds.  scale: factors on settings of the models, such as {"depth":
    0.33}, or "depth=0.33,width=0.25".  out: folder of the runs and the table, in which the same call continues what was
    stopped; None is runs/NAME.  teacher: whose features the rows with distillation learn.  class_folders: folder with a
    folder of images for each class, for rows whose backbones are trained as classifiers first.  split,  validation:
    names of the splits.  workers: processes that prepare images.  on: "ray" or "ray://HOST:PORT" trains the rows on a
    Ray cluster, whose machines share the folders, as many at once as it has room for; None is one after the other here.

    Ctrl-C stops between two steps, with KeyboardInterrupt. Raises UserError for what cannot be used.
    """
    check_arguments(roadmap, locals())
    table = roadmap_named(name)
    chosen = chosen_rows(table, rows)
    factors = parse_scale(scale)
    if data is None:
        recipes = {row.key: scaled(table.recipes[row.key], factors) for row in chosen}
        shown = [untrained_row(table, row, recipes) for row in chosen]
        printed = printed_table(name) if rows is None and name in PRINTED_TABLES else None
        return RoadmapTable(table.name, table.title, table.source, shown, measures=table.measures, printed=printed)
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}.", "Give the number of trainings of each row, 1 or more.")
    check_conflicts(table, chosen, overrides)
    folder = Path("runs") / table.name if out is None else Path(out)
    place, told = parse_place(on), PlainReporter() if reporter is None else reporter
    if not place.is_local:  # a worker has another folder of work
        folder, data, teacher = folder.absolute(), os.path.abspath(data), teacher and os.path.abspath(teacher)
        class_folders = class_folders and os.path.abspath(class_folders)
    training, validation_set = open_both(data, split, validation, reporter)
    with (
        workers_at(place, InProcess(), told, alone=True, device=device) as processes,
        join_process_group(device if place.is_local else "cpu") as process_group,
    ):
        used = process_group.device if place.is_local else torch.device(device_of(processes, device) or "cpu")
        if process_group.size > 1:
            raise UsageError("A roadmap is trained by one process.", "Train single rows: --recipe ROADMAP:ROW.")
        on_cpu, given_batch = used.type == "cpu", batch
        if batch is None and on_cpu:
            batch = min(CPU_BATCH, *(recipe.batch_size for recipe in table.recipes.values()))
        recipes = {}
        for row in chosen:
            start = lighter(table.recipes[row.key]) if on_cpu else table.recipes[row.key]
            start = scaled(adapted(start, training.names, epochs, size, batch), factors)
            recipes[row.key] = overridden(start, overrides, epochs=epochs, size=size, batch=given_batch)
        check_recipes(table, recipes, training, validation_set, has_teacher=teacher is not None)
        classes = open_class_folders(class_folders, recipes, reporter)
        write_plan(folder, plan_of(table, data, class_folders, {"train": split, "val": validation}))
        job = RoadmapTraining(
            table,
            recipes,
            folder,
            training=training,
            validation=validation_set,
            device=used,
            workers=workers,
            teacher=None if teacher is None else os.fspath(teacher),
            class_folders=classes,
            changed=(*(f"{name} times {factor:g}" for name, factor in factors.items()), *overrides),
            reporter=told,
            processes=processes,
        )
        return job.train_all(chosen, seeds)


def check_recipes(
    table: Roadmap, recipes: Mapping[str, Recipe], training: Dataset, validation_set: Dataset, *, has_teacher: bool
) -> None:
    """UserError where a row cannot be trained or measured on this data set, or needs a teacher that is not given."""
    for recipe in recipes.values():
        task_of(recipe, training)  # which refuses data of another task
    if lacking := missing_for_metric(table.measures[0], validation_set):
        raise UserError(
            f"The validation split of '{validation_set.described_by}' has no {lacking}: {table.measures[0]}, which a "
            "roadmap compares, is undefined on it.",
            "Choose another with --val-split (in Python: validation).",
        )
    learning = [key for key, recipe in recipes.items() if recipe.distillation is not None]
    if learning and not has_teacher:
        raise UsageError(
            f"The row '{learning[0]}' learns from a teacher.", "Give a teacher, or leave it out of the rows."
        )


def plan_of(
    table: Roadmap, data: PathLike, class_folders: PathLike | None, splits: Mapping[str, str | None]
) -> dict[str, str]:
    """The settings that all rows of a folder share beside their recipes; only those that are given."""
    plan = {"roadmap": table.name, "data": str(Path(data).resolve())}
    if class_folders is not None:
        plan["class folders"] = str(Path(class_folders).resolve())
    return plan | {f"{use} split": name for use, name in splits.items() if name is not None}


def open_both(
    data: PathLike, train_split: str | None, val_split: str | None, reporter: Reporter | None
) -> tuple[Dataset, Dataset]:
    """Opens the splits to train and to evaluate on."""
    training, validation, _ = open_splits(data, train_split, val_split, reporter=reporter)
    if validation is None:
        raise UserError(
            f"'{data}' has nothing to evaluate on, and a roadmap compares what it measures.", "Add a split."
        )
    return training, validation


def open_class_folders(
    class_folders: PathLike | None, recipes: Mapping[str, Recipe], reporter: Reporter | None
) -> tuple[Dataset, Dataset] | None:
    """Opens the class folders that backbones are trained on; None where no row needs them."""
    before = {key: recipe.pretraining for key, recipe in recipes.items() if recipe.pretraining is not None}
    if class_folders is None:
        if before:
            raise UsageError(
                f"The backbone of the row '{next(iter(before))}' is trained as a classifier first.",
                "Give class_folders, a folder of class folders, or pretraining=none.",
            )
        return None
    if not before:
        raise UsageError("No row's backbone is trained as a classifier first.", "Leave class_folders away.")
    training, validation = open_both(class_folders, None, None, reporter)
    for recipe in before.values():
        task_of(recipe, training)
    return training, validation


def chosen_rows(table: Roadmap, rows: str | Sequence[str] | None) -> list[Row]:
    """The rows with these keys, in the table's order; None is all."""
    if rows is None:
        return list(table.rows)
    named = rows.split(",") if isinstance(rows, str) else rows
    wanted = [table.row(key.strip()) for key in named if key.strip()]
    if not wanted:
        raise UsageError("rows names no row.", f"Rows: {', '.join(row.key for row in table.rows)}.")
    return [row for row in table.rows if row in wanted]


def parse_scale(scale: str | Mapping[str, float] | None) -> dict[str, float]:
    """The factors of "depth=0.33,width=0.25", or of a mapping."""
    factors: dict[str, float] = {}
    text = ",".join(f"{name}={factor}" for name, factor in scale.items()) if isinstance(scale, Mapping) else scale
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        try:
            factors[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"scale has '{part}'.", "Write name=factor, such as depth=0.33,width=0.25.") from None
        if not 0 < factors[name.strip()] < 100:
            raise UsageError(f"scale has '{part}'.", "A factor is a number above 0.")
    return factors


def scaled(recipe: Recipe, factors: Mapping[str, float]) -> Recipe:
    """The recipe with settings of its model multiplied, in the pretraining of its backbone as well."""
    networks = ["model.network" if isinstance(recipe.model, Classification) else "model"]
    if recipe.pretraining is not None:
        networks.append("pretraining.model.network")
    new: dict[str, object] = {}
    for network in networks if factors else ():
        model = get(recipe, network)
        if isinstance(model, Scalable):
            if unknown := next((name for name in factors if name not in ("depth", "width")), None):
                raise UsageError(f"scale has '{unknown}', which is no factor.", "Scale depth or width.")
            new[network] = model.scaled(**factors)
            continue
        for name, factor in factors.items():
            present = get(model, name)
            if isinstance(present, bool) or not isinstance(present, float):
                raise UsageError(
                    f"scale has '{name}', which is {to_text(present)} and no factor.", "Scale depth or width."
                )
            new[f"{network}.{name}"] = present * factor
    return change(recipe, new)


def lighter(recipe: Recipe) -> Recipe:
    """The recipe with the pretraining of its backbone in smaller batches, for a CPU."""
    before = recipe.pretraining
    if before is None or before.batch_size <= CPU_BATCH:
        return recipe
    return change(recipe, {"pretraining.batch_size": CPU_BATCH})


def check_conflicts(table: Roadmap, rows: list[Row], overrides: Sequence[str]) -> None:
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
    """The row of a table that is not trained: published numbers and cost."""
    return measured_row(table, row, recipes[row.key], results={}, latency=None, seconds=0.0)
