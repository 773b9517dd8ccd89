"""Training steps on a GPU: precisions, layouts, compiled or not, with CUDA graphs or not, against the textbook step.

    python benchmarks/gpu_steps.py --models yolox-s yolov7 damo-yolo-s yolov4-csp --seconds 240 --rows steps.jsonl

The batch is on the device already, so that this is the step alone: forward, assignment, losses, backward, optimizer,
average, and reading the losses every 20 steps. The first steps, which choose kernels and compile, are not counted. The
textbook step (`baseline/step.py`) assigns image by image and reads every loss in every step. What is worth most is
measured first, of all models; what has no time left is written down as such.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from baseline.step import TextbookStep
from gpu_results import Rows, arguments, begin_memory, memory_gib, synchronise
from graph_step import GraphStep
from host_copies import HostCopies
from onelook.config import change
from onelook.data import Dataset, open_dataset
from onelook.data.loader import Batch, Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.devices import Precision
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.training.loop import Step, train
from onelook.training.meter import LossMeter
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe
from onelook.training.run import READ_EVERY
from onelook.training.train_state import RuntimeOptions, TrainState
from training_step import MANY, Resident, loss_parts

MODELS = ("yolox-s", "yolov7", "damo-yolo-s", "yolov4-csp")
TINY_MODELS = ("yolox-nano", "damo-yolo-ns")


@dataclass(frozen=True)
class Kind:
    """One way to make a step."""

    precision: Precision = "fp16"
    channels_last: bool = True
    compiled: bool = False
    graph: bool = False
    textbook: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The columns of its row."""
        layout = "channels-last" if self.channels_last else "contiguous"
        step = "textbook" if self.textbook else "CUDA graph" if self.graph else "compiled" if self.compiled else "eager"
        return {"step": step, "precision": self.precision, "layout": layout}


# In the order of their worth.
KINDS: tuple[Kind, ...] = (
    Kind(),
    Kind(textbook=True, channels_last=False),
    Kind(graph=True),
    Kind(precision="bf16"),
    Kind(channels_last=False),
    Kind(compiled=True),
    Kind(graph=True, precision="bf16"),
    Kind(precision="bf16", channels_last=False),
    Kind(compiled=True, precision="bf16"),
    Kind(graph=True, channels_last=False),
    Kind(compiled=True, channels_last=False),
    Kind(precision="fp32"),
)


@dataclass(frozen=True, eq=False)
class Bench:
    """Where steps are measured: the device, the data, and how many steps before and in a measurement."""

    group: ProcessGroup
    dataset: Dataset
    warm_up: int
    steps: int

    @property
    def device(self) -> torch.device:
        """Where the steps run."""
        return self.group.device

    def row(self, recipe: Recipe, kind: Kind, batch: Batch) -> dict[str, Any]:
        """Milliseconds a step, images a second, memory, synchronisations; of the eager step the losses' share too."""
        begin_memory(self.device)
        step, train_state = self._step(recipe, kind, batch)
        for _ in range(self.warm_up):
            step()
        synchronise(self.device)
        begin = perf_counter()
        for _ in range(self.steps):
            step()
        synchronise(self.device)
        seconds = (perf_counter() - begin) / self.steps
        row: dict[str, Any] = {
            "milliseconds": 1e3 * seconds,
            "images_per_second": len(batch.images) / seconds,
            "gib": memory_gib(self.device),
            "synchronisations": self._synchronisations(step),
        }
        if train_state is not None and not (kind.compiled or kind.graph):
            parts = loss_parts(recipe, train_state, batch.images, batch.targets, self.group)
            row["parts_milliseconds"] = {name: 1e3 * value for name, value in parts.items()}
            row["share_of_losses"] = parts["assignment, losses and their gradients"] / seconds
        return row

    def _step(self, recipe: Recipe, kind: Kind, batch: Batch) -> tuple[Callable[[], object], TrainState | None]:
        """What makes a step, and the state that it changes."""
        torch.manual_seed(0)
        detector = build(recipe.model, self.dataset.names)
        if kind.textbook:
            half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind.precision)
            textbook = TextbookStep(recipe, detector, self.device, half)
            return lambda: textbook(batch.images, batch.targets), None
        runtime = RuntimeOptions(precision=kind.precision, channels_last=kind.channels_last, compile=kind.compiled)
        train_state = TrainState(recipe, detector, self.group, runtime)
        if kind.graph:
            return GraphStep(recipe, train_state, batch.images, batch.targets), train_state
        return _training(recipe, train_state, batch), train_state

    def _synchronisations(self, step: Callable[[], object]) -> float:
        """How often a step waits for the device; on a CPU, how often it reads a value.

        The median of some steps: the one in which a training reads its losses waits by intention.
        """
        if self.device.type != "cuda":
            with HostCopies() as counted:
                step()
            return sum(counted.reads.values())
        counts = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(READ_EVERY):
                with warnings.catch_warnings(record=True) as found:
                    warnings.simplefilter("always")
                    step()
                counts.append(sum("synchroniz" in str(one.message) for one in found))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return float(median(counts))


