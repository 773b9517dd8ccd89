"""A training step reads no value of the device: counted on a CPU, in whole steps of every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from host_copies import HostCopies
from networks import narrow
from onelook.config import change
from onelook.data.loader import Batch
from onelook.networks.build import build
from onelook.recipes import default_recipe
from onelook.training.batch_norm_snapshot import BatchNormSnapshot
from onelook.training.loop import Step, train
from onelook.training.processes import ProcessGroup
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.types import Targets

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
TARGETS = Targets(
    torch.tensor([[[4.0, 6, 40, 50], [30, 20, 60, 61]], [[10, 10, 30, 34], [0, 0, 0, 0]]]),
    torch.tensor([[0, 2], [1, 0]]),
    torch.tensor([[True, True], [True, False]]),
)
# What a step reads where its tensors are on a CPU, and on no other device: whether the step is skipped, twice; and
# how many candidates there are (SimOta; on another device it takes an upper bound, see `test_contracts.py`).
SKIPPED = {
    "_local_scalar_dense (training/train_state.py:_step_if)": 1,
    "_local_scalar_dense (training/batch_norm_snapshot.py:restore_unless)": 1,
}
CANDIDATES = {"_local_scalar_dense (assign/simota.py:__call__)": 1}


@dataclass(frozen=True)
class OneBatch:
    """The same two images in every step."""

    steps: int = 1

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, augment: object, first: int) -> Iterator[Batch]:
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
        for _ in range(first, self.steps):
            yield Batch(images.byte(), TARGETS, (0, 1))


def reads_of_steps(name: str) -> list[HostCopies]:
    """What each step of a narrow copy of a model's published training reads: the first phase, and the closing one."""
    recipe = default_recipe(name)
    recipe = change(
        recipe,
        {
            "model": narrow(recipe.model),
            "batch_size": 2,
            "size": (64, 64),
            "epochs": 2,
            "accumulate": 1,
            "closing": None if recipe.closing is None else replace(recipe.closing, epochs=1),
            "join_micro_batches": False,
            "multiscale": None,
        },
    )
    torch.manual_seed(0)
    train_state = TrainState(recipe, build(recipe.model, ("a", "b", "c")), ALONE, RuntimeOptions())
    events, found = train(recipe, train_state, OneBatch()), []
    for _ in range(4):  # a step and the end of an epoch, twice
        with HostCopies() as counted:
            event = next(events)
        if isinstance(event, Step):
            found.append(counted)
    assert len(found) == 2
    return found


OTHERS = ("yolov4-csp", "yolov4-tiny", "yolov7-w6")


@pytest.mark.parametrize("name", ["yolox-nano", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_step_reads_what_a_cpu_may_read_and_nothing_else(name: str) -> None:
    for counted in reads_of_steps(name):
        assert counted.reads == SKIPPED | (CANDIDATES if name.startswith("yolox") else {})
        assert not counted.created


@pytest.mark.parametrize(
    "name", ["yolov7-tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("yolov4-csp", "damo-yolo-ns"))]
)
def test_a_step_with_the_branches_of_a_device_reads_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused optimizer reads on the device whether it must not change anything, on a CPU as well."""

    def step_if(train_state: TrainState, step_is_finite: torch.Tensor) -> None:
        train_state.optimizer.found_inf = (~step_is_finite).float()  # type: ignore[attr-defined]
        train_state.optimizer.step()

    monkeypatch.setattr(TrainState, "_step_if", step_if)
    monkeypatch.setattr(BatchNormSnapshot, "restore_unless", BatchNormSnapshot.restore_on_device)
    for counted in reads_of_steps(name):
        assert not counted.reads and not counted.created


def test_what_waits_for_a_device_is_counted() -> None:
    """The counter itself: everything that PyTorch's own check finds on a GPU, where it can be seen on a CPU."""
    values = torch.arange(4.0)
    with HostCopies() as counted:
        values.sum().item()
        bool(values.any())
        values[values > 1]
        values.nonzero()
        values.unique()
        values.masked_fill(values > 2, 0.0)  # no shape depends on the values
        torch.where(values > 2, values, 0.0)
        torch.tensor([1.0, 2.0])
    kinds = Counter(name.split(" ")[0] for name, count in counted.reads.items() for _ in range(count))
    assert kinds["_local_scalar_dense"] == 2 and kinds["nonzero"] == 1 and kinds["index"] == 1
    assert sum(kinds.values()) == 5 and sum(counted.created.values()) == 1
