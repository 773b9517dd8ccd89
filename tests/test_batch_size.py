"""`--batch auto`: doubled until a device that is made up here is full."""

from __future__ import annotations

import pytest
import torch

from onelook.config import change
from onelook.errors import UsageError, UserError
from onelook.training import start
from onelook.training.batch_size import largest_batch, training_trial
from onelook.training.multiscale import MultiScale
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import batch_settings
from onelook.training.start import fill_memory
from onelook.training.train_state import RuntimeOptions
from training import ALONE, CPU, changed, detector_of


class Memory:
    """A device with room for so many images, which counts the trials."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, []

    def __call__(self, batch: int) -> None:
        self.tried.append(batch)
        if batch > self.room:
            raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize(("room", "most", "found"), [(1, 99, 1), (7, 99, 4), (64, 999, 64), (1000, 100, 64)])
def test_the_batch_is_doubled_until_memory_or_images_run_out(monkeypatch, room, most, found):
    monkeypatch.setattr("gc.collect", lambda: 0)  # there are no tensors, and all objects of the tests take long
    device = Memory(room)
    assert largest_batch(device, most) == found
    assert device.tried == [2**n for n in range(len(device.tried))]


def test_a_model_that_never_fits_is_an_error():
    with pytest.raises(UserError, match="Not even one image fits"):
        largest_batch(Memory(0), 8)


def test_other_errors_are_not_reported_as_out_of_memory():
    def broken(batch):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_batch(broken, 8)


def test_a_trial_is_a_whole_step_at_the_largest_size_and_changes_nothing():
    recipe = changed(multiscale=MultiScale(0.5, 1.5), accumulate=2, clip=1.0)
    detector = detector_of(recipe)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    seen = []
    backbone = type(detector.backbone).forward

    def forward(self, images):
        seen.append(tuple(images.shape))
        return backbone(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(detector.backbone), "forward", forward)
        training_trial(recipe, detector, CPU, RuntimeOptions())(2)
    assert [shape[0] for shape in seen] == [2, 2] and detector.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


class Images(tuple):
    """A data set of which only the classes and the number of images are asked for."""

    names = ("square",)


@pytest.mark.parametrize(
    ("fields", "batch", "said"),
    [({"accumulate": 2}, 8, "is 8."), ({"nominal_batch": 16, "accumulate": 2}, 4, "is 16.")],
    ids=["passes of a step", "a nominal batch"],
)
def test_the_found_batch_is_the_option_that_gives_it(monkeypatch, fields, batch, said):
    monkeypatch.setattr(start, "largest_batch", lambda trial, limit: min(4, limit))
    gpu, given = ProcessGroup(0, 1, torch.device("cuda")), {"runtime": RuntimeOptions(), "teacher": None}
    recipe = changed(**fields)
    found, note = fill_memory(recipe, gpu, Images(range(9)), **given)
    assert found == batch and note == f"The device holds 4 images: the batch {said}"
    assert change(recipe, batch_settings(recipe, found)).batch_size == int(said[3:-1])


def test_automatic_batch_size_needs_one_process_and_a_gpu():
    recipe, images = changed(), Images(range(24))
    given = {"runtime": RuntimeOptions(), "teacher": None}
    batch, said = fill_memory(recipe, ALONE, images, **given)
    assert batch is None and said == "batch=auto fills a GPU's memory; without one the batch is 8 images."
    with pytest.raises(UsageError, match="for one process"):
        fill_memory(recipe, ProcessGroup(0, 2, CPU), images, **given)
