"""`onelook tune`: a search over the numbers of a recipe."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.resume_command import resume_search
from onelook.cli.views.tune import show_tuning


def tune(
    data: str,
    /,
    *settings: str,
    model: str | None = None,
    recipe: str | None = None,
    weights: str | None = None,
    trials: int | None = None,
    budget: str | None = None,
    method: Literal["genetic", "tpe"] | None = None,
    seeds: int | None = None,
    parallel: int | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: str | None = None,
    resume: bool = False,
    seed: int | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
    on: str | None = None,
) -> CommandResult[Any]:
    """Search for better settings of a training.

    Trains again and again with other numbers in the recipe: first as it is, then at random, then children of the best
    (a genetic algorithm, as YOLOv4's authors chose theirs). path=low..high names a number to search; without any, the
    learning rate, momentum, weight decay and the weights of the loss are searched. path=value changes the recipe of all
    trials. Each trial is a run in the folder; the best recipe is best.yaml there, for onelook train --recipe. Stop with
    Ctrl-C and continue with --resume: what is not given then is as it was.

    With --budget the search ends in time and uses Optuna (extra "tune"): values are proposed by TPE, and trials that
    successive halving or the median of the others finds worse are stopped early. In the end the best recipe and the
    starting one are trained with other seeds, and the difference is shown with its 95 % interval.

    Examples:
        onelook tune data/ --model yolox-nano --epochs 10 --budget 30m
        onelook tune data/ --model yolox-nano --epochs 10 --trials 40
        onelook tune data/ --model yolox-nano --epochs 10 optimizer.momentum=0.8..0.98 loss.terms.box.weight=1..10
        onelook tune data/ --out runs/mine --resume --parallel 2

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file; or a folder of class folders.
        settings: path=low..high to search a number, path=value to change the recipe.
        model: Name of the model. Needed unless --recipe or --resume gives one.
        recipe: Another recipe: its name, a recipe.yaml, or the folder of a run.
        weights: File that every trial starts from, or the folder of a run.
        trials: How many trainings, those of earlier sessions included; 30 unless given, or what the budget allows.
        budget: Time of the whole search, such as 30m or 1h30m, earlier sessions included.
        method: genetic or tpe (Optuna); tpe with --budget, else genetic, unless given.
        seeds: Trainings of the best and of the starting recipe that decide whether it is better; 3 with tpe, else 0.
        parallel: Trainings at the same time; one unless given.
        epochs: Passes over the data of each trial.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step; as published (64) on a GPU, 16 on a CPU.
        device: cpu, cuda, cuda:1, mps; several with commas are taken in turn.
        out: Folder of the search.
        resume: Continue the search in --out.
        seed: Of the search's own randomness; 0 unless given.
        train_split: Split to train on.
        val_split: Split to evaluate on.
        workers: Processes of each training that prepare images.
        on: Train on a Ray cluster whose machines share the folders: ray, or ray://HOST:PORT, with settings behind it
            (ray,workers=8,cpus=2,gpus=1).
    """
    from onelook.api.recipe_choice import RecipeChoice
    from onelook.api.tune import tune as tune_recipe

    result = tune_recipe(
        RecipeChoice(model=model, recipe=recipe, epochs=epochs, size=size, batch=batch, overrides=settings),
        data,
        weights=weights,
        trials=trials,
        budget=budget,
        method=method,
        seeds=seeds,
        parallel=parallel,
        device=device,
        out=out,
        resume=resume,
        seed=seed,
        split=train_split,
        validation=val_split,
        workers=workers,
        on=on,
        resume_command=partial(resume_search, data),
        reporter=ConsoleReporter(),
    )
    return CommandResult(result, show_tuning, result.exit_code)
