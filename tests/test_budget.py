"""A budget of time: what it may be, that the plan ends in time by a clock that the test moves, and the command."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.api import training_session
from onelook.api.recipe_choice import RecipeChoice, named_choice, resumed
from onelook.api.tasks import last_evaluations
from onelook.api.time_budget import with_budget_epochs, with_epochs_of_run
from onelook.api.train import train
from onelook.cli.app import run
from onelook.config import to_plain, write_yaml
from onelook.data import open_dataset
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError, UserError
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.training import budget as budgets
from onelook.training.budget import Budget, TimePlan, parse_budget
from onelook.training.loop import Step
from onelook.training.loop import train as train_steps
from onelook.training.options import RunOptions
from training import RECIPE, Squares, train_state_of


class Clock:
    """Seconds that only the test passes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("30s", Budget(seconds=30)),
        ("10m", Budget(seconds=600)),
        ("1.5 min", Budget(seconds=90)),
        ("2h", Budget(seconds=7200)),
        ("1h30m", Budget(seconds=5400)),
        ("20e", Budget(epochs=20)),
        ("20 epochs", Budget(epochs=20)),
        ("1 Epoch", Budget(epochs=1)),
    ],
)
def test_budgets_are_times_or_epochs(text, means):
    assert parse_budget(text) == means


@pytest.mark.parametrize("text", ["", "10", "10 days", "0m", "0e", "1.5e", "-3m", "m"])
def test_other_budgets_are_wrong_usage(text):
    with pytest.raises(UsageError, match="budget"):
        RunOptions(budget=text)


def test_a_budget_of_epochs_is_the_number_of_epochs():
    choice, left = with_budget_epochs(RecipeChoice(model="yolox-nano"), "20e")
    assert (choice.epochs, left) == (20, None)
    assert with_budget_epochs(choice, None) == (choice, None)
    for said in (RecipeChoice(epochs=5), RecipeChoice(overrides=("epochs=5",))):
        with pytest.raises(UsageError, match="both given"):
            with_budget_epochs(said, "10m")


def simulate(plan, clock, pace, *, evaluation=0.0, per_epoch=10, stop=math.inf):
    """Trains by a plan until it is over or `stop` steps are done; returns steps, positions and evaluations."""
    steps, positions, evaluations = 0, [], 0
    while not plan.over and steps < stop:
        positions.append(plan.progress)
        clock.now += pace(steps)
        plan.finish_step()
        steps += 1
        if (plan.over or steps % per_epoch == 0) and plan.wants_evaluation():
            clock.now += evaluation
            plan.finish_evaluation(evaluation)
            evaluations += 1
    return steps, positions, evaluations


@settings(max_examples=60)
@given(
    speed=st.tuples(st.floats(0.4, 4), st.floats(0.2, 5), st.floats(0.4, 2.5)),
    change=st.floats(0, 0.8),
    evaluation=st.floats(0.1, 20),
    per_epoch=st.integers(1, 400),
)
def test_a_training_ends_within_five_percent_of_its_budget(speed, change, evaluation, per_epoch):
    """speed: seconds of a step, how far the guess before is off, and how far they change later."""
    clock, seconds, (step, guess, later) = Clock(), 600.0, speed
    plan = TimePlan(seconds, step=step * guess, evaluation=evaluation * 0.8, used=10, clock=clock)
    begin = clock.now - 10

    def pace(_: int) -> float:  # the computer's speed changes within the training
        return step * (later if clock.now - begin > change * seconds else 1)

    steps, positions, evaluations = simulate(plan, clock, pace, evaluation=evaluation, per_epoch=per_epoch)
    used = clock.now - begin + evaluation + budgets.FINISH_SECONDS  # the report evaluates once more
    assert 0.95 * seconds <= used <= 1.05 * seconds
    assert positions == sorted(positions) and positions[0] == 0 and positions[-1] < plan.progress == 1
    assert positions[-1] > 0.9 and len(positions) == steps and evaluations >= 1


def test_steps_advance_the_schedule_evenly_where_the_speed_is_constant():
    clock = Clock()
    plan = TimePlan(100.0, step=0.5, clock=clock)
    steps, positions, _ = simulate(plan, clock, lambda _: 0.5)
    assert steps == 194 and positions == pytest.approx([number / steps for number in range(steps)], abs=0.01)


def test_a_resumed_training_has_what_is_left():
    clock = Clock()
    first = TimePlan(100.0, step=0.5, used=4.0, clock=clock)
    simulate(first, clock, lambda _: 0.5, stop=60)
    kept = first.to_dict()
    assert kept["used"] == pytest.approx(34.0)
    clock.now += 5000  # the machine is off
    second = TimePlan(100.0, step=kept["step"], used=kept["used"] + 6, progress=kept["progress"], clock=clock)
    more, positions, _ = simulate(second, clock, lambda _: 0.5)
    assert positions[0] == kept["progress"] and more == pytest.approx((100 - 3 - 40) / 0.5, abs=1)
    assert second.used <= 100


def test_the_time_of_all_evaluations_after_the_last_step_is_kept():
    clock = Clock()
    plan = TimePlan(100.0, step=0.5, evaluation=10.0, last_evaluations=3.0, clock=clock)
    assert plan.room == int((100 - budgets.FINISH_SECONDS - 30) / 0.5 / (1 + budgets.EVALUATION_SHARE))


