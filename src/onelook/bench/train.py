"""What a whole training costs against its bare network (forward, backward of a sum, optimizer step), and its loader."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onelook.data import Dataset
from onelook.data.cache_budget import CachePlan
from onelook.data.loader import Batch, Loader
from onelook.losses.detection_loss import DetectionLoss
from onelook.models.build import build
from onelook.training.loop import Epoch, Step, train
from onelook.training.meter import LossMeter
from onelook.training.optimizer import set_rates
from onelook.training.processes import ProcessGroup, choose_device
from onelook.training.recipe import Augment, Recipe
from onelook.training.run import READ_EVERY
from onelook.training.schedule import Rates
from onelook.training.train_state import RuntimeOptions, TrainState

if TYPE_CHECKING:
    from rich.console import Console

    from onelook.types import Predictions

BLOCK = 4  # steps of one kind in a row, before the other has its turn
_MANY = 1 << 20  # epochs, for a loader that is read as long as somebody likes


@dataclass(frozen=True)
class TrainBenchmark:
    """What was measured, under which setting.

    bare, whole, alone: seconds a step, in order, of the bare loop, of the training, and of the training on a batch that
        is always there. On a GPU, which is waited for only after some steps, each is the mean of a block.
    loader: images a second that the loader makes while nobody else works.
    parts: median seconds a step of what a training does besides, each measured alone; they need not add up to the
        difference (waiting overlaps).
    """

    setting: dict[str, Any]
    bare: Sequence[float]
    whole: Sequence[float]
    alone: Sequence[float]
    loader: float
    parts: dict[str, float]

    @property
    def ratio(self) -> float:
        """The training's time over the bare loop's, by means of all steps."""
        return float(np.mean(self.whole) / np.mean(self.bare))

    def to_dict(self) -> dict[str, Any]:
        """Setting, milliseconds a step, images a second and the ratio."""
        rows = {"bare": self.bare, "whole": self.whole, "without the loader": self.alone}
        steps = {
            name: {"mean": float(np.mean(row) * 1e3)} | {f"p{p}": float(np.percentile(row, p) * 1e3) for p in (50, 90)}
            for name, row in rows.items()
        }
        parts = {name: value * 1e3 for name, value in self.parts.items()}
        rates = {name: float(self.setting["batch"] / np.mean(row)) for name, row in rows.items()}
        rates["the loader alone"] = self.loader
        return {
            "setting": self.setting,
            "milliseconds": steps,
            "images_per_second": rates,
            "ratio": self.ratio,
            "parts_milliseconds": parts,
        }

    def show(self, console: Console) -> None:
        """The setting, both times, their ratio, and where the difference goes."""
        from rich.table import Table

        console.print(", ".join(f"{name} {value}" for name, value in self.setting.items()), highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        table.add_column("ms a step")
        for title in ("mean", "p50", "p90", "images a second"):
            table.add_column(title, justify="right")
        figures = self.to_dict()
        rates = figures["images_per_second"]
        for name, row in figures["milliseconds"].items():
            table.add_row(name, *(f"{row[key]:.1f}" for key in ("mean", "p50", "p90")), f"{rates[name]:.1f}")
        table.add_row("the loader alone", "", "", "", f"{self.loader:.1f}")
        for name, value in self.parts.items():
            table.add_row(f"  {name}", "", f"{value * 1e3:.1f}", "", style="dim")
        console.print(table)
        console.print(f"The whole training takes {self.ratio:.2f} times the bare loop.")


def bench_train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: str | None,
    threads: int | None,
    workers: int,
    steps: int,
    warm_up: int,
    runtime: RuntimeOptions | None = None,
    cache: CachePlan | None = None,
) -> TrainBenchmark:
    """Blocks of whole training steps and of bare steps in turn, on batches of the same shape and layout.

    Before them, and before any worker is there, steps of a training on one batch.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    process_group, runtime = ProcessGroup(0, 1, choose_device(device)), runtime or RuntimeOptions()
    train_state, bare = (
        TrainState(recipe, build(recipe.model, dataset.names), process_group, runtime) for _ in range(2)
    )
    set_rates(bare.optimizer, Rates(0.0), 0.0)  # a sum has no minimum: its steps are made, but lead nowhere
    batch = next(_loader(recipe, dataset, 0).epoch(0, recipe.augment, 0))
    resident = Batch(batch.images.to(process_group.device), batch.targets.to(process_group.device), batch.indices)
    images = resident.images.contiguous(memory_format=_layout(runtime, process_group))
    alone = steps_alone(recipe, dataset, runtime, process_group, resident, steps=steps, warm_up=warm_up)
    whole_times: list[float] = []
    bare_times: list[float] = []
    meter = LossMeter()
    with _loader(recipe, dataset, workers, pin=process_group.device.type == "cuda", cache=cache) as loader:
        turn = _turn(train(recipe, train_state, loader), meter)
        _warm(turn, meter, warm_up, process_group)
        _warm(lambda: _bare_step(bare, images), None, warm_up, process_group)
        while len(whole_times) < steps:
            whole_times += _block(turn, meter, process_group)
            bare_times += _block(lambda: _bare_step(bare, images), None, process_group)
        rate = _loader_rate(loader, recipe, workers)
    parts = _parts(recipe, train_state, resident.images, resident.targets, process_group)
    parts["waiting for the loader"] = meter.waited / len(whole_times)
    kept_images = "none" if cache is None else "memory" if cache.folder is None else "disk"
    setting = _setting(recipe, runtime, process_group, workers) | {
        "cache": kept_images,
        "warm-up": warm_up,
        "steps": steps,
    }
    return TrainBenchmark(setting, bare_times[:steps], whole_times[:steps], alone, rate, parts)


