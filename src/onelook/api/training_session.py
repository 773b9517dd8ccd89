"""Prepares a training: recipe, weights, data sets, the run's folder, checks of the data. Ends it with the report."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, overload

import torch

from onelook import run_files
from onelook.api.open import PathLike
from onelook.api.recipe_choice import (
    RecipeChoice,
    given_recipe,
    knows_classes,
    named_choice,
    resolved,
    resumed,
)
from onelook.api.run_folder import run_folder, run_name
from onelook.api.splits import open_divided, open_splits, remember_division, without_validation
from onelook.api.suspicious import check_option, find_suspicious, read_suspicious
from onelook.api.tasks import Task, check_metric, preflight, task_of
from onelook.api.time_budget import Pace, plan_run, planned, with_budget_epochs, with_epochs_of_run
from onelook.api.watch import watched
from onelook.data import Dataset
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.cache_budget import CachePlan, plan_cache
from onelook.data.loader import Loader
from onelook.errors import UsageError, UserError
from onelook.networks.detector import Detector
from onelook.reporter import PlainReporter, Reporter
from onelook.threads import chosen_threads, thread_candidates
from onelook.training.batches import make_loader, slow_loader_remedy
from onelook.training.device_batches import DeviceBatches, check_augment_on_device
from onelook.training.fit_anchors import with_fitting_anchors
from onelook.training.loggers import check_loggers
from onelook.training.options import RunOptions, options_of_run
from onelook.training.origin import data_facts, initial_weights
from onelook.training.preflight import rates_too_low
from onelook.training.processes import ProcessGroup, gather_objects, join_process_group
from onelook.training.recipe import Recipe
from onelook.training.result import RunResult
from onelook.training.run import Evaluate, Run, exclusive
from onelook.training.start import check_batch, check_batch_norm_variance, fill_memory, first_weights, starting_point
from onelook.training.teacher import TeacherRecord, find_teacher, write_teacher
from onelook.training.threads import ThreadChoice, wants_choice
from onelook.training.train_state import TrainState
from onelook.weights.identify import model_name


@dataclass(frozen=True, eq=False)
class TrainingSession:
    """A training that is ready for its loop.

    evaluate: measures the model on the validation split; None without one.  slow_loader_remedy: what to try where the
    loop waits for batches.  loading: ends the loader's workers when it is closed.  threads: measures how many threads
    are fastest; None where their number is fixed.
    """

    run: Run
    batches: Loader | DeviceBatches
    evaluate: Evaluate | None
    slow_loader_remedy: str
    task: Task
    splits: tuple[Dataset, Dataset | None]
    loading: ExitStack
    threads: ThreadChoice | None

    def finish(self, result: RunResult) -> None:
        """Ends the workers, and makes the report of a training that was not interrupted."""
        self.loading.close()
        if result.reason != "interrupted":
            self.task.finish(self.run, result, *self.splits)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainOptions:
    """The arguments of `onelook.train` except recipe and data; they are explained there.

    run: those that a resumed run keeps, without the ones that are fields here.
    """

    run: RunOptions = RunOptions()
    validation: Dataset | str | None = None
    weights: PathLike | Detector | None = None
    teacher: PathLike | Detector | None = None
    teacher_weights: PathLike | None = None
    out: PathLike | None = None
    resume: bool | Literal["auto"] = False
    log: str | Sequence[str] = ()
    watch: bool = False
    resume_command: Callable[[Path], str] | None = None
    reporter: Reporter | None = None

    @property
    def of_run(self) -> RunOptions:
        """All options that a run keeps when it is resumed."""
        split = self.validation if isinstance(self.validation, str) else None
        return replace(self.run, val_split=split, log=(self.log,) if isinstance(self.log, str) else tuple(self.log))


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Where a training starts. The fields are those of `onelook.train`; folder: of the run; begin: of the call."""

    folder: Path
    resume: bool
    weights: str | Detector | None
    teacher: str | Detector | None
    teacher_weights: str | None
    begin: float


def _start(
    choice: Recipe | RecipeChoice, options: TrainOptions, begin: float
) -> tuple[Start, Recipe | RecipeChoice, TrainOptions]:
    """Where a training starts, and its recipe and options with the budget read. begin: of the call."""
    check_loggers(options.of_run.loggers)
    folder = run_folder(options.out, bool(options.resume), run_name(choice))
    resume = (folder / run_files.CHECKPOINT).is_file() if options.resume == "auto" else options.resume
    choice, budget = with_budget_epochs(choice, options.run.budget)
    start = Start(
        folder=folder,
        resume=resume,
        weights=None if resume else first_weights(options.weights),
        teacher=_text(options.teacher),
        teacher_weights=_text(options.teacher_weights),
        begin=begin,
    )
    return start, choice, replace(options, run=replace(options.run, budget=budget))


