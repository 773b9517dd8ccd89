"""Trains the rows of a roadmap on workers, and makes a table of the results in its folder."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onelook import run_files
from onelook.api.alternation import alternate
from onelook.api.bench import NoPostprocess, scene_images
from onelook.api.kept import read_kept
from onelook.api.train import train
from onelook.cluster.retrying import run_all
from onelook.cluster.workers import Call, InProcess, Workers
from onelook.config import change, from_plain, to_plain, to_text
from onelook.data import Dataset
from onelook.errors import UserError
from onelook.files import write_text
from onelook.losses.classifier import ClassLoss
from onelook.networks.deploy import deploy
from onelook.predict.runtimes.torch import TorchRuntime
from onelook.recipes import RECIPE_TYPES, find_recipe
from onelook.recipes.roadmaps import COUNTS, PRINTED_METRICS, Roadmap, Row
from onelook.report.roadmap import TITLES, MeasuredRow, RoadmapTable
from onelook.report.training import describe_hardware
from onelook.reporter import Reporter
from onelook.training.files import locked_when_free, make_folder
from onelook.training.recipe import Recipe
from onelook.training.same_recipe import check_same_recipe
from onelook.training.start import make_detector
from onelook.training.teacher import find_teacher
from onelook.types import UNDEFINED, counted

RESULT, LATENCY, PLAN, BACKBONE = "result.json", "latency.json", "roadmap.json", "backbone"
WARM_UP, RUNS = 5, 30  # images that the latency of a row is measured on


def write_plan(folder: Path, plan: Mapping[str, str]) -> None:
    """Writes the settings of a roadmap into its folder; UserError where the folder holds other settings."""
    path = folder / PLAN
    if path.is_file():
        before = read_kept(path)
        if before != plan:
            held = ", ".join(f"{key} {value}" for key, value in before.items())
            raise UserError(f"'{folder}' holds another roadmap: {held}.", "Choose another folder (out).")
        return
    make_folder(folder)
    write_text(path, json.dumps(plan, indent=1) + "\n")


@dataclass(frozen=True)
class RowTraining:
    """One training of a roadmap, as any worker can run it: of a row with one seed, or of a row's backbone.

    weights: that it starts from.  teacher: file of the model that it learns from.
    """

    title: str
    folder: Path
    recipe: Recipe
    weights: Path | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class TrainingSetup:
    """What all trainings of a roadmap share. data: the data sets, training and validation."""

    data: tuple[Dataset, Dataset]
    device: str
    workers: int | None
    command: str


def train_row(one: RowTraining, setup: TrainingSetup, reporter: Reporter | None = None) -> bool:
    """Trains, or continues a training, and writes its result when it is finished; False where it was interrupted."""
    elsewhere = reporter is None  # where a worker of a command that was killed may be at its end
    with locked_when_free(one.folder) if elsewhere else nullcontext():
        result = train(
            one.recipe,
            setup.data[0],
            validation=setup.data[1],
            weights=one.weights,
            teacher=one.teacher,
            out=one.folder,
            resume=(one.folder / run_files.CHECKPOINT).is_file(),
            device=setup.device,
            workers=setup.workers,
            resume_command=lambda _: setup.command,
            reporter=reporter,
        )
    if result.reason == "interrupted":
        return False
    measures = ("top1", "top5") if isinstance(one.recipe.loss, ClassLoss) else tuple(PRINTED_METRICS)
    reached = {name: result.last[name] for name in measures}
    reached |= {"epochs": result.epochs, "seconds": result.seconds}
    write_text(one.folder / RESULT, json.dumps(reached, indent=1) + "\n")
    return True


@dataclass(frozen=True)
class RoadmapTraining:
    """Trains a roadmap in a folder, which always holds all results so far.

    class_folders: the data sets, training and validation, that the rows' backbones are trained on where they begin as
    classifiers; None where no row's does.  changed: what was set for all rows alike, as it was written.  processes:
    that train; with those of this process, rows are trained one after the other.
    """

    definition: Roadmap
    recipes: Mapping[str, Recipe]
    folder: Path
    training: Dataset
    validation: Dataset
    device: torch.device
    workers: int | None
    teacher: str | None
    reporter: Reporter
    processes: Workers
    class_folders: tuple[Dataset, Dataset] | None = None
    changed: tuple[str, ...] = ()

    def train_all(self, rows: list[Row], seeds: int) -> RoadmapTable:
        """Trains each row with each seed, and writes the table. KeyboardInterrupt after Ctrl-C."""
        if self.class_folders is not None:
            self.run([one for row in rows if (one := self.backbone(row)) is not None], self.class_folders)
        trainings = [self.row_training(row, seed) for seed in range(seeds) for row in rows]
        self.run(trainings, (self.training, self.validation))
        found = self.table(rows, seeds)
        found.write()
        return found

    def row_training(self, row: Row, seed: int) -> RowTraining:
        """The training of a row with one seed."""
        recipe = change(self.recipes[row.key], {"seed": self.recipes[row.key].seed + seed})
        folder, teacher = self.folder / row.key / f"seed-{seed}", self.teacher if recipe.distillation else None
        before = None if recipe.pretraining is None else self.folder / row.key / BACKBONE / run_files.LAST_WEIGHTS
        return RowTraining(f"{row.name}, seed {seed}", folder, recipe, before, teacher)

    def backbone(self, row: Row) -> RowTraining | None:
        """The training of a row's backbone as a classifier, once for all seeds; None where it has none."""
        recipe = self.recipes[row.key].pretraining
        if recipe is None or self.class_folders is None:
            return None
        recipe = change(recipe, {"model.num_classes": len(self.class_folders[0].names)})
        return RowTraining(f"{row.name}, the backbone", self.folder / row.key / BACKBONE, recipe)

    def run(self, trainings: Sequence[RowTraining], data: tuple[Dataset, Dataset]) -> None:
        """Runs the trainings that are not done yet. KeyboardInterrupt after Ctrl-C."""
        command = f"onelook roadmap {self.definition.name} ... --out {shlex.quote(str(self.folder))} (the same command)"
        setup = self.processes.share(TrainingSetup(data, str(self.device), self.workers, command))
        missing = [one for one in trainings if not self.is_done(one)]
        # A reporter belongs to this process; elsewhere a training writes to a file beside its folder.
        beside = () if not isinstance(self.processes, InProcess) else (self.reporter,)

        def begin(number: int, one: RowTraining) -> Call[bool]:
            self.reporter.info(f"\n{one.title}")
            one.folder.parent.mkdir(parents=True, exist_ok=True)
            log = one.folder.with_name(f"{one.folder.name}.log")
            return self.processes.submit(train_row, one, setup, *beside, log=log)

        def finished(number: int, whole: bool) -> None:
            if not whole:
                raise KeyboardInterrupt
            if not beside:
                self.reporter.info(f"{missing[number].title}: finished")

        if failed := run_all(self.processes, iter(enumerate(missing)), begin, finished):
            number, reason = next(iter(failed.items()))
            raise UserError(f"'{missing[number].title}' was not trained: {reason}", "The same command continues it.")

    def is_done(self, one: RowTraining) -> bool:
        """Whether a training is finished; UserError where it was another one."""
        if not is_done(one.folder, one.recipe):
            return False
        find_teacher(one.recipe, one.folder, one.teacher, None, True)  # refuses another
        return True

    def table(self, rows: list[Row], seeds: int) -> RoadmapTable:
        """What the folder holds, as a table."""
        measured, milliseconds = [], self.latencies(rows)
        for row in rows:
            results = {}
            for seed in range(seeds):
                path = self.folder / row.key / f"seed-{seed}" / RESULT
                results[seed] = read_kept(path)
            recipe = self.recipes[row.key]
            measured.append(
                measured_row(
                    self.definition,
                    row,
                    recipe,
                    results={
                        measure: {
                            seed: 100 * float(result[measure])
                            for seed, result in results.items()
                            if result.get(measure, UNDEFINED) != UNDEFINED
                        }
                        for measure in self.definition.measures
                    },
                    latency=milliseconds[row.key],
                    seconds=sum(float(result["seconds"]) for result in results.values()),
                )
            )
        table = self.definition
        return RoadmapTable(
            table.name, table.title, table.source, measured, self.facts(seeds), self.folder, table.measures
        )

    def latencies(self, rows: list[Row]) -> dict[str, float]:
        """Milliseconds of each row's network by its key, measured in alternation and kept for this computer.

        Rows with the same network share one measurement. Where a row is new, all are measured again: times taken an
        hour apart, or on different computers, cannot be compared.
        """
        first: dict[object, str] = {}  # network and size -> the first row that has them
        same = {}
        for row in rows:
            recipe = self.recipes[row.key]
            same[row.key] = first.setdefault((recipe.model, recipe.input_size), row.key)
        path = self.folder / LATENCY
        kept = read_kept(path) if path.is_file() else {}
        here = not isinstance(self.processes, InProcess) or kept.get("device") == describe_hardware(self.device)
        known = kept.get("milliseconds") if here else None
        if not isinstance(known, dict) or not set(same.values()) <= set(known):
            recipes = {key: self.recipes[key] for key in first.values()}
            kept = self.processes.submit(measure_latencies, recipes, self.training.names, str(self.device)).result()
            known = kept["milliseconds"]
            write_text(path, json.dumps(kept, indent=1) + "\n")
        return {key: float(known[measured]) for key, measured in same.items()}

    def facts(self, seeds: int) -> dict[str, str]:
        """What the numbers of the table depend on: hardware, settings, data."""
        recipe, device = next(iter(self.recipes.values())), read_kept(self.folder / LATENCY)["device"]
        height, width = recipe.input_size
        spread = f"mean and sample standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
        backbones = {} if self.class_folders is None else {"backbones trained on": self.class_folders[0].describe()}
        return {
            **backbones,
            "trained on": self.training.describe(),
            "evaluated on": self.validation.describe(),
            "training": f"{counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, {width}x{height}",
            **({"changed in all rows": ", ".join(self.changed)} if self.changed else {}),
            ", ".join(TITLES[one] for one in self.definition.measures): (
                f"in per cent, of the last epoch's weights; {spread}"
            ),
            "ms": f"median of {RUNS} images in alternation, batch 1, float32, deploy form, NMS not in it; {device}",
            "parameters and GFLOPs": f"{COUNTS[self.definition.counts]}; at the size trained at",
            "paper": self.definition.setting,
        }