def steps_alone(
    recipe: Recipe,
    dataset: Dataset,
    runtime: RuntimeOptions,
    process_group: ProcessGroup,
    batch: Batch,
    *,
    steps: int,
    warm_up: int,
) -> list[float]:
    """Seconds of so many steps of a training whose batch is always there: no worker is at work meanwhile."""
    train_state, meter = TrainState(recipe, build(recipe.model, dataset.names), process_group, runtime), LossMeter()
    turn = _turn(train(recipe, train_state, _Resident(batch, _MANY)), meter)
    _warm(turn, meter, warm_up, process_group)
    times: list[float] = []
    while len(times) < steps:
        times += _block(turn, meter, process_group)
    return times[:steps]


def _loader(
    recipe: Recipe, dataset: Dataset, workers: int, *, pin: bool = False, cache: CachePlan | None = None
) -> Loader:
    return Loader(
        dataset,
        recipe.input_size,
        recipe.batch_size,
        epochs=_MANY,
        seed=recipe.seed,
        sampling=recipe.sampling,
        max_labels=recipe.max_labels,
        workers=workers,
        pin=pin,
        cache=0 if cache is None else cache.budget,
        cache_folder=None if cache is None else cache.folder,
    )


def _setting(recipe: Recipe, runtime: RuntimeOptions, process_group: ProcessGroup, workers: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name()
        if process_group.device.type == "cuda"
        else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "workers": workers,
        "precision": runtime.precision_on(process_group.device),
        "layout": "channels last" if runtime.channels_last_on(process_group.device) else "contiguous",
        "compiled": runtime.compile,
        "batch": recipe.batch_size,
        "size": recipe.input_size,
    }


def _layout(runtime: RuntimeOptions, process_group: ProcessGroup) -> torch.memory_format:
    return torch.channels_last if runtime.channels_last_on(process_group.device) else torch.contiguous_format


@dataclass(frozen=True)
class _Resident:
    """One batch, always the same, on the device where it is needed (`train.loop.Batches`)."""

    batch: Batch
    count: int

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, augment: Augment, first: int) -> Iterator[Batch]:
        for _ in range(first, self.count):
            yield self.batch


