"""What each of several processes does in `test_train_processes.py`; also run alone, for comparison."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from onelook.errors import UserError
from onelook.losses.feature_distillation import Mimic
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.yolox.architecture import Yolox
from onelook.training.distillation import AnyDistillation, Distillation
from onelook.training.loop import Step, train
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.training.processes import join_process_group
from onelook.training.recipe import Recipe
from onelook.training.result import RunResult
from onelook.training.run import Run, fit
from onelook.training.schedule import WarmCosine
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.training.unfold_batch_norm import measure_statistics
from onelook.weights import load_weights
from shared import reference
from test_train_loop import SumOfBoxes
from training import LOSS, MemoryBatch, Squares, changed, detector_of

# Rounding errors grow tenfold a step in an untrained network, so equality is tested in float64, where
# the first steps have room for it.
STEPS = 7
FINE_TUNING_STEPS = 20


def in_double(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(images.double() for images in inputs)


def taught(recipe: Recipe, what: str) -> tuple[Recipe, Detector]:
    """The recipe with a teacher of features that stops before the last epoch, or of predictions; and the teacher.

    Channels as they are: they are normalised over the images of a process, which depends on how many there are.
    """
    settings: AnyDistillation = Distillation(loss=Mimic(), weight=0.01, closing=False, normalise=False)
    if what == "predictions":
        settings = PredictionDistillation(share=0.3, every=2)
    torch.manual_seed(5)
    classes = ("blue", "black", "red", "white")
    teacher = build(Yolox(depth=0.33, width=0.25, num_classes=4, size=(64, 64)), classes=classes)
    return replace(recipe, distillation=settings, ema=None), teacher.double()


def main(folder: Path, accumulate: int, teaches: str) -> None:
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        recipe = changed(epochs=3, sync_batch_norm=True, accumulate=accumulate)
        detector = detector_of(recipe).double()
        detector.backbone.register_forward_pre_hook(in_double)
        teacher = None
        if teaches:
            recipe, teacher = taught(recipe, teaches)
        torch.set_default_dtype(torch.float64)  # of what the train_state makes itself
        train_state = TrainState(recipe, detector, process_group, RuntimeOptions(), teacher)
        torch.set_default_dtype(torch.float32)
        if train_state.distiller is not None:
            train_state.distiller.teacher.backbone.register_forward_pre_hook(in_double)
        record(
            folder,
            recipe,
            train_state,
            Squares(batch=8 // accumulate, rank=process_group.rank, world=process_group.size),
            STEPS,
        )


def fine_tune(folder: Path, double: bool) -> None:
    """YOLOX-Nano from its official weights, with the published warm-up of 5 epochs.

    In float64 these are the 15 steps of the images, so that all rates occur. In float32 the curves agree to
    1e-5 for seven of such steps; then rounding gives an object to another prior, and from there on they are two
    trainings that differ by a few percent. There the warm-up has 300 steps: the published 5 epochs of COCO have 9,245.
    """
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        warmup = 5 if double else 100
        schedule = WarmCosine(warmup_epochs=warmup, flat_epochs=1)
        recipe = changed(epochs=warmup + 7, schedule=schedule, sync_batch_norm=True)
        torch.manual_seed(0)  # of the classes' layer, which is new
        detector = build("yolox-nano", classes=("red", "green", "blue"))
        load_weights(detector, reference("yolox") / "yolox_nano.onnx")
        everything = Squares(size=96).epoch(0, None, 0)
        measure_statistics(detector, (batch.images.float() for batch in everything))
        if double:
            detector.double().backbone.register_forward_pre_hook(in_double)
        train_state = TrainState(recipe, detector, process_group, RuntimeOptions())
        record(
            folder,
            recipe,
            train_state,
            Squares(size=96, rank=process_group.rank, world=process_group.size),
            FINE_TUNING_STEPS,
        )


def record(folder: Path, recipe: Recipe, train_state: TrainState, batches: Squares, steps: int) -> None:
    """Trains for so many steps; writes the losses and a digest of the weights."""
    curve, process_group = [], train_state.process_group
    for event in train(recipe, train_state, batches):
        if isinstance(event, Step):
            # The mean over processes is the loss of the whole batch; each alone has its share.
            losses = torch.stack(list(event.losses.values())).sum()
            if process_group.size > 1:
                torch.distributed.all_reduce(losses)
            curve.append(float(losses) / process_group.size)
        if len(curve) == steps:
            break
    digest = [float(tensor.detach().double().sum()) for tensor in train_state.detector.parameters()]
    Path(folder / f"{process_group.size}-{process_group.rank}.json").write_text(
        json.dumps({"curve": curve, "weights": digest})
    )


def run(folder: Path) -> None:
    """An epoch of two steps with all that a run writes: rounding has no time to grow."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        recipe = changed(epochs=1, closing=None, sync_batch_norm=True)
        train_state = TrainState(recipe, detector_of(recipe), process_group, RuntimeOptions())
        place = Run(folder / f"run-{process_group.size}", recipe, train_state)
        fit(place, Squares(count=16, rank=process_group.rank, world=process_group.size), None)
        Path(folder / f"{process_group.size}-{process_group.rank}.json").write_text(json.dumps(place.record.rows))


