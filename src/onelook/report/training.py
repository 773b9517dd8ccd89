"""Makes the report of a finished run from the files in its folder and an evaluation of its best weights."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import torch

from onelook import run_files
from onelook.config import to_text
from onelook.data.split import Dataset
from onelook.devices import num_cores, processor_name
from onelook.evaluation.coco import Evaluation
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import VARIANTS
from onelook.recipes import default_recipe
from onelook.report.advice import Advice, advise, training_figures
from onelook.report.build import annotation_hints, describe_changes, example_images, read_metrics, read_report_image
from onelook.report.page import Report, ReportImage, write_report
from onelook.training.recipe import Recipe
from onelook.training.result import RunResult, format_duration
from onelook.training.teacher import read_teacher_record
from onelook.types import counted
from onelook.weights import read_header


def variant_name(recipe: Recipe) -> str | None:
    """The name of the published variant of a recipe's model, with any class count; None for other architectures."""
    for name, row in VARIANTS.items():
        if replace(row.architecture, num_classes=recipe.model.num_classes) == recipe.model:  # type: ignore[type-var]
            return name
    return None


def report_training(
    trained: RunResult,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset | None,
    *,
    evaluation: Evaluation | None,
    device: torch.device,
    train_ap: float | None = None,
) -> tuple[Path, list[Advice]]:
    """Writes `report.html` into the run's folder; returns its path and what it advises.

    evaluation: of the best weights on `validation`; without one the report has only the curves and the recipe.
    train_ap: AP of the best weights on training images; None where it was not measured.
    """
    folder = trained.folder
    name = variant_name(recipe)
    published = default_recipe(name) if name is not None else None
    worst: list[ReportImage] = []
    best: list[ReportImage] = []
    if evaluation is not None and validation is not None:
        worst, best = example_images(evaluation, validation, validation.names)
    history = read_metrics(folder / run_files.METRICS)
    advice = None
    if evaluation is not None:
        figures = training_figures(
            history,
            evaluation,
            training,
            epochs=round(float(history[-1]["epoch"])) if history else recipe.epochs,  # a budget may end earlier
            stopped_early=trained.reason == "patience",
            input_size=recipe.input_size,
            train_ap=train_ap,
            from_weights=bool((read_header(trained.weights).trained or {}).get("initial")),
        )
        advice = advise(figures)
    report = Report(
        title=f"{name or type(recipe.model).__name__} on {training.described_by.name}",
        history=history,
        evaluation=evaluation,
        facts=_facts(trained, recipe, training, validation) | {"hardware": describe_hardware(device)},
        recipe_text=(folder / run_files.RECIPE).read_text(encoding="utf-8"),
        changes=[] if published is None else describe_changes(published, recipe),
        first_batch=read_report_image(folder / run_files.FIRST_BATCH, "boxes are the targets of the network"),
        worst=worst,
        best=best,
        notes=[] if evaluation is None else [*evaluation.notes, *annotation_hints(evaluation)],
        advice=advice,
    )
    return write_report(folder / run_files.REPORT, report), advice or []


def _facts(trained: RunResult, recipe: Recipe, training: Dataset, validation: Dataset | None) -> dict[str, str]:
    name = variant_name(recipe)
    model = recipe.model.build()
    height, width = recipe.input_size
    cost = f"{count_parameters(model) / 1e6:.2f} M parameters, {count_gflops(model, recipe.input_size):.2f} GFLOPs"
    best = "" if trained.best_epoch is None else f" (best in epoch {trained.best_epoch})"
    if trained.never_defined:
        best = f" ({trained.metric} was never defined on the validation set: best is the last epoch)"
    done = f"{counted(trained.epochs, 'epoch')}, {counted(trained.steps, 'step')}"
    return {
        "model": f"{name or to_text(recipe.model)}, {cost} at {width}x{height}",
        **({} if recipe.distillation is None else {"teacher": str(read_teacher_record(trained.folder))}),
        "training": training.describe(),
        "validation": "none" if validation is None else validation.describe(),
        "trained": f"{done} of {recipe.batch_size} images{best}",
        "time": format_duration(trained.seconds),
        "software": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        "folder": str(trained.folder.resolve()),
    }


def describe_hardware(device: torch.device) -> str:
    """The name of the device: of the GPU, or of the processor with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores, threads = num_cores(), torch.get_num_threads()
    return (
        f"{device.type}: {processor_name()}, {cores} core{'s' * (cores != 1)}, {threads} thread{'s' * (threads != 1)}"
    )