def is_done(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder holds the finished training of a recipe; UserError if it is of another recipe."""
    if not (folder / RESULT).is_file():
        return False
    # As the file has it: a whole number may be a float there.
    check_same_recipe(folder, find_recipe(folder), from_plain(to_plain(recipe), RECIPE_TYPES))
    return True


def measured_row(
    table: Roadmap,
    row: Row,
    recipe: Recipe,
    *,
    results: Mapping[str, Mapping[int, float]],
    latency: float | None,
    seconds: float,
) -> MeasuredRow:
    """The row with its cost: parameters and GFLOPs of the model as it is trained."""
    parameters, gflops = table.cost(row, recipe.model, recipe.input_size)
    return MeasuredRow(
        key=row.key,
        name=row.name,
        base=table.base_of(row),
        change=tuple(f"{path}={to_text(value)}" for path, value in row.change.items()),
        results=results,
        parameters=parameters,
        gflops=gflops,
        latency=latency,
        published=row.published,
        note=row.note,
        seconds=seconds,
    )


def measure_latencies(recipes: Mapping[str, Recipe], names: tuple[str, ...], device: str) -> dict[str, Any]:
    """The median milliseconds of the recipes' networks, by the recipes' keys, and the hardware that they are of."""
    chosen = torch.device(device)
    runs = {key: forward(recipe, names, chosen) for key, recipe in recipes.items()}
    return {"device": describe_hardware(chosen), "milliseconds": latencies(runs, chosen)}


def forward(recipe: Recipe, names: tuple[str, ...], device: torch.device) -> Callable[[], object]:
    """A function that runs a recipe's deployed network on one image, without postprocessing."""
    network: Any = make_detector(recipe, names)
    if isinstance(recipe.loss, ClassLoss):
        classifier, images = deploy(network).to(device), torch.rand(1, 3, *recipe.input_size, device=device) * 255
        return lambda: classifier(images)
    backend = TorchRuntime(network, device, size=recipe.input_size)
    batch, postprocess = scene_images(backend, 1), NoPostprocess()
    return lambda: backend(batch, postprocess)


@torch.inference_mode()
def latencies(runs: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Milliseconds of each call, the median of some; the calls take turns, so that all see the same machine."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = alternate(runs, RUNS, warm_up=WARM_UP, wait=wait)
    return {key: 1000 * statistics.median(found) for key, found in seconds.items()}
