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


def official(batch: int, batches: int, epochs: int, warmup: int) -> list[tuple[int, float]]:
    """(micro-batches of a step, part of the warm-up at it) by the official code's own rule, batch after batch.

    Official steps are after batch 0, n, 2n ..., so that one reaches into the next epoch: here after n - 1, 2n - 1 ...,
    and at the end of each epoch.
    """
    steps, waiting = [], 0
    for number in range(batches * epochs):
        part = float(np.interp(number, [0, warmup], [0, 1]))
        grown = max(1, int(np.interp(number, [0, warmup], [1, 64 / batch]).round()))
        waiting += 1
        if (number + 1) % grown == 0 or (number + 1) % batches == 0:
            steps.append((waiting, part))
            waiting = 0
    return steps


@pytest.mark.parametrize(("batch", "batches", "epochs"), [(16, 40, 5), (8, 800, 4), (24, 30, 3), (32, 600, 3)])
def test_accumulation_grows_as_in_yolov7s_code(batch: int, batches: int, epochs: int) -> None:
    recipe = growing(batch, epochs)
    plan = StepPlan(recipe, batches)
    assert isinstance(recipe.schedule, OneCycle)
    warmup = max(3 * batches, 1000)
    assert recipe.schedule.warmup(plan.full_steps) * recipe.accumulate == pytest.approx(warmup, abs=recipe.accumulate)
    expected = official(batch, batches, epochs, recipe.schedule.warmup(plan.full_steps) * recipe.accumulate)
    assert plan.total == len(expected)
    for step, (count, part) in enumerate(expected):
        epoch, index = plan.place(step)
        assert plan.counts(epoch)[index] == count
        found = recipe.schedule(plan.position(epoch, index), plan.full_steps, recipe.epochs)
        if part < 1:
            assert found.momentum == pytest.approx(0.8 + part * (0.937 - 0.8), abs=1e-12)
    assert expected[0] == (1, 0.0) and len(expected) > epochs * plan.full_steps


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 6), st.integers(0, 60), st.booleans())
def test_every_micro_batch_is_in_one_step(batches: int, accumulate: int, epochs: int, warmup: int, grows: bool) -> None:
    recipe = growing(8, epochs, **{"schedule.warmup_steps": warmup, "schedule.warmup_epochs": 0.0})
    new = {"accumulate": accumulate, "batch_size": 8 * accumulate, "nominal_batch": 8 * accumulate}
    plan = StepPlan(change(recipe, {**new, "grow_accumulation": grows}), batches)
    steps = [(epoch, index) for epoch in range(epochs) for index in range(len(plan.counts(epoch)))]
    assert [plan.place(step) for step in range(plan.total)] == steps
    assert all(sum(plan.counts(epoch)) == batches for epoch in range(epochs))
    # Where the warm-up is a few batches long, the multiple of a smaller number may be followed by that of a larger one.
    most = 2 * accumulate - 1 if grows else accumulate
    assert all(1 <= count <= most for epoch in range(epochs) for count in plan.counts(epoch))
    positions = [plan.position(*place) for place in steps]
    assert all(int(position // plan.full_steps) == epoch for position, (epoch, _) in zip(positions, steps))
    if not grows or accumulate == 1:
        assert positions == list(range(plan.total)) and plan.total == epochs * plan.full_steps


def small(**settings: Any) -> Recipe:
    """A small training in micro-batches of 2 images, of which a step has 4 after a warm-up of 12 micro-batches."""
    schedule = OneCycle(warmup_epochs=0.0, warmup_steps=3)
    return replace(
        RECIPE, schedule=schedule, epochs=2, batch_size=8, accumulate=4, nominal_batch=8, closing=None, **settings
    )


def test_the_steps_of_the_warm_up_have_few_images_and_small_gradients() -> None:
    state = train_state_of(small(grow_accumulation=True))
    events = list(train(small(grow_accumulation=True), state, Squares(batch=2)))
    steps = [event for event in events if isinstance(event, Step)]
    grown = StepPlan(small(grow_accumulation=True), 12).counts(0)
    assert [len(step.images) // 2 for step in steps] == [*grown, 4, 4, 4] and grown[0] == 1
    assert sorted(row for step in steps if step.epoch == 0 for row in step.images) == list(range(24))
    assert [event.number for event in events if isinstance(event, Epoch)] == [0, 1]
    assert [step.number for step in steps if step.ends_epoch] == [len(steps) - 4, len(steps) - 1]

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
    part = train_state_of(recipe)
    for event in train(recipe, part, Squares(batch=2)):
        if isinstance(event, Step) and event.number == 4:
            break
    rest = [event for event in train(recipe, part, Squares(batch=2)) if isinstance(event, Step)]
    assert [step.images for step in rest] == [step.images for step in steps[5:]]
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
