"""Tests of losses and gradients that are NaN or infinite: messages and state of the run."""

from __future__ import annotations

import pytest
import torch

from onelook.errors import UserError
from onelook.training.run import Run, fit
from onelook.weights import restore
from test_train_loop import BadGradient, SumOfBoxes
from test_train_run import start
from training import LOSS, Squares, changed, train_state_of


def test_a_loss_that_is_not_finite_stops_and_names_the_images_or_is_skipped(tmp_path):
    recipe = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None)
    with pytest.raises(UserError, match=r"is not finite: sum nan\. Its images: .*pic-5"):
        start(tmp_path, recipe, Squares(count=16, broken=5), image_name=lambda row: f"pic-{row}")
    skipping = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None, nonfinite="skip")
    result = start(tmp_path / "skip", skipping, Squares(count=16, broken=5))
    assert result.reason == "finished" and "step was skipped" in (tmp_path / "skip" / "train.log").read_text()
    assert all(
        torch.isfinite(value).all() for value in restore(tmp_path / "skip/last.safetensors").state_dict().values()
    )


def test_the_remedy_after_a_nonfinite_loss_works(tmp_path):
    recipe = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None)
    with pytest.raises(UserError) as raised:
        start(tmp_path, recipe, Squares(count=16, broken=5))
    assert (
        "start a new run in another folder (out). The run so far" in raised.value.remedy
    )  # no weights in the first epoch
    longer = changed(epochs=2, loss=LOSS.with_terms(SumOfBoxes()), closing=None)

    class Later(Squares):
        def epoch(self, epoch, augment, first):
            yield from (super().epoch if epoch else Squares(count=16).epoch)(epoch, augment, first)

    with pytest.raises(UserError) as raised:
        start(tmp_path / "later", longer, Later(count=16, broken=5))
    last = tmp_path / "later" / "last.safetensors"
    assert f"in another folder (out); it can start with the weights so far: {last}." in raised.value.remedy


def test_a_nonfinite_gradient_stops_too_and_is_named(tmp_path):
    recipe = changed(epochs=1, closing=None)
    train_state = train_state_of(recipe)
    BadGradient(train_state, at=0)
    run = Run(tmp_path, recipe, train_state, image_name=lambda row: f"pic-{row}")
    with pytest.raises(UserError, match=r"gradient of step 0 \(epoch 1\) is not finite, though its loss is\. .*: pic-"):
        fit(run, Squares(count=16), None)


def test_an_epoch_without_a_finite_loss_ends_the_training_even_where_steps_are_skipped(tmp_path):
    recipe = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None, nonfinite="skip")
    with pytest.raises(UserError, match="No step of epoch 1 had a finite loss"):
        start(tmp_path, recipe, Squares(count=8, broken=5))