@contextmanager
def start_training(
    choice: Recipe | RecipeChoice, data: Dataset | PathLike, options: TrainOptions
) -> Iterator[TrainingSession]:
    """Prepares a training: what the `with` block gets is ready for `fit`. The run's folder is locked meanwhile.

    An error inside the `with` block is written to the run's log as well.
    """
    start, choice, options = _start(choice, options, time.monotonic())
    reporter = options.reporter or PlainReporter()
    before = options_of_run(start.folder) if start.resume else {}
    kept = options.of_run.after(before) if start.resume else options.of_run
    chosen = options.validation if isinstance(options.validation, Dataset) else kept.val_split
    fraction = _val_fraction(kept, chosen, start)
    check_option(options.run.drop_suspicious, before, resume=start.resume, folder=start.folder)
    if fraction is None:
        training, validation, notes = open_splits(data, kept.train_split, chosen, reporter=reporter)
    else:
        training, validation, notes = open_divided(data, kept.train_split, fraction, start.folder, reporter=reporter)
    suspicious = None
    if kept.drop_suspicious is not None:
        if start.resume:
            suspicious = read_suspicious(training, start.folder)
        else:
            suspicious = find_suspicious(training, kept.drop_suspicious, reporter)
        training = suspicious.dataset
        notes.append(suspicious.note(start.folder))
    with _torch_threads(kept.threads), join_process_group(kept.device) as process_group:
        _check_same_folder(start)
        plan = None if kept.cache in (None, "none") else plan_cache(kept.cache, training, start.folder)
        prepared = _prepare(choice, (training, validation), process_group, kept, start, cache=plan)
        notes += [*prepared.notes, *([] if plan is None else [str(plan)])]
        with exclusive(start.folder, process_group, new=not start.resume, warn=reporter.warning):
            run = Run(
                start.folder,
                prepared.recipe,
                prepared.train_state,
                reporter=reporter,
                loggers=kept.loggers,
                resume=start.resume,
                resume_command=(options.resume_command or _resume_call)(start.folder),
                image_name=training.file,
            )
            recipe = before.get("recipe") if start.resume else given_recipe(choice)
            run.record.flags = {**kept.to_dict(), "recipe": recipe}
            plan_run(run, kept, prepared.pace, start.begin, (training, validation))
            if fraction is not None and validation is not None and run.is_main and not start.resume:
                remember_division(start.folder, training, validation)
            if not start.resume:
                run.record.origin["initial"] = initial_weights(start.weights, model_name(prepared.recipe.model))
            if suspicious is not None and run.is_main and not start.resume:
                suspicious.write(start.folder)
            _report_start(run, notes, prepared.teacher, start.resume)
            if validation is None and chosen != "none":
                run.log.warning(without_validation(data))
            title = f"{start.folder.name}: {type(run.recipe.model).__name__} on {training.described_by.name}"
            with (
                watched(run, title) if options.watch else nullcontext(),
                _checked_session(
                    run, prepared.task, (training, validation), kept, plan, new=not start.resume
                ) as session,
            ):
                yield session


def _check_same_folder(start: Start) -> None:
    """UserError where some processes see a run to continue in the folder, and others do not."""
    if len(set(gather_objects(start.resume))) > 1:
        raise UserError(
            f"Some processes of this training find a run in '{start.folder}', and others do not.",
            "Put it in a folder that all computers share (out).",
        )


def _val_fraction(kept: RunOptions, chosen: Dataset | str | None, start: Start) -> float | None:
    """The share of the images to evaluate on where the training divides them itself; None where it does not."""
    if kept.val_fraction is None:
        return None
    if chosen is not None:
        raise UsageError(
            "A split to evaluate on is given, and a fraction to hold back.",
            "Leave --val-fraction or --val-split away (in Python val_fraction or validation).",
        )
    before = options_of_run(start.folder).get("val_fraction") if start.resume else None
    if start.resume and kept.val_fraction != before:
        raise UsageError(
            f"The run in '{start.folder}' was started with val_fraction {before}, not {kept.val_fraction:g}.",
            "Leave --val-fraction away: the run keeps its division.",
        )
    return kept.val_fraction