def _turn(stream: Iterator[Step | Epoch], meter: LossMeter) -> Callable[[], None]:
    """What takes the next step of a training."""
    steps = (event for event in stream if isinstance(event, Step))
    return lambda: meter.add(next(steps))


def _warm(turn: Callable[[], None], meter: LossMeter | None, count: int, process_group: ProcessGroup) -> None:
    """Turns that do not count: kernels are chosen, networks compiled, workers started."""
    for _ in range(count):
        _time(turn, process_group)
    if meter is not None:
        meter.read()
        meter.waited = 0.0


def _block(turn: Callable[[], None], meter: LossMeter | None, process_group: ProcessGroup) -> list[float]:
    """Seconds of some turns. What logging costs is in them: losses are read as seldom as a training reads them."""
    count, at_once = (READ_EVERY, READ_EVERY) if process_group.device.type == "cuda" else (BLOCK, 1)

    def turns() -> None:
        for _ in range(at_once):
            turn()
        if meter is not None:
            meter.read()

    seconds: list[float] = []
    for _ in range(count // at_once):
        seconds += [_time(turns, process_group) / at_once] * at_once
    return seconds


def _loader_rate(loader: Loader, recipe: Recipe, workers: int) -> float:
    """Images a second of a loader whose batches are taken at once; what it had made ahead is not counted."""
    ahead = 2 * workers

    def batches() -> Iterator[Batch]:
        for epoch in range(1, _MANY):
            yield from loader.epoch(epoch, recipe.augment, 0)

    endless = batches()
    for _ in range(ahead):
        next(endless)
    begin, count = perf_counter(), max(ahead, 4)
    for _ in range(count):
        next(endless)
    return count * recipe.batch_size / (perf_counter() - begin)


def _bare_step(train_state: TrainState, images: torch.Tensor) -> None:
    train_state.step.train()
    with train_state.autocast():
        predictions = train_state.detector(images.float())
    train_state.backward(_sum(predictions))
    if train_state.scaler is not None:
        train_state.scaler.step(train_state.optimizer)
        train_state.scaler.update()
    else:
        train_state.optimizer.step()
    train_state.optimizer.zero_grad(set_to_none=True)


def _sum(predictions: Predictions) -> torch.Tensor:
    total = predictions.regression.float().sum() + predictions.classes.float().sum()
    return total if predictions.objectness is None else total + predictions.objectness.float().sum()


def _parts(
    recipe: Recipe, train_state: TrainState, images: torch.Tensor, targets: Any, process_group: ProcessGroup
) -> dict[str, float]:
    """Median seconds of the assignment, of loss and assignment with their gradients, and of the average."""
    assert isinstance(recipe.loss, DetectionLoss)
    assigner = recipe.loss.assigner
    with torch.no_grad():
        predictions = train_state.detector(images.float())

    def losses() -> None:
        leaves = {
            name: getattr(predictions, name).detach().requires_grad_()
            for name in ("boxes", "classes", "objectness", "regression")
            if getattr(predictions, name) is not None
        }
        said = replace(predictions, **leaves)
        torch.stack(list(recipe.loss(said, targets).values())).sum().backward()

    def median(work: Callable[[], Any]) -> float:
        return float(np.median([_time(work, process_group) for _ in range(5)]))

    parts = {
        "assignment": median(lambda: assigner(predictions, targets)),
        "assignment, losses and their gradients": median(losses),
    }
    average = train_state.ema
    if average is not None:
        parts["average of the weights"] = median(lambda: average.update(train_state.detector))
    return parts


def _time(work: Callable[[], Any], process_group: ProcessGroup) -> float:
    begin = perf_counter()
    work()
    if process_group.device.type == "cuda":
        torch.cuda.synchronize(process_group.device)
    return perf_counter() - begin
