"""What a whole training costs against its bare network (forward, backward of a sum, optimizer step), and its loader."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from command import run_benchmark
from onelook.config import change
from onelook.data import Dataset, open_dataset, splits
from onelook.data.cache_budget import CachePlan, plan_cache
from onelook.data.loader import Batch, Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.devices import Precision, choose_device
from onelook.errors import UsageError
from onelook.losses.detection_loss import DetectionLoss
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.training.loop import Epoch, Step, train
from onelook.training.meter import LossMeter
from onelook.training.optimizer import set_rates
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Augment, Recipe
from onelook.training.run import READ_EVERY
from onelook.training.schedule import Rates
from onelook.training.train_state import RuntimeOptions, TrainState

if TYPE_CHECKING:
    from rich.console import Console

    from onelook.types import Predictions

BLOCK = 4  # steps of one kind in a row, before the other has its turn
MANY = 1 << 20  # epochs, more than any benchmark reads from a loader


@dataclass(frozen=True)
class TrainBenchmark:
    """What was measured, under which setting.

    bare, whole, alone: seconds a step, in order, of the bare loop, of the training, and of the training on a batch that
        is always there. On a GPU, which is waited for only after some steps, each is the mean of a block.
    loader: images a second that the loader makes while nothing else runs.
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
    machine: RuntimeOptions | None = None,
    cache: CachePlan | None = None,
) -> TrainBenchmark:
    """Blocks of whole training steps and of bare steps in turn, on batches of the same shape and layout.

    Before them, and before any worker is there, steps of a training on one batch.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    world, machine = ProcessGroup(0, 1, choose_device(device)), machine or RuntimeOptions()
    learner, bare = (TrainState(recipe, build(recipe.model, dataset.names), world, machine) for _ in range(2))
    set_rates(bare.optimizer, Rates(0.0), 0.0)  # a sum has no minimum: its steps are made, but lead nowhere
    batch = next(_loader(recipe, dataset, 0).epoch(0, recipe.augment, 0))
    resident = Batch(batch.images.to(world.device), batch.targets.to(world.device), batch.indices)
    images = resident.images.contiguous(memory_format=_layout(machine, world))
    alone = steps_alone(recipe, dataset, machine, world, resident, steps=steps, warm_up=warm_up)
    whole_times: list[float] = []
    bare_times: list[float] = []
    meter = LossMeter()
    with _loader(recipe, dataset, workers, pin=world.device.type == "cuda", cache=cache) as loader:
        turn = _turn(train(recipe, learner, loader), meter)
        _warm(turn, meter, warm_up, world)
        _warm(lambda: _bare_step(bare, images), None, warm_up, world)
        while len(whole_times) < steps:
            whole_times += _block(turn, meter, world)
            bare_times += _block(lambda: _bare_step(bare, images), None, world)
        rate = _loader_rate(loader, recipe, workers)
    parts = loss_parts(recipe, learner, resident.images, resident.targets, world)
    parts["waiting for the loader"] = meter.waited / len(whole_times)
    kept_images = "none" if cache is None else "memory" if cache.folder is None else "disk"
    setting = _setting(recipe, machine, world, workers) | {"cache": kept_images, "warm-up": warm_up, "steps": steps}
    return TrainBenchmark(setting, bare_times[:steps], whole_times[:steps], alone, rate, parts)


def steps_alone(
    recipe: Recipe,
    dataset: Dataset,
    machine: RuntimeOptions,
    world: ProcessGroup,
    batch: Batch,
    *,
    steps: int,
    warm_up: int,
) -> list[float]:
    """Seconds of so many steps of a training whose batch is always there: no worker is at work meanwhile."""
    learner, meter = TrainState(recipe, build(recipe.model, dataset.names), world, machine), LossMeter()
    turn = _turn(train(recipe, learner, Resident(batch, MANY)), meter)
    _warm(turn, meter, warm_up, world)
    times: list[float] = []
    while len(times) < steps:
        times += _block(turn, meter, world)
    return times[:steps]


def _loader(
    recipe: Recipe, dataset: Dataset, workers: int, *, pin: bool = False, cache: CachePlan | None = None
) -> Loader:
    return Loader(
        dataset,
        recipe.input_size,
        recipe.batch_size,
        epochs=MANY,
        seed=recipe.seed,
        sampling=recipe.sampling,
        max_labels=recipe.max_labels,
        workers=workers,
        pin=pin,
        cache=0 if cache is None else cache.budget,
        cache_folder=None if cache is None else cache.folder,
    )


def _setting(recipe: Recipe, machine: RuntimeOptions, world: ProcessGroup, workers: int) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "workers": workers,
        "precision": machine.precision_on(world.device),
        "layout": "channels last" if machine.channels_last_on(world.device) else "contiguous",
        "compiled": machine.compile,
        "batch": recipe.batch_size,
        "size": recipe.input_size,
    }


def _layout(machine: RuntimeOptions, world: ProcessGroup) -> torch.memory_format:
    return torch.channels_last if machine.channels_last_on(world.device) else torch.contiguous_format


@dataclass(frozen=True)
class Resident:
    """One batch, always the same, on the device where it is needed (`training.loop.Batches`)."""

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


def _warm(turn: Callable[[], None], meter: LossMeter | None, count: int, world: ProcessGroup) -> None:
    """Turns that do not count: kernels are chosen, networks compiled, workers started."""
    for _ in range(count):
        _time(turn, world)
    if meter is not None:
        meter.read()
        meter.waited = 0.0


def _block(turn: Callable[[], None], meter: LossMeter | None, world: ProcessGroup) -> list[float]:
    """Seconds of some turns. What logging costs is in them: losses are read as seldom as a training reads them."""
    count, at_once = (READ_EVERY, READ_EVERY) if world.device.type == "cuda" else (BLOCK, 1)

    def turns() -> None:
        for _ in range(at_once):
            turn()
        if meter is not None:
            meter.read()

    seconds: list[float] = []
    for _ in range(count // at_once):
        seconds += [_time(turns, world) / at_once] * at_once
    return seconds


def _loader_rate(loader: Loader, recipe: Recipe, workers: int) -> float:
    """Images a second of a loader whose batches are taken at once; what it had made ahead is not counted."""
    ahead = 2 * workers

    def batches() -> Iterator[Batch]:
        for epoch in range(1, MANY):
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
    train_state.scaled(_sum(predictions)).backward()
    if train_state.scaler is not None:
        train_state.scaler.step(train_state.optimizer)
        train_state.scaler.update()
    else:
        train_state.optimizer.step()
    train_state.optimizer.zero_grad(set_to_none=True)


def _sum(predictions: Predictions) -> torch.Tensor:
    total = predictions.regression.float().sum() + predictions.classes.float().sum()
    return total if predictions.objectness is None else total + predictions.objectness.float().sum()


def loss_parts(
    recipe: Recipe, learner: TrainState, images: torch.Tensor, targets: Any, world: ProcessGroup
) -> dict[str, float]:
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

    parts = {"assignment": median(lambda: assigner(predictions, targets))}
    parts["assignment, losses and their gradients"] = median(losses)
    average = learner.ema
    if average is not None:
        parts["average of the weights"] = median(lambda: average.update(learner.detector))
    return parts


def _time(work: Callable[[], Any], world: ProcessGroup) -> float:
    begin = perf_counter()
    work()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return perf_counter() - begin


def training_step(
    data: str | None = None,
    /,
    *,
    model: str = "yolox-nano",
    size: int = 320,
    batch: int = 16,
    device: str | None = None,
    threads: int | None = None,
    workers: int = 1,
    cache: str | None = None,
    precision: Precision | None = None,
    layout: Literal["channels-last", "contiguous"] | None = None,
    compile: bool = False,
    steps: int = 24,
    warm_up: int = 4,
) -> TrainBenchmark:
    """A whole training step against the bare network: forward, backward of a sum, optimizer step.

    Blocks of both take turns in one process, with the same model, batch and memory layout. The whole step includes the
    loader with the published augmentation, assignment, losses, average and logging. The loader works ahead while others
    have their turn: whether it keeps up shows in what it makes alone, and what a step takes without it.

    Examples:
        python benchmarks/training_step.py
        python benchmarks/training_step.py data/ --model yolox-s --size 640 --device cuda --workers 8

    Args:
        data: Data set; made-up images if not given.
        model: Name of the model, trained by its published recipe without random shapes.
        size: Side of the network's input in pixels.
        batch: Images a step.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        threads: Threads on the CPU; PyTorch's choice if not given.
        workers: Processes that prepare images.
        cache: Keep decoded images: ram, disk, or a size of memory such as 4GB.
        precision: fp32, fp16 or bf16; fp16 on CUDA unless given.
        layout: Memory layout of the network; channels-last on CUDA and contiguous elsewhere unless given.
        compile: Compile the network with torch.compile.
        steps: Steps of each that are measured.
        warm_up: Steps of each before, which do not count.

    Returns:
        All times, the ratio of whole and bare, images a second, and where the difference goes.
    """
    least_values = {"steps": (steps, 1), "warm-up": (warm_up, 0), "workers": (workers, 0), "batch": (batch, 1)}
    for flag, (value, least) in least_values.items():
        if value < least:
            raise UsageError(f"--{flag} is {value}.", f"Give a number of {least} or more.")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}.", "Give a number of 1 or more, or leave it away.")
    if size < 32 or size % 32:
        raise UsageError(f"The size {size} is no multiple of 32.", "Give a multiple of 32 with --size.")
    channels_last = None if layout is None else layout == "channels-last"
    machine = RuntimeOptions(precision=precision, channels_last=channels_last, compile=compile)
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = str(write_synthetic(Path(folder) / "scenes", Scenes(size=(320, 320)), {"train": 4 * batch}))
        dataset = open_dataset(data, "train" if "train" in splits(data) else "trainval")
        new = {"batch_size": batch, "size": (size, size), "multiscale": None, "model.num_classes": len(dataset.names)}
        new |= {"accumulate": 1, "join_micro_batches": False}  # the bare loop's step has one pass
        recipe = change(find_recipe(model), new)
        return bench_train(
            recipe,
            dataset,
            device=device,
            threads=threads,
            workers=workers,
            steps=steps,
            warm_up=warm_up,
            machine=machine,
            cache=None if cache is None else plan_cache(cache, dataset, Path(folder) / "cache"),
        )


if __name__ == "__main__":
    sys.exit(run_benchmark(training_step))
