"""Everything around the loop of a training: what it begins with, its folder, the first look at the data, the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, overload

from onelook.api.open import PathLike
from onelook.api.recipe_choice import RecipeChoice, named_choice, recipe_name, resolved, resumed
from onelook.api.splits import open_splits
from onelook.api.tasks import Task, check_judging, preflight, task_of
from onelook.config import check_arguments
from onelook.data import Dataset
from onelook.data.cache_budget import CachePlan, plan_cache
from onelook.data.fit import check_fit
from onelook.data.loader import Loader
from onelook.devices import Layout, Precision
from onelook.errors import UsageError
from onelook.networks.detector import Detector
from onelook.reporter import PlainReporter, Reporter
from onelook.training.batches import make_loader, slow_loader_remedy
from onelook.training.options import RunOptions, options_of_run
from onelook.training.preflight import rates_too_low
from onelook.training.processes import ProcessGroup, join_process_group
from onelook.training.recipe import Recipe
from onelook.training.result import RunResult
from onelook.training.run import Evaluate, Run, exclusive
from onelook.training.start import check_batch, check_batch_norm, fill_memory, starting_point
from onelook.training.teacher import TeacherRecord, find_teacher, write_teacher
from onelook.training.train_state import TrainState


@dataclass(frozen=True, eq=False)
class TrainingSession:
    """A training that is ready for its loop. faster: what to try where the loop waits for batches."""

    run: Run
    batches: Loader
    measure: Evaluate | None
    faster: str
    task: Task
    splits: tuple[Dataset, Dataset | None]
    loading: ExitStack

    def conclude(self, result: RunResult) -> None:
        """Ends the workers, and makes the report of a training that was not interrupted."""
        self.loading.close()
        if result.reason != "interrupted":
            self.task.conclude(self.run, result, *self.splits)


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Where a training starts. The fields are those of `onelook.train`; folder: of the run."""

    folder: Path
    resume: bool
    weights: str | Detector | None
    teacher: str | Detector | None
    teacher_weights: str | None


