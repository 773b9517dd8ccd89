"""The steps of a training: their micro-batches, with and without an accumulation that grows during the warm-up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.config import change
from onelook.recipes import find_recipe
from onelook.training.loop import Epoch, Step, train
from onelook.training.preflight import rates_too_low
from onelook.training.recipe import Recipe, batch_settings
from onelook.training.schedule import OneCycle
from onelook.training.step_plan import StepPlan
from training import RECIPE, Squares, train_state_of


def growing(batch: int, epochs: int, **settings: object) -> Recipe:
    """YOLOv7's recipe in batches of so many images."""
    recipe = find_recipe("yolov7-tiny:published")
    return change(replace(recipe, epochs=epochs), {**batch_settings(recipe, batch), **settings})


def official(batch: int, batches: int, epochs: int, warmup: int) -> list[tuple[int, int, int]]:
    """(micro-batches of a step, its last one, the epoch of that) by the official code's own rule, batch after batch.

    A step is made after each batch whose number is a multiple of the accumulation of that moment.
    """
    steps, waiting = [], 0
    for number in range(batches * epochs):
        waiting += 1
        if number % max(1, int(np.interp(number, [0, warmup], [1, 64 / batch]).round())) == 0:
            steps.append((waiting, number, number // batches))
            waiting = 0
    return steps


@pytest.mark.parametrize(("batch", "batches", "epochs"), [(16, 42, 5), (8, 801, 4), (24, 31, 3), (32, 601, 3)])
def test_steps_are_those_of_yolov7s_code(batch: int, batches: int, epochs: int) -> None:
    recipe = growing(batch, epochs)
    plan = StepPlan(recipe, batches)
    warmup = max(3 * batches, 1000)
    assert isinstance(recipe.schedule, OneCycle) and recipe.schedule.warmup(plan.epoch_length) == warmup
    expected = official(batch, batches, epochs, warmup)
    assert plan.total == len(expected)
    across = 0
    for step, (count, number, epoch) in enumerate(expected):
        place = plan.place(step)
        assert place[0] == epoch and plan.counts(epoch)[place[1]] == count
        assert plan.start(step) == number + 1 - count and plan.position(*place) == number
        across += plan.start(step) < epoch * batches
        found = recipe.schedule(plan.position(*place), plan.epoch_length, recipe.epochs)
        momentum = 0.8 + min(number / warmup, 1) * (0.937 - 0.8)
        assert found.momentum == pytest.approx(momentum, abs=1e-12)
        scale = (1 - np.cos(np.pi * epoch / epochs)) / 2 * (0.01 - 1) + 1
        assert found.scale == pytest.approx(min(number / warmup, 1) * scale, abs=1e-12)
    assert expected[0] == (1, 0, 0)
    assert sum(plan.left_over(epoch) > 0 for epoch in range(epochs)) == across
    assert across or batch == 24  # whose warm-up is longer than the training


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 6), st.integers(0, 60), st.booleans())
def test_every_micro_batch_is_in_one_step(batches: int, accumulate: int, epochs: int, warmup: int, grows: bool) -> None:
    recipe = growing(8, epochs, **{"schedule.warmup_steps": warmup, "schedule.warmup_epochs": 0.0})
    new = {"accumulate": accumulate, "batch_size": 8 * accumulate, "nominal_batch": 8 * accumulate}
    plan = StepPlan(change(recipe, {**new, "grow_accumulation": grows}), batches)
    steps = [(epoch, index) for epoch in range(epochs) for index in range(len(plan.counts(epoch)))]
    assert [plan.place(step) for step in range(plan.total)] == steps and {epoch for epoch, _ in steps} == set(
        range(epochs)
    )
    assert plan.place(plan.total) == (epochs, 0)
    counts = [plan.counts(epoch)[index] for epoch, index in steps]
    assert [plan.start(step) for step in range(plan.total)] == np.cumsum([0, *counts[:-1]]).tolist()
    # Only what follows the last step of the training is in none.
    assert 0 <= epochs * batches - sum(counts) < (batches if grows else 1)
    for epoch in range(epochs):
        behind = (epoch + 1) * batches - sum(sum(plan.counts(one)) for one in range(epoch + 1))
        assert plan.left_over(epoch) == (behind if epoch + 1 < epochs else 0)
        assert behind < batches  # a step begins in the epoch before, never earlier
    # During the warm-up, the multiple of a smaller number may be followed by a late one of a larger number.
    ends = np.cumsum(counts)
    assert all(count >= 1 for count in counts)
    assert all(count <= accumulate for count, end in zip(counts, ends) if not grows or end - count > warmup)
    positions = [plan.position(*place) for place in steps]
    assert all(int(position // plan.epoch_length) == epoch for position, (epoch, _) in zip(positions, steps))
    if not grows or accumulate == 1:
        assert positions == list(range(plan.total)) and plan.total == epochs * plan.full_steps


def small(**settings: Any) -> Recipe:
    """A small training in micro-batches of 2 images, of which a step has 4 after a warm-up of 12 micro-batches."""
    schedule = OneCycle(warmup_epochs=0.0, warmup_steps=12)
    return replace(
        RECIPE, schedule=schedule, epochs=2, batch_size=8, accumulate=4, nominal_batch=8, closing=None, **settings
    )


def test_the_steps_of_the_warm_up_have_few_images_and_small_gradients() -> None:
    state = train_state_of(small(grow_accumulation=True))
    events = list(train(small(grow_accumulation=True), state, Squares(batch=2)))
    steps = [event for event in events if isinstance(event, Step)]
    # Steps end with micro-batches 0, 1, 2, 4, 6, 9 and 12, 16, 20, the first of which is the second epoch's first.
    assert [len(step.images) // 2 for step in steps] == [1, 1, 1, 2, 2, 3, 3, 4, 4]
    shown = [row for step in steps for row in step.images]
    assert sorted(shown[:24]) == list(range(24)) and len(set(shown[24:])) == 18
    assert [event.number for event in events if isinstance(event, Epoch)] == [0, 1]
    assert [step.number for step in steps if step.ends_epoch] == [5, 8]

    def gradient(recipe: Recipe) -> torch.Tensor:
        """Of the first step."""
        state, found = train_state_of(recipe), list[torch.Tensor]()
        update = state.optimizer_step

        def read(total: torch.Tensor) -> torch.Tensor:
            found.extend(one.grad.flatten().clone() for one in state.detector.parameters() if one.grad is not None)
            return update(total)

        state.optimizer_step = read  # type: ignore[method-assign]
        next(iter(train(recipe, state, Squares(batch=2))))
        return torch.cat(found)

    alone = replace(small(), accumulate=1, batch_size=2)
    assert torch.allclose(4 * gradient(small(grow_accumulation=True)), gradient(alone), rtol=1e-3, atol=1e-5)


def test_a_training_is_resumed_within_the_growing_accumulation() -> None:
    recipe = small(grow_accumulation=True)
    whole = train_state_of(recipe)
    steps = [event for event in train(recipe, whole, Squares(batch=2)) if isinstance(event, Step)]
    for last in (3, 5):  # before the end of the first epoch, and at it, before the step across it
        part = train_state_of(recipe)
        for event in train(recipe, part, Squares(batch=2)):
            if isinstance(event, Step) and event.number == last:
                break
        rest = [event for event in train(recipe, part, Squares(batch=2)) if isinstance(event, Step)]
        assert [step.images for step in rest] == [step.images for step in steps[last + 1 :]]
        assert all(torch.equal(a, b) for a, b in zip(part.detector.parameters(), whole.detector.parameters()))


def test_a_training_within_such_a_warm_up_is_warned_of() -> None:
    recipe = replace(small(grow_accumulation=True), epochs=1)
    steps = StepPlan(recipe, 12).total
    assert steps > 3 and rates_too_low(recipe, 12).startswith(f"All {steps} steps of this training lie in the warm-up")
    assert rates_too_low(replace(recipe, epochs=2), 12) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nominal_batch": None}, "nominal_batch"),
        ({"schedule": find_recipe("yolox-s").schedule}, "OneCycle"),
    ],
)
def test_what_growing_accumulation_needs_is_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(small(grow_accumulation=True), **settings)