@overload
def _text(given: PathLike | None) -> str | None: ...
@overload
def _text(given: PathLike | Detector | None) -> str | Detector | None: ...
def _text(given: PathLike | Detector | None) -> str | Detector | None:
    """A path as text; what is none stays."""
    return os.fspath(given) if isinstance(given, os.PathLike) else given


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What a training starts with: recipe, task, network, teacher. notes: messages about them.

    pace: measured for a budget of time; None without one, and in a resumed run.
    """

    recipe: Recipe
    task: Task
    train_state: TrainState
    teacher: TeacherRecord | None
    notes: list[str]
    pace: Pace | None


def _prepare(
    choice: Recipe | RecipeChoice,
    splits: tuple[Dataset, Dataset | None],
    process_group: ProcessGroup,
    options: RunOptions,
    start: Start,
    *,
    cache: CachePlan | None,
) -> _Prepared:
    """Makes the recipe, the teacher and the detector, and checks each before the next is made."""
    training, validation = splits
    anchor_note = small_note = budget_note = batch_note = pace = None
    if start.resume:
        choice = with_epochs_of_run(choice, start.folder, options.budget)
        recipe = resumed(choice, start.folder, shlex.quote(str(training.described_by)))
        found = find_teacher(recipe, start.folder, start.teacher, start.teacher_weights, start.resume)
    else:
        has_weights, has_teacher = start.weights is not None, start.teacher is not None
        known = knows_classes(choice, training, start.weights)
        make = partial(
            resolved,
            training=training,
            has_weights=has_weights,
            knows_classes=known,
            has_teacher=has_teacher,
            on_cpu=process_group.device.type == "cpu",
        )
        recipe = make(choice)
        found = find_teacher(recipe, start.folder, start.teacher, start.teacher_weights, start.resume)
        if isinstance(choice, RecipeChoice) and choice.batch == "auto":  # first: steps of that batch are planned
            taught_by, runtime = None if found is None else found[0], options.runtime
            batch, batch_note = fill_memory(recipe, process_group, training, runtime=runtime, teacher=taught_by)
            choice = replace(choice, batch=batch)
            recipe = make(choice)
        if options.budget is not None:
            recipe, pace, budget_note = planned(
                lambda epochs: make(named_choice(choice, epochs=epochs)),
                recipe,
                splits,
                process_group,
                options,
                cache=cache,
                begin=start.begin,
            )
        if isinstance(choice, RecipeChoice):
            small_note = choice.says_small(recipe, training, has_weights, known)
        recipe, anchor_note = with_fitting_anchors(recipe, training)
    task = task_of(recipe, training)
    if options.augment_on == "device":
        check_augment_on_device(recipe, process_group.device)
    check_metric(task, recipe, validation)
    teacher, record = (None, None) if found is None else found
    detector, notes = starting_point(recipe, training, process_group, start.weights)
    notes = [note for note in (budget_note, small_note, *notes, anchor_note, batch_note) if note is not None]
    check_batch(recipe, process_group, training)
    train_state = TrainState(recipe, detector, process_group, options.runtime, teacher)
    check_batch_norm_variance(recipe, train_state, recipe.epochs * -(-len(training) // recipe.batch_size))
    return _Prepared(recipe, task, train_state, record, notes, pace)


def _report_start(run: Run, notes: list[str], teacher: TeacherRecord | None, resume: bool) -> None:
    """Reports what the training starts with, and writes the record of a new run's teacher."""
    if teacher is not None:
        run.record.origin["teacher"] = Path(teacher.weights or teacher.model).name
        notes = [*notes, f"Learning from {teacher} as well: {run.train_state.what_is_distilled}."]
        if run.is_main and not resume:
            write_teacher(run.folder, teacher)
    for note in notes:
        run.log.info(note)


@contextmanager
def _checked_session(
    run: Run,
    task: Task,
    splits: tuple[Dataset, Dataset | None],
    options: RunOptions,
    plan: CachePlan | None,
    *,
    new: bool,
) -> Iterator[TrainingSession]:
    """Checks the data of a run, and the first batches of a new one, and starts its loader."""
    training, validation = splits
    with _logged(run):
        run.check_data(
            {
                "training": training.identity(),
                "validation": None if validation is None else validation.identity(),
            }
        )
        if run.is_main:
            for part, dataset in (("training", training), ("validation", validation)):
                if dataset is not None:
                    check_annotated_sizes(dataset, run.log.reporter, allow=bool(options.allow_size_mismatch))
                    run.record.origin[part] = data_facts(dataset)
        if new:
            preflight(task, run, training, validation)
    evaluate = None if validation is None else partial(task.metrics, validation=validation, run=run)
    # Logged before the loader ends its workers: where another process has ended too, this one may be killed meanwhile.
    with ExitStack() as loading, _logged(run):
        group, planned = run.train_state.process_group, options.augment_on == "device"
        loader = make_loader(training, run.recipe, group, options.workers, plan, plans=planned)
        loading.enter_context(loader)
        if new and (warning := rates_too_low(run.recipe, len(loader))):
            run.log.warning(warning)
        remedy = slow_loader_remedy(loader)
        batches = DeviceBatches(loader, group.device) if planned or group.device.type == "cuda" else loader
        yield TrainingSession(run, batches, evaluate, remedy, task, splits, loading, _thread_choice(run, options))


def _thread_choice(run: Run, options: RunOptions) -> ThreadChoice | None:
    group = run.train_state.process_group
    if not wants_choice(group.device, group.size, options.threads, bool(options.deterministic)):
        return None
    return ThreadChoice(thread_candidates(chosen_threads()), run.log.info)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Sets PyTorch's threads while the block runs; afterwards, and where the block changes them, they are as before."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _logged(run: Run) -> Iterator[None]:
    """Writes an error that ends the block to the run's log."""
    try:
        yield
    except Exception as error:
        run.log.log(f"error: {error}")
        raise


def _resume_call(folder: Path) -> str:
    return f"call onelook.train again with out='{folder}' and resume=True"
