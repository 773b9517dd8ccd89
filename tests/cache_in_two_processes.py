"""What each of two processes does in `test_train_processes.py` with one cache of decoded images."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from data_sets import NAMES, coco
from onelook.data import open_dataset
from onelook.data.cache_budget import plan_cache
from onelook.recipes import default_recipe
from onelook.training.batches import make_loader
from onelook.training.processes import join_process_group
from onelook.training.recipe import adapted
from training import NoAugment


def main(folder: Path) -> None:
    """An epoch, of which each process sees a half; then what is in the cache, and what the file systems show of it."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        if process_group.is_main:
            coco(folder / "data", split="train")
        torch.distributed.barrier()
        dataset = open_dataset(folder / "data", "train")
        recipe = adapted(default_recipe("yolox-nano"), tuple(NAMES), 1, 64, 2)
        recipe = replace(recipe, augment=NoAugment())
        plan = plan_cache(os.environ["CACHE"], dataset, folder / "run")
        with make_loader(dataset, recipe, process_group, workers=1, cache=plan) as batches:
            seen = [row for batch in batches.epoch(0, recipe.augment, 0) for row in batch.indices]
            torch.distributed.barrier()
            assert batches.cache is not None
            there = [row for row in range(len(dataset)) if batches.cache.get(row, 0) is not None]
            file = os.fstat(batches.cache._shared.file)
            found = {
                "seen": seen,
                "there": there,
                "budget": batches.cache.budget,
                "file": [file.st_dev, file.st_ino],
                "names": file.st_nlink,
            }
            torch.distributed.barrier()
        (folder / f"{process_group.size}-{process_group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
