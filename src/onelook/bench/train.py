"""What a whole training costs against its bare network: forward, backward of a sum, optimizer step."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onelook.data import Dataset
from onelook.data.loader import Loader
from onelook.losses.loss import DetectionLoss
from onelook.models.build import build
from onelook.train.learner import Learner, Machine
from onelook.train.loop import Step, train
from onelook.train.meter import Meter
from onelook.train.optimizer import set_rates
from onelook.train.processes import World, choose_device
from onelook.train.recipe import Recipe
from onelook.train.schedule import Rates

if TYPE_CHECKING:
    from rich.console import Console

    from onelook.types import Predictions

BLOCK = 4  # steps of one kind in a row, before the other has its turn


@dataclass(frozen=True)
class TrainBenchmark:
    """bare, whole: seconds a step, in order, of the bare loop and of the training.  parts: median seconds a step of
    what a training does besides, each measured alone; they need not add up to the difference (waiting overlaps)."""

    setting: dict[str, Any]
    bare: Sequence[float]
    whole: Sequence[float]
    parts: dict[str, float]

    @property
    def ratio(self) -> float:
        """The training's time over the bare loop's, by means of all steps."""
        return float(np.mean(self.whole) / np.mean(self.bare))

    def to_dict(self) -> dict[str, Any]:
        """Setting, milliseconds a step and the ratio."""
        rows = {"bare": self.bare, "whole": self.whole}
        steps = {
            name: {"mean": float(np.mean(row) * 1e3)} | {f"p{p}": float(np.percentile(row, p) * 1e3) for p in (50, 90)}
            for name, row in rows.items()
        }
        parts = {name: value * 1e3 for name, value in self.parts.items()}
        return {"setting": self.setting, "milliseconds": steps, "ratio": self.ratio, "parts_milliseconds": parts}

    def show(self, console: Console) -> None:
        """The setting, both times, their ratio, and where the difference goes."""
        from rich.table import Table

        console.print(", ".join(f"{name} {value}" for name, value in self.setting.items()), highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        table.add_column("ms a step")
        for title in ("mean", "p50", "p90"):
            table.add_column(title, justify="right")
        for name, row in self.to_dict()["milliseconds"].items():
            table.add_row(name, *(f"{row[key]:.1f}" for key in ("mean", "p50", "p90")))
        for name, value in self.parts.items():
            table.add_row(f"  {name}", "", f"{value * 1e3:.1f}", "", style="dim")
        console.print(table)
        console.print(f"The whole training takes {self.ratio:.2f} times the bare loop.")


def bench_train(
    recipe: Recipe, dataset: Dataset, *, device: str | None, threads: int | None, workers: int, steps: int, warm_up: int
) -> TrainBenchmark:
    """Blocks of whole training steps and of bare steps in turn, on batches of the same shape and layout."""
    if threads is not None:
        torch.set_num_threads(threads)
    world = World(0, 1, choose_device(device))
    learner, bare = (Learner(recipe, build(recipe.model, dataset.names), world, Machine()) for _ in range(2))
    loader = Loader(
        dataset,
        recipe.input_size,
        recipe.batch_size,
        seed=recipe.seed,
        sampling=recipe.sampling,
        workers=workers,
        pin=world.device.type == "cuda",
    )
    set_rates(bare.optimizer, Rates(0.0), 0.0)  # a sum has no minimum: its steps are made, but lead nowhere
    whole_times: list[float] = []
    bare_times: list[float] = []
    with loader:
        batch = next(loader.epoch(0, recipe.augment, 0))
        images = batch.images.to(world.device)
        stream, meter = train(recipe, learner, loader), Meter()
        while len(whole_times) < warm_up + steps:
            begin = perf_counter()
            for event in islice((event for event in stream if isinstance(event, Step)), BLOCK):
                meter.add(event)
                meter.read()  # what logging costs
                whole_times.append(perf_counter() - begin)
                begin = perf_counter()
            bare_times += [_time(lambda: _bare_step(bare, images), world) for _ in range(BLOCK)]
    parts = _parts(recipe, learner, images, batch.targets.to(world.device), world)
    parts["waiting for the loader"] = meter.waited / max(len(whole_times), 1)
    setting = {
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "workers": workers,
        "precision": Machine().precision_on(world.device),
        "layout": "channels last" if Machine().channels_last_on(world.device) else "contiguous",
        "batch": recipe.batch_size,
        "size": recipe.input_size,
        "warm-up": warm_up,
        "steps": steps,
    }
    return TrainBenchmark(setting, bare_times[warm_up:][:steps], whole_times[warm_up:][:steps], parts)


def _bare_step(learner: Learner, images: torch.Tensor) -> None:
    learner.step.train()
    with learner.autocast():
        predictions = learner.detector(images.float())
    learner.backward(_sum(predictions))
    if learner.scaler is not None:
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    else:
        learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)


def _sum(predictions: Predictions) -> torch.Tensor:
    total = predictions.regression.float().sum() + predictions.classes.float().sum()
    return total if predictions.objectness is None else total + predictions.objectness.float().sum()


def _parts(recipe: Recipe, learner: Learner, images: torch.Tensor, targets: Any, world: World) -> dict[str, float]:
    """Median seconds of the assignment, of loss and assignment with their gradients, and of the average."""
    assert isinstance(recipe.loss, DetectionLoss)
    assigner = recipe.loss.assigner
    with torch.no_grad():
        predictions = learner.detector(images.float())

    def losses() -> None:
        leaves = {
            name: getattr(predictions, name).detach().requires_grad_()
            for name in ("boxes", "classes", "objectness", "regression")
            if getattr(predictions, name) is not None
        }
        said = replace(predictions, **leaves)
        torch.stack(list(recipe.loss(said, targets).values())).sum().backward()

    def median(work: Callable[[], Any]) -> float:
        return float(np.median([_time(work, world) for _ in range(5)]))

    parts = {
        "assignment": median(lambda: assigner(predictions, targets)),
        "assignment, losses and their gradients": median(losses),
    }
    average = learner.average
    if average is not None:
        parts["average of the weights"] = median(lambda: average.update(learner.detector))
    return parts


def _time(work: Callable[[], Any], world: World) -> float:
    begin = perf_counter()
    work()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return perf_counter() - begin