def test_training_images_are_evaluated_after_the_last_step_too(scenes):
    training, validation = open_dataset(scenes, "train"), open_dataset(scenes, "val")
    assert last_evaluations(training, None, 1) == last_evaluations(training, validation, 2) == 2.0
    assert last_evaluations(training, validation, 1) == 3.0  # as many of them as of the few validation images
    assert last_evaluations(validation.view([0]), validation, 1) == 2 + 1 / len(validation)


def test_a_recipe_in_memory_is_that_of_the_run_whose_budget_gave_it_its_epochs(tmp_path):
    recipe = find_recipe("yolox-nano")
    began = named_choice(recipe, epochs=7).resolve(("a", "b"))
    write_yaml(tmp_path / "recipe.yaml", to_plain(began))
    with pytest.raises(UserError, match="epochs"):
        resumed(recipe, tmp_path)
    assert with_epochs_of_run(recipe, tmp_path, None) is recipe
    assert resumed(with_epochs_of_run(recipe, tmp_path, "10m"), tmp_path).epochs == 7
    with pytest.raises(UserError, match="seed"):
        resumed(with_epochs_of_run(replace(recipe, seed=5), tmp_path, "10m"), tmp_path)
    named = RecipeChoice(model="yolox-nano")
    assert with_epochs_of_run(named, tmp_path, "10m") is named


def test_a_budget_without_room_still_has_the_step_that_ends_the_training():
    plan = TimePlan(100.0, step=0.5, used=99.0, clock=Clock())
    assert (plan.room, plan.steps_left, plan.over) == (0, 1, False)
    plan.finish_step()
    assert plan.over and plan.progress == 1


def test_the_loop_ends_within_an_epoch_and_closes_before():
    clock, recipe = Clock(), RECIPE
    plan = TimePlan(10.5, step=1.0, clock=clock)  # time for eight steps; an epoch has three
    seen = []
    for event in train_steps(recipe, train_state_of(), Squares(), plan):
        seen.append((event.number, event.ends_epoch, "l1" in event.losses) if isinstance(event, Step) else "end")
        clock.now += 1.0 if isinstance(event, Step) else 0.0
    assert plan.over and seen[-1] == "end" and seen.count("end") == 3
    steps = [one for one in seen if one != "end"]
    assert [number for number, _, _ in steps] == list(range(8)) and steps[-1][1]
    assert [closes for _, _, closes in steps] == sorted(closes for _, _, closes in steps) and steps[-1][2]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("budget"), Scenes(size=(64, 64)), {"train": 8, "val": 4})


def test_budgets_that_cannot_be_kept_are_said(scenes, tmp_path):
    with pytest.raises(UserError, match="leaves no time to train"):
        train("yolox-nano", scenes, budget="1s", size=64, batch=4, workers=0, threads=1, out=tmp_path / "short")
    with pytest.raises(UserError, match="has no variance to train with"):
        train("yolox-nano", scenes, budget="20s", size=32, batch=1, workers=0, threads=1, out=tmp_path / "single")
    with pytest.raises(UsageError, match="grow_accumulation"):
        train("yolov7-tiny:published", scenes, budget="1m", size=64, workers=0, threads=1, out=tmp_path / "grown")
    assert not (tmp_path / "short").exists() and not (tmp_path / "grown").exists()
    assert run(["train", str(scenes), "--model", "yolox-nano", "--budget", "soon"]) == 2


@pytest.mark.slow
def test_the_batch_that_memory_holds_is_known_before_the_budget_is_planned(scenes, tmp_path, monkeypatch):
    """And the recipe is fitted to it: with weights, a few images are 500 steps of that batch."""
    seen = []

    def fills(recipe, *_, **__):
        seen.append(recipe.batch_size)
        return 3, "The device holds 3 images."

    def plans(resolve, recipe, *_, **__):
        seen.extend((recipe.batch_size, recipe.epochs, resolve(7).batch_size, resolve(7).epochs))
        raise UserError("planned", "no more is needed")

    monkeypatch.setattr(training_session, "fill_memory", fills)
    monkeypatch.setattr(training_session, "planned", plans)
    choice = RecipeChoice(model="yolov7-tiny", size=64, batch="auto")
    with pytest.raises(UserError, match="planned"):
        train(choice, scenes, budget="10m", weights=build("yolov7-tiny", 3), out=tmp_path / "run", device="cpu")
    count = -(-len(open_dataset(scenes, "train")) // 3)
    assert seen == [16, 3, -(-500 // count), 3, 7]


def test_the_command_trains_by_a_budget_and_resumes_it(scenes, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", str(scenes), "--model", "yolox-nano", "--size", "64", "--batch", "4", "--out", str(out)]
    assert run([*command, "--workers", "0", "--threads", "1", "--budget", "40s"]) == 0
    said = capsys.readouterr()
    text = (out / "train.log").read_text()
    assert "The budget of 40s has time for about" in text and "Recipe small, fitted to 8 images" in text
    assert (out / "best.safetensors").is_file() and "Trained for" in said.out + said.err
    recipe = find_recipe(out)
    assert isinstance(recipe.epochs, int) and recipe.closing is not None
    assert run(["train", str(scenes), "--out", str(out), "--resume"]) == 0  # finished: it stays so


@pytest.mark.slow
def test_a_run_without_a_budget_gets_none_on_resuming(scenes, tmp_path):
    out = tmp_path / "plain"
    train("yolox-nano", scenes, epochs=1, size=64, batch=4, workers=0, threads=1, out=out)
    with pytest.raises(UsageError, match="begun without a budget"):
        train(None, scenes, budget="1m", out=out, resume=True)