def _training(recipe: Recipe, train_state: TrainState, batch: Batch) -> Callable[[], None]:
    """What makes the next step of a training, and reads the losses as seldom as a training does."""
    events: Iterator[Step] = (
        event for event in train(recipe, train_state, Resident(batch, MANY)) if isinstance(event, Step)
    )
    meter = LossMeter()

    def step() -> None:
        event = next(events)
        meter.add(event)
        if (event.number + 1) % READ_EVERY == 0:
            meter.read()

    return step


def step_recipe(name: str, dataset: Dataset, batch: int, size: int) -> Recipe:
    """A model's published training, for steps of one pass on inputs of one size."""
    recipe = find_recipe(name)
    new: Mapping[str, Any] = {
        "batch_size": batch,
        "size": (size, size),
        "multiscale": None,
        "accumulate": 1,
        "join_micro_batches": False,
        "model.num_classes": len(dataset.names),
    }
    return change(recipe, new)


def main() -> None:
    """Writes a row for every model and kind as it is measured."""
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=640)
    asked = parser.parse_args()
    device, rows = torch.device(asked.device), Rows(asked.rows, asked.seconds)
    names, count, size = asked.models or MODELS, asked.batch, asked.size
    kinds, warm_up, steps = KINDS, 10, 40
    if asked.tiny:
        names, count, size, warm_up, steps = asked.models or TINY_MODELS, 2, 64, 0, 1
        # A CPU is slow in half precision, and its compiler takes minutes.
        kinds = tuple(dict.fromkeys(replace(kind, precision="fp32") for kind in KINDS if not kind.compiled))
    with tempfile.TemporaryDirectory() as folder:
        scenes = Scenes(size=(size // 2, size // 2))
        dataset = open_dataset(write_synthetic(Path(folder), scenes, {"train": count}), "train")
        bench = Bench(ProcessGroup(0, 1, device), dataset, warm_up, steps)
        for kind in kinds:
            for name in names:
                rows.measure(
                    {"part": "steps", "model": name, "batch": count, "size": size, **kind.to_dict()},
                    lambda name=name, kind=kind: measure(bench, name, kind, count, size),  # type: ignore[misc]
                )


def measure(bench: Bench, name: str, kind: Kind, count: int, size: int) -> dict[str, Any]:
    """The row of a model and a kind of step."""
    torch._dynamo.reset()
    recipe = step_recipe(name, bench.dataset, count, size)
    with Loader(bench.dataset, recipe.input_size, count, max_labels=recipe.max_labels) as loader:
        made = next(loader.epoch(0, recipe.augment, 0))
    batch = Batch(made.images.to(bench.device), made.targets.to(bench.device), made.indices)
    return bench.row(recipe, kind, batch)


if __name__ == "__main__":
    main()
