"""Plans a training with a budget: its epochs from a few measured steps, or from the budget itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onelook.api.recipe_choice import RecipeChoice, named_choice, recipe_of_run
from onelook.api.tasks import EVALUATION, last_evaluations
from onelook.data import Dataset
from onelook.data.cache_budget import CachePlan
from onelook.errors import UsageError, UserError
from onelook.evaluation import evaluate
from onelook.ops.nms import with_thresholds
from onelook.predict.runtimes.torch import TorchRuntime
from onelook.training.batches import make_loader
from onelook.training.budget import UNKNOWN_EVALUATION, TimePlan, parse_budget
from onelook.training.loop import Step, train
from onelook.training.options import RunOptions
from onelook.training.processes import ProcessGroup, gather_objects
from onelook.training.recipe import Recipe
from onelook.training.result import format_duration
from onelook.training.run import Run
from onelook.training.start import check_batch, check_batch_norm_variance, make_detector
from onelook.training.train_state import TrainState

MEASURED_STEPS = 6  # after one that is not counted
MEASURED_SHARE = 0.03  # of the budget, after which no further step is measured
MEASURED_IMAGES = 8  # of the validation split
WORKERS_FROM = 300.0  # seconds of a budget in which starting the loader's processes twice is little


@dataclass(frozen=True)
class Pace:
    """Measured seconds: of a training step with its batch, and of an evaluation, 0 without one."""

    step: float
    evaluation: float


def with_budget_epochs(choice: Recipe | RecipeChoice, budget: str | None) -> tuple[Recipe | RecipeChoice, str | None]:
    """The choice with the epochs of a budget in epochs, and the budget where it is a time.

    UsageError where both a budget and a number of epochs are given.
    """
    if budget is None:
        return choice, None
    said = isinstance(choice, RecipeChoice) and (
        choice.epochs is not None or any(one.partition("=")[0].strip() == "epochs" for one in choice.overrides)
    )
    if said:
        raise UsageError(
            f"A number of epochs and the budget '{budget}' are both given.", "Leave one of them away (epochs, budget)."
        )
    found = parse_budget(budget)
    return (named_choice(choice, epochs=found.epochs), None) if found.epochs else (choice, budget)


def planned(
    resolve: Callable[[int], Recipe],
    recipe: Recipe,
    splits: tuple[Dataset, Dataset | None],
    process_group: ProcessGroup,
    options: RunOptions,
    *,
    cache: CachePlan | None,
    begin: float,
) -> tuple[Recipe, Pace, str]:
    """The recipe with as many epochs as a budget of time has room for, the measured pace, and a message.

    resolve: makes the recipe of a training of so many epochs.  recipe: the same for any number.  begin: when the budget
    began, on the monotonic clock.  UserError where it is too short for anything.
    """
    if recipe.grow_accumulation:
        raise UsageError(
            "The recipe has grow_accumulation, whose steps are counted from a fixed number of epochs.",
            "Give epochs instead of a budget in time, or set grow_accumulation=false.",
        )
    check_batch(recipe, process_group, splits[0])
    pace = gather_objects(measure(recipe, splits, process_group, options, cache=cache))[0]
    at_end = last_evaluations(*splits, process_group.size)
    plan = time_plan(budget_seconds(options), pace, {}, begin, at_end)
    if not plan.room:
        raise UserError(
            f"The budget of {options.budget} leaves no time to train: the start took {format_duration(plan.used)}, a "
            f"step takes {pace.step:.2f} s, and the evaluation at the end about {at_end * pace.evaluation:.1f} s.",
            "Give a longer budget, a smaller size or batch, or fewer images to evaluate on.",
        )
    epochs = plan.epochs(-(-len(splits[0]) // recipe.batch_size))
    count = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    note = (
        f"The budget of {options.budget} has time for about {plan.steps_left:,} steps, {count}: a step takes "
        f"{pace.step:.2f} s, an evaluation about {pace.evaluation:.1f} s. From here on the plan follows the clock."
    )
    return resolve(epochs), pace, note


def with_epochs_of_run(choice: Recipe | RecipeChoice, folder: Path, budget: str | None) -> Recipe | RecipeChoice:
    """The choice for a run that is resumed: a recipe in memory with the epochs that the run's budget of time gave it.

    budget: of the run. Without one, and for names, the choice stays.
    """
    chosen = choice.recipe if isinstance(choice, RecipeChoice) else choice
    if (
        budget is None
        or not isinstance(chosen, Recipe)
        or (isinstance(choice, RecipeChoice) and choice.epochs is not None)
    ):
        return choice
    return named_choice(choice, epochs=recipe_of_run(folder).epochs)


def budget_seconds(options: RunOptions) -> float:
    """The seconds of the budget of time of a run."""
    assert options.budget is not None
    seconds = parse_budget(options.budget).seconds
    assert seconds is not None  # epochs were made options of the recipe
    return seconds


def measure(
    recipe: Recipe,
    splits: tuple[Dataset, Dataset | None],
    process_group: ProcessGroup,
    options: RunOptions,
    *,
    cache: CachePlan | None,
) -> Pace:
    """Trains a few steps on a network of its own, and evaluates a few images."""
    (training, validation), seconds = splits, budget_seconds(options)
    plain, runtime = replace(recipe, distillation=None), replace(options.runtime, compile=False)
    state = TrainState(plain, make_detector(plain, training.names), process_group, runtime)
    check_batch_norm_variance(plain, state, MEASURED_STEPS)
    workers = options.workers if seconds >= WORKERS_FROM else 0
    times: list[float] = []
    with make_loader(training, plain, process_group, workers, cache) as batches:
        begin = last = time.monotonic()
        for event in train(plain, state, batches):
            if isinstance(event, Step):
                float(event.losses[next(iter(event.losses))])  # waits for the device
                times.append(time.monotonic() - last)
                last = time.monotonic()
            late = any(gather_objects(last - begin > MEASURED_SHARE * seconds))
            if len(times) > MEASURED_STEPS or (late and len(times) > 1):
                break
    step = float(np.mean(times[1:] or times))
    if validation is None:
        return Pace(step, 0.0)
    if not training.has_boxes:  # a classifier
        return Pace(step, UNKNOWN_EVALUATION * step * len(validation) / recipe.batch_size)
    few = validation.view(np.arange(min(MEASURED_IMAGES, len(validation))))
    backend = TorchRuntime(state.evaluated_model, process_group.device, size=plain.input_size)
    begin = time.monotonic()
    evaluate(backend, few, with_thresholds(backend.evaluating, *EVALUATION))
    return Pace(step, (time.monotonic() - begin) * len(validation) / len(few))


def time_plan(seconds: float, pace: Pace | None, before: dict[str, float], begin: float, at_end: float) -> TimePlan:
    """The plan of a run. before: what the run's record has of an earlier session, {} in the first.

    at_end: how many times an evaluation follows the last step.
    """
    known = before or {"step": 0.0, "evaluation": 0.0, "used": 0.0, "progress": 0.0}
    step, evaluation = (known["step"], known["evaluation"]) if pace is None else (pace.step, pace.evaluation)
    start = time.monotonic() - begin
    return TimePlan(
        seconds,
        step=step,
        evaluation=evaluation,
        last_evaluations=at_end,
        used=known["used"] + start,
        start=start,
        progress=known["progress"],
        agree=lambda number: gather_objects(number)[0],
    )


def plan_run(
    run: Run, options: RunOptions, pace: Pace | None, begin: float, splits: tuple[Dataset, Dataset | None]
) -> None:
    """Gives a run its plan, where it has a budget of time. UsageError for a budget that it did not begin with."""
    if options.budget is None:
        return
    if pace is None and not run.record.budget:
        raise UsageError(
            f"The run in '{run.folder}' was begun without a budget of time.",
            "Leave the budget away: the run keeps its schedule.",
        )
    at_end = last_evaluations(*splits, run.train_state.process_group.size)
    run.time_plan = time_plan(budget_seconds(options), pace, run.record.budget, begin, at_end)
    run.save_seconds = min(run.save_seconds, run.time_plan.seconds / 10)