@contextmanager
def open_session(
    choice: Recipe | RecipeChoice,
    data: Dataset | PathLike,
    options: RunOptions,
    *,
    validation: Dataset | None = None,
    weights: PathLike | Detector | None = None,
    teacher: PathLike | Detector | None = None,
    teacher_weights: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> Iterator[TrainingSession]:
    """Prepares a training; the arguments are those of `onelook.train`. The run's folder is locked meanwhile.

    An error inside the `with` block is written to the run's log as well.
    """
    start = Start(
        folder=run_folder(out, resume, run_name(choice)),
        resume=resume,
        weights=None if resume or weights == "none" else _text(weights),
        teacher=_text(teacher),
        teacher_weights=_text(teacher_weights),
    )
    if resume:
        options = options.after(options_of_run(start.folder))
    training, judged, notes = open_splits(data, options.train_split, validation or options.val_split, reporter=reporter)
    with join_process_group(options.device) as process_group:
        plan = None if options.cache in (None, "none") else plan_cache(options.cache, training, start.folder)
        begun = _begin(choice, (training, judged), process_group, options, start)
        notes += [*begun.notes, *([] if plan is None else [str(plan)])]
        with exclusive(start.folder, process_group, new=not resume):
            run = Run(
                start.folder,
                begun.recipe,
                begun.train_state,
                reporter=PlainReporter() if reporter is None else reporter,
                loggers=options.loggers,
                resume=resume,
                resume_command=(resume_command or _resume_call)(start.folder),
                image_name=lambda row: str(training.path(row)),
            )
            run.record.flags = options.to_dict()
            _announce(run, notes, begun.teacher, resume)
            with _checked(run, begun.task, (training, judged), options, plan, new=not resume) as session:
                yield session


@contextmanager
def start_training(
    recipe: Recipe | RecipeChoice | PathLike | None,
    data: Dataset | PathLike,
    *,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    split: str | None = None,
    validation: Dataset | str | None = None,
    weights: PathLike | Detector | None = None,
    teacher: PathLike | Detector | None = None,
    teacher_weights: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    device: str | None = None,
    workers: int | None = None,
    cache: str | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: bool | None = None,
    deterministic: bool | None = None,
    allow_size_mismatch: bool | None = None,
    log: str | Sequence[str] = (),
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> Iterator[TrainingSession]:
    """A training that is ready for `fit`; the arguments are those of `onelook.train`."""
    check_arguments(start_training, locals())
    options = RunOptions(
        device=device,
        train_split=split,
        val_split=validation if isinstance(validation, str) else None,
        workers=workers,
        cache=cache,
        precision=precision,
        layout=layout,
        compile=compile,
        deterministic=deterministic,
        allow_size_mismatch=allow_size_mismatch,
        log=(log,) if isinstance(log, str) else tuple(log),
    )
    with open_session(
        named_choice(recipe, epochs=epochs, size=size, batch=batch),
        data,
        options,
        validation=validation if isinstance(validation, Dataset) else None,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        out=out,
        resume=resume,
        resume_command=resume_command,
        reporter=reporter,
    ) as session:
        yield session


@overload
def _text(given: PathLike | None) -> str | None: ...
@overload
def _text(given: PathLike | Detector | None) -> str | Detector | None: ...
def _text(given: PathLike | Detector | None) -> str | Detector | None:
    """A path as text; what is none stays."""
    return os.fspath(given) if isinstance(given, os.PathLike) else given


@dataclass(frozen=True, eq=False)
class _Beginning:
    """What a training begins with. notes: messages on it."""

    recipe: Recipe
    task: Task
    train_state: TrainState
    teacher: TeacherRecord | None
    notes: list[str]


def _begin(
    choice: Recipe | RecipeChoice,
    splits: tuple[Dataset, Dataset | None],
    process_group: ProcessGroup,
    options: RunOptions,
    start: Start,
) -> _Beginning:
    """The recipe, the teacher and the detector, each checked before the next is made."""
    training, judged = splits
    if start.resume:
        recipe = resumed(choice, start.folder)
    else:
        begins, teaches = start.weights is not None, start.teacher is not None
        on_cpu = process_group.device.type == "cpu"
        recipe = resolved(choice, training, fine_tunes=begins, teaches=teaches, on_cpu=on_cpu)
    task = task_of(recipe, training)
    check_judging(task, recipe, judged)
    found = find_teacher(recipe, start.folder, start.teacher, start.teacher_weights, start.resume)
    teacher, record = (None, None) if found is None else found
    detector, notes = starting_point(recipe, training, process_group, start.weights)
    if isinstance(choice, RecipeChoice) and choice.batch == "auto" and not start.resume:
        recipe, note = fill_memory(
            recipe, process_group, len(training), detector=detector, runtime=options.runtime, teacher=teacher
        )
        notes.append(note)
    check_batch(recipe, process_group, training)
    train_state = TrainState(recipe, detector, process_group, options.runtime, teacher)
    check_batch_norm(recipe, train_state, recipe.epochs * -(-len(training) // recipe.batch_size))
    return _Beginning(recipe, task, train_state, record, notes)


def _announce(run: Run, notes: list[str], teacher: TeacherRecord | None, resume: bool) -> None:
    """Reports what the training begins with, and writes the record of a new run's teacher."""
    if teacher is not None:
        strides = ", ".join(map(str, run.train_state.distillation_strides))
        notes = [*notes, f"Learning from {teacher} as well, at strides {strides}."]
        if run.is_main and not resume:
            write_teacher(run.folder, teacher)
    for note in notes:
        run.log.info(note)


@contextmanager
def _checked(
    run: Run,
    task: Task,
    splits: tuple[Dataset, Dataset | None],
    options: RunOptions,
    plan: CachePlan | None,
    *,
    new: bool,
) -> Iterator[TrainingSession]:
    """The session of a run whose data, and first batches where it is new, have been looked at."""
    training, judged = splits
    with _logged(run):
        run.check_data({"training": training.identity(), "validation": None if judged is None else judged.identity()})
        if run.is_main:
            for dataset in (training, judged):
                if dataset is not None:
                    check_fit(dataset, run.log.reporter, allow=bool(options.allow_size_mismatch))
        if new:
            preflight(task, run, training, judged)
    measure = None if judged is None else partial(task.metrics, validation=judged, run=run)
    # Logged before the loader ends its workers: where another process has ended too, this one may be killed meanwhile.
    with ExitStack() as loading, _logged(run):
        batches = loading.enter_context(
            make_loader(training, run.recipe, run.train_state.process_group, options.workers, plan)
        )
        if new and (warning := rates_too_low(run.recipe, -(-len(batches) // run.recipe.accumulate))):
            run.log.warning(warning)
        yield TrainingSession(run, batches, measure, slow_loader_remedy(batches), task, splits, loading)


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


def run_name(choice: Recipe | RecipeChoice) -> str | None:
    """What the folder of a run is named after: the model, or the recipe that was named."""
    return choice.name if isinstance(choice, RecipeChoice) else recipe_name(choice)


def run_folder(out: PathLike | None, resume: bool, name: str | None) -> Path:
    """Where the run's files go. Raises UsageError where a run is resumed and none is named."""
    if out is not None and not os.fspath(out).strip():
        raise UsageError("--out names no folder.", "Give a path, or leave it away: a folder in runs/ is taken then.")
    if out is not None:
        return Path(out)
    if resume:
        raise UsageError("--resume needs the folder of the run.", "Add --out with the folder that was printed.")
    return free_folder(name or "run")


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that does not exist."""
    base = Path("runs") / Path(name).stem
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder
