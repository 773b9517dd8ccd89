"""Training steps on a GPU: every precision and layout, compiled or not. `python benchmarks/gpu_steps.py --help`

The batch is on the device already, so that this is the step alone: forward, assignment, losses, backward, optimizer,
average, and reading the losses every 20 steps. The first steps, which choose kernels and compile, are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from onelook.config import change
from onelook.data import open_dataset
from onelook.data.loader import Batch, Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.recipes import find_recipe
from onelook.training.processes import ProcessGroup
from onelook.training.train_state import RuntimeOptions
from training_step import steps_alone

WARM_UP, STEPS = 10, 40  # blocks of the 20 steps after which a training reads its losses
KINDS = {
    "fp16, channels last": RuntimeOptions(precision="fp16"),
    "bf16, channels last": RuntimeOptions(precision="bf16"),
    "fp32, channels last": RuntimeOptions(precision="fp32"),
    "fp16, contiguous": RuntimeOptions(precision="fp16", channels_last=False),
    "fp16, channels last, compiled": RuntimeOptions(precision="fp16", compile=True),
}


def main() -> None:
    """Prints a line for every model and kind as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolox-s", "yolox-nano"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=640)
    asked = parser.parse_args()
    world = ProcessGroup(0, 1, torch.device("cuda"))
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, batch {asked.batch}, {asked.size} pixels")
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(write_synthetic(Path(folder), Scenes(size=(320, 320)), {"train": asked.batch}), "train")
        for name in asked.models:
            new = {
                "batch_size": asked.batch,
                "size": (asked.size, asked.size),
                "multiscale": None,
                "accumulate": 1,
                "join_micro_batches": False,
            }
            recipe = change(find_recipe(name), {**new, "model.num_classes": len(dataset.names)})
            batch = next(Loader(dataset, recipe.input_size, asked.batch).epoch(0, recipe.augment, 0))
            here = Batch(batch.images.to(world.device), batch.targets.to(world.device), batch.indices)
            for kind, machine in KINDS.items():
                torch.cuda.reset_peak_memory_stats()
                times = steps_alone(recipe, dataset, machine, world, here, steps=STEPS, warm_up=WARM_UP)
                mean, memory = float(np.mean(times)), torch.cuda.max_memory_allocated() / 2**30
                said = f"{1e3 * mean:7.1f} ms a step {asked.batch / mean:8.0f} images a second {memory:6.1f} GiB"
                print(f"{name:12} {kind:30} {said}", flush=True)


if __name__ == "__main__":
    main()
