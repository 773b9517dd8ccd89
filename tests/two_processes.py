"""What each of several processes does in `test_train_processes.py`; also run alone, for comparison."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from onelook.train.learner import Learner, Machine
from onelook.train.loop import Step, train
from onelook.train.processes import join
from training import Squares, changed, detector_of

# Rounding grows tenfold a step in a network that has learnt nothing yet, so equality is looked at in float64, where
# the first steps have room for it.
STEPS = 7


def main(folder: Path, accumulate: int) -> None:
    torch.set_num_threads(1)
    with join("cpu") as world:
        recipe = changed(epochs=3, sync_batch_norm=True, accumulate=accumulate)
        detector = detector_of(recipe).double()
        detector.register_forward_pre_hook(lambda module, inputs: tuple(images.double() for images in inputs))
        learner = Learner(recipe, detector, world, Machine())
        curve = []
        batches = Squares(batch=8 // accumulate, rank=world.rank, world=world.size)
        for event in train(recipe, learner, batches):
            if isinstance(event, Step):
                # The mean over processes is the loss of the whole batch; each alone has its share.
                losses = torch.stack(list(event.losses.values())).sum()
                if world.size > 1:
                    torch.distributed.all_reduce(losses)
                curve.append(float(losses) / world.size)
            if len(curve) == STEPS:
                break
        digest = [float(tensor.double().sum()) for tensor in learner.detector.parameters()]
        Path(folder / f"{world.size}-{world.rank}.json").write_text(json.dumps({"curve": curve, "weights": digest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ.get("ACCUMULATE", "1")))
