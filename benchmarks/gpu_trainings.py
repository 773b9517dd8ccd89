"""Whole trainings on a GPU, loader included: images a second with and without cached images, augmented on both sides.

    python benchmarks/gpu_trainings.py --seconds 120 --rows trainings.jsonl [--data coco_mini --split train]

Without data, scenes of 480 x 640 pixels are made first. Every setting has the same share of the time, of which the
first half is not counted: workers start, kernels are chosen, and a cache is filled. Workers: all cores but one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from gpu_results import Rows, arguments, begin_memory, memory_gib, synchronise
from gpu_steps import step_recipe
from onelook.data import Dataset, open_dataset
from onelook.data.cache_budget import plan_cache
from onelook.data.loader import default_workers
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.build import build
from onelook.training.batches import make_loader
from onelook.training.device_batches import DeviceBatches
from onelook.training.loop import Step, train
from onelook.training.meter import LossMeter
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe
from onelook.training.run import READ_EVERY
from onelook.training.train_state import RuntimeOptions, TrainState
from training_step import MANY

SETTINGS = (("cpu", "ram"), ("device", "ram"), ("cpu", None), ("device", None))  # augmented on, cache


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is measured."""

    recipe: Recipe
    dataset: Dataset
    device: torch.device
    workers: int
    folder: Path

    def row(self, augment_on: str, cache: str | None, seconds: float) -> dict[str, Any]:
        """Images a second of the second half of so many seconds, and the part of it that the step waited."""
        begin_memory(self.device)
        group = ProcessGroup(0, 1, self.device)
        detector = build(self.recipe.model, self.dataset.names)
        train_state = TrainState(self.recipe, detector, group, RuntimeOptions())
        plan = None if cache is None else plan_cache(cache, self.dataset, self.folder)
        planned = augment_on == "device"
        with make_loader(self.dataset, self.recipe, group, self.workers, plan, plans=planned) as loader:
            batches = DeviceBatches(loader, self.device) if planned or self.device.type == "cuda" else loader
            events = train(self.recipe, train_state, batches)
            with closing(events):  # type: ignore[type-var]
                return self._timed(events, seconds)

    def _timed(self, events: Iterator[Any], seconds: float) -> dict[str, Any]:
        meter, every = LossMeter(), READ_EVERY if self.device.type == "cuda" else 1
        start, begin, steps, waited = perf_counter(), 0.0, 0, 0.0
        for event in events:
            if not isinstance(event, Step):
                continue
            meter.add(event)
            if begin:
                steps, waited = steps + 1, waited + event.waited
            if (event.number + 1) % every:
                continue
            meter.read()  # waits for the device
            now = perf_counter()
            if begin and now - start > seconds:
                break
            if not begin and now - start > seconds / 2:
                synchronise(self.device)
                begin = perf_counter()
        taken = perf_counter() - begin
        images = steps * self.recipe.batch_size
        return {
            "images_per_second": images / taken,
            "steps": steps,
            "part_waiting_for_the_loader": waited / taken,
            "gib": memory_gib(self.device),
        }


def main() -> None:
    """Writes a row for every setting as it is measured."""
    parser = arguments(__doc__)
    parser.add_argument("--data")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default="yolox-s")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    device, rows = torch.device(asked.device), Rows(asked.rows, asked.seconds)
    model, count, size, images, sides = asked.model, asked.batch, asked.size, 512, (480, 640)
    if asked.tiny:
        model, count, size, images, sides = "yolox-nano", 2, 64, 8, (96, 128)
    workers = asked.workers if asked.workers is not None else min(default_workers(), 1 if asked.tiny else 64)
    with tempfile.TemporaryDirectory() as folder:
        place = asked.data or write_synthetic(Path(folder) / "scenes", Scenes(size=sides), {asked.split: images})
        dataset = open_dataset(place, asked.split)
        recipe = replace(step_recipe(model, dataset, count, size), epochs=MANY)
        training = Training(recipe, dataset, device, workers, Path(folder))
        for number, (augment_on, cache) in enumerate(SETTINGS):
            share = min(rows.left / (len(SETTINGS) - number), 5.0 if asked.tiny else rows.left)
            rows.measure(
                {
                    "part": "trainings",
                    "model": model,
                    "batch": count,
                    "size": size,
                    "workers": workers,
                    "augment_on": augment_on,
                    "cache": cache or "none",
                },
                lambda on=augment_on, kept=cache, share=share: training.row(on, kept, share),  # type: ignore[misc]
            )


if __name__ == "__main__":  # worker processes import this file
    main()
