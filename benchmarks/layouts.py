"""Memory layouts on a CPU: the error of float32 gradients against float64, and the time of a step, layout by layout."""

from __future__ import annotations

import copy
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from command import run_benchmark
from onelook.config import change
from onelook.data import open_dataset
from onelook.data.loader import Batch, Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SPLIT_LAYOUT = "convolutions only"  # channels-last
MODELS = ("yolov4-tiny", "yolox-nano", "yolov7-tiny", "damo-yolo-ns")


@dataclass(frozen=True)
class LayoutBenchmark:
    """errors: by model and layout, |g32 - g64| / |g64| over all gradients of the first step, one a seed.

    seconds: by model and layout, the processor's time of forward, losses and backward, one a round.
    """

    setting: dict[str, Any]
    errors: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Mapping[str, Mapping[str, Sequence[float]]]

    def ratio(self, model: str, layout: str) -> float:
        """How many times longer a step takes than with channels-last: the median of the rounds' ratios."""
        times = self.seconds[model]
        return float(np.median(np.array(times[layout]) / np.array(times["channels-last"])))

    def to_dict(self) -> dict[str, Any]:
        """The setting; for each model and layout all errors, their median, and the ratio of times."""
        models = {
            model: {
                layout: {"errors": list(found), "median": float(np.median(found)), "time": self.ratio(model, layout)}
                for layout, found in rows.items()
            }
            for model, rows in self.errors.items()
        }
        return {"setting": self.setting, "models": models}

    def show(self, console: Console) -> None:
        """Prints a line for each model and layout."""
        from rich.table import Table

        console.print(", ".join(f"{name} {value}" for name, value in self.setting.items()))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for title in ("model", "layout", "error, median", "least", "most", "time"):
            table.add_column(title, no_wrap=True)
        for model, rows in self.errors.items():
            for layout, found in rows.items():
                figures = (f"{100 * value:.3f} %" for value in (np.median(found), min(found), max(found)))
                table.add_row(model, layout, *figures, f"{self.ratio(model, layout):.2f}")
        console.print(table)
        console.print("Times of the processor, as parts of channels-last's.")


def layouts(
    *models: str, size: int = 224, batch: int = 4, seeds: int = 5, rounds: int = 5, threads: int = 1
) -> LayoutBenchmark:
    """The gradients of the first step in float32 and both memory layouts, against those in float64.

    "convolutions only" is channels-last except for batch norm, whose input and output are converted: it shows which of
    the two makes the difference. All take turns, with the same weights and batch.

    Examples:
        python benchmarks/layouts.py
        python benchmarks/layouts.py yolox-s --size 320

    Args:
        models: Names of models, with their published losses; one of each family if none is given.
        size: Side of the network's input in pixels.
        batch: Images a step.
        seeds: Initialisations of each network.
        rounds: Steps of each layout that are timed.
        threads: Threads of PyTorch.

    Returns:
        The errors and the ratios of times.
    """
    for flag, value in {"batch": batch, "seeds": seeds, "rounds": rounds, "threads": threads}.items():
        if value < 1:
            raise UsageError(f"--{flag} is {value}.", "Give a number of 1 or more.")
    torch.set_num_threads(threads)
    errors: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = write_synthetic(Path(folder) / "scenes", Scenes(size=(320, 320)), {"train": 2 * batch})
        dataset = open_dataset(made, "train")
        for model in models or MODELS:
            new = {"size": (size, size), "batch_size": batch, "model.num_classes": len(dataset.names)}
            new |= {"multiscale": None, "accumulate": 1, "join_micro_batches": False}
            recipe = change(find_recipe(model), new)
            images = next(Loader(dataset, recipe.input_size, batch).epoch(0, recipe.augment, 0))
            errors[model] = gradient_errors(recipe, images, seeds)
            seconds[model] = _times(recipe, images, rounds)
    setting = {"processor": platform.processor() or platform.machine(), "threads": threads, "size": size}
    setting |= {"batch": batch, "PyTorch": torch.__version__}
    return LayoutBenchmark(setting, errors, seconds)


def gradient_errors(recipe: Recipe, batch: Batch, seeds: int) -> dict[str, list[float]]:
    """By layout, the relative error of all gradients of the first step, for so many initialisations."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        detector = build(recipe.model)
        exact = _gradients(recipe, copy.deepcopy(detector).double(), batch, torch.contiguous_format, torch.float64)
        for layout, laid_out in _laid_out(detector).items():
            error = _gradients(recipe, laid_out, batch, _format(layout)).double() - exact
            found.setdefault(layout, []).append(float(error.norm() / exact.norm()))
    return found


def _times(recipe: Recipe, batch: Batch, rounds: int) -> dict[str, list[float]]:
    networks = _laid_out(build(recipe.model))
    found: dict[str, list[float]] = {layout: [] for layout in networks}
    for number in range(rounds + 1):
        for layout, network in networks.items():
            begin = process_time()
            _gradients(recipe, network, batch, _format(layout))
            if number:  # the first chooses kernels
                found[layout].append(process_time() - begin)
    return found


def _laid_out(detector: nn.Module) -> dict[str, nn.Module]:
    """Copies of a network in each layout."""
    copies = {name: copy.deepcopy(detector).to(memory_format=kind) for name, kind in LAYOUTS.items()}  # type: ignore[call-overload]
    copies[SPLIT_LAYOUT] = copy.deepcopy(copies["channels-last"])
    for module in copies[SPLIT_LAYOUT].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
            module.register_forward_hook(lambda _, __, y: y.contiguous(memory_format=torch.channels_last))
    return copies


def _format(layout: str) -> torch.memory_format:
    return LAYOUTS["contiguous" if layout == "contiguous" else "channels-last"]


def _gradients(
    recipe: Recipe, network: nn.Module, batch: Batch, layout: torch.memory_format, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """All gradients of the recipe's loss in one row."""
    network.train().zero_grad()
    targets = replace(batch.targets, boxes=batch.targets.boxes.to(dtype))
    predictions = network(batch.images.to(dtype).contiguous(memory_format=layout))
    torch.stack(list(recipe.loss_at(0)(predictions, targets).values())).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


if __name__ == "__main__":
    sys.exit(run_benchmark(layouts))