class Stopping(Squares):
    """Ctrl-C in the main process while the third batch of the second epoch is prepared."""

    def epoch(self, epoch: int, augment: object, first: int) -> Iterator[MemoryBatch]:
        for number, batch in enumerate(super().epoch(epoch, augment, first)):
            if (epoch, number, self.rank) == (1, 2, 0):
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def go_on(folder: Path) -> None:
    """A run without interruption, and one stopped inside an epoch and resumed; each process has its own statistics."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        recipe = changed(epochs=3)

        def session(name: str, batches: type[Squares], resume: bool = False) -> RunResult:
            train_state = TrainState(recipe, detector_of(recipe), process_group, RuntimeOptions())
            place = Run(folder / name, recipe, train_state, resume=resume)
            return fit(place, batches(count=32, rank=process_group.rank, world=process_group.size), None)

        session("whole", Squares)
        stopped = session("broken", Stopping)
        again = session("broken", Squares, resume=True)
        told = [stopped.reason, stopped.steps, again.reason, again.steps]
        Path(folder / f"{process_group.size}-{process_group.rank}.json").write_text(json.dumps(told))


def break_down(folder: Path) -> None:
    """A loss that is not a number in the second process alone: what each of them raises, and the log."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        told = []
        for policy in ("skip", "stop"):
            recipe = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None, nonfinite=policy)
            train_state = TrainState(recipe, detector_of(recipe), process_group, RuntimeOptions())
            place = Run(folder / policy, recipe, train_state, image_name=lambda row: f"pic-{row}")
            batches = Squares(count=16, rank=process_group.rank, world=process_group.size)
            broken = next(batches.epoch(0, None, 0)).indices[0] if process_group.rank == 1 else None
            try:
                fit(place, replace(batches, broken=broken), None)
                told.append("finished")
            except UserError as error:
                told.append(f"{type(error).__name__}: {error.message}")
        Path(folder / f"{process_group.size}-{process_group.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__" and os.environ.get("RUN"):
    run(Path(sys.argv[1]))
elif __name__ == "__main__" and os.environ.get("GO_ON"):
    go_on(Path(sys.argv[1]))
elif __name__ == "__main__" and os.environ.get("BREAK_DOWN"):
    break_down(Path(sys.argv[1]))
elif __name__ == "__main__" and os.environ.get("FINE_TUNE"):
    fine_tune(Path(sys.argv[1]), os.environ["FINE_TUNE"] == "float64")
elif __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ.get("ACCUMULATE", "1")), os.environ.get("TEACHER", ""))
