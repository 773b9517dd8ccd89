"""A run: a training in a folder, with logging, evaluation, checkpoints, early stopping and resuming.

The folder holds `recipe.yaml`, `metrics.csv`, `best.safetensors`, `last.safetensors`, `state.pt` (the checkpoint) and
`train.log`. Every file but the log is replaced atomically, the checkpoint last: after a crash at any moment the run can
be resumed from its last checkpoint and gives exactly the numbers of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onelook import run_files
from onelook.config import to_plain, write_yaml
from onelook.errors import OtherProcessError, UserError, did_you_mean
from onelook.files import remove_leftovers
from onelook.ops.reduce import mean_over_processes
from onelook.reporter import Reporter, SilentReporter
from onelook.training.checkpoint import latest_weights_hint, load_checkpoint, save_checkpoint
from onelook.training.files import locked_folder, make_folder
from onelook.training.interrupt import StopRequest
from onelook.training.loggers import CsvLogger, LoggerCollection, open_loggers
from onelook.training.loop import Batches, Epoch, Step, train
from onelook.training.meter import LossMeter, NonFiniteLossError
from onelook.training.processes import (
    ProcessGroup,
    any_process,
    any_process_each,
    average_statistics,
    gather_objects,
    gather_statistics,
)
from onelook.training.record import RunRecord
from onelook.training.result import RunResult, format_duration
from onelook.training.step_plan import StepPlan
from onelook.training.threads import ThreadChoice
from onelook.training.train_log import TrainLog, format_losses
from onelook.training.train_state import TrainState
from onelook.types import UNDEFINED
from onelook.weights import save_weights

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.training.recipe import Recipe

READ_EVERY = 20  # steps between two reads of the losses on CUDA: each read synchronises with the device

Evaluate = Callable[["Detector"], Mapping[str, float]]


@contextlib.contextmanager
def exclusive(folder: Path, process_group: ProcessGroup, *, new: bool, warn: Callable[[str], None]) -> Iterator[None]:
    """Locks the folder of a run against other trainings while the block runs, in the main process only.

    new: whether the folder is created.  warn: called with a message where the folder cannot be locked. UserError where
    another training has locked it, or it cannot be created.
    """
    if not process_group.is_main:
        yield
        return
    if new:
        make_folder(folder)
    with locked_folder(folder, warn):
        yield


class Run:
    """The folder of a training and the files in it. Only the main process writes.

    reporter: receives messages and progress; None shows nothing.  resume_command: how the run is resumed; printed
    after Ctrl-C.  save_minutes: between checkpoints inside an epoch.  image_name: the name, in messages, of the image
    in a row of the data set.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        train_state: TrainState,
        *,
        reporter: Reporter | None = None,
        loggers: Sequence[str] = (),
        resume: bool = False,
        resume_command: str = "",
        save_minutes: float = 10.0,
        image_name: Callable[[int], str] = str,
    ) -> None:
        self.folder, self.recipe, self.train_state = folder, recipe, train_state
        self.resume_command = resume_command or "the same call with resume"
        self.save_seconds = save_minutes * 60
        self.last_saved = time.monotonic()
        self.image_name = image_name
        self.is_main = train_state.process_group.is_main
        self.record = RunRecord()
        with exclusive(folder, train_state.process_group, new=not resume, warn=(reporter or SilentReporter()).warning):
            if resume:
                self.record = RunRecord(**load_checkpoint(folder / run_files.CHECKPOINT, train_state))
                self._check_names()
            elif self.is_main:
                if (folder / run_files.CHECKPOINT).exists():
                    raise UserError(
                        f"'{folder}' holds a run already.",
                        "Continue it (resume), or choose another folder (out).",
                    )
                write_yaml(folder / run_files.RECIPE, to_plain(recipe))
            if self.is_main:
                remove_leftovers(folder)
        self.record.names = list(train_state.detector.class_names)
        self.log = TrainLog(
            reporter if reporter is not None and self.is_main else SilentReporter(),
            folder / run_files.LOG if self.is_main else None,
            train_state.process_group.device,
        )
        csv = CsvLogger(folder / run_files.METRICS, self.record.rows)
        self.loggers = (
            open_loggers(loggers, csv, folder, to_plain(recipe), self.log.warning)
            if self.is_main
            else LoggerCollection(None, {}, self.log.warning)
        )

    def _check_names(self) -> None:
        """UserError where the data set has other classes than the run, or the same in another order."""
        before, now = self.record.names, list(self.train_state.detector.class_names)
        if before and before != now:
            place = next((i for i, (old, new) in enumerate(zip(before, now)) if old != new), min(len(before), len(now)))
            old, new = (f"'{names[place]}'" if place < len(names) else "none" for names in (before, now))
            raise UserError(
                f"The run in '{self.folder}' has other classes than the data set: class {place} was {old}, now {new}.",
                "Resume with the data set that the run was started with, its classes in the same order.",
            )

    def check_data(self, data: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Compares the data sets with those of the run so far; see `RunRecord.check_data`."""
        for warning in self.record.check_data(data, self.folder):
            self.log.warning(warning)

    def save_checkpoint(self, meter: LossMeter | None = None) -> None:
        """Writes the checkpoint; inside an epoch with its losses so far (`meter`). All processes must call it."""
        self.record.meters = None if meter is None else gather_objects(meter.to_dict())
        self.last_saved = time.monotonic()
        statistics = gather_statistics(*self.train_state.models)
        if self.is_main:
            save_checkpoint(self.folder / run_files.CHECKPOINT, self.train_state, asdict(self.record), statistics)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is older than `save_minutes`."""
        return time.monotonic() - self.last_saved > self.save_seconds

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.train_state.optimizer.param_groups[0]["lr"])

    def write_weights(self, file_name: str, row: Mapping[str, Any]) -> None:
        """Writes the evaluated model to a file of the run's folder, with the metrics in `row`."""
        if self.is_main:
            save_weights(
                self.train_state.evaluated_model,
                self.folder / file_name,
                recipe=to_plain(self.recipe),
                metrics={name: value for name, value in row.items() if value is not None},
                size=self.recipe.input_size,
                trained=self.record.trained(),
            )

    def result(self, epochs: int) -> RunResult:
        """The result of the training so far. epochs: those that are finished."""
        record = self.record
        return RunResult(
            folder=self.folder,
            reason=record.reason if record.finished else "interrupted",
            epochs=epochs,
            steps=self.train_state.steps,
            seconds=record.seconds,
            metric=self.recipe.metric,
            best=record.best,
            best_epoch=None if record.best_epoch is None else record.best_epoch + 1,
            metrics=record.metrics,
            last=record.rows[-1] if record.rows else {},
        )


def fit(
    run: Run,
    batches: Batches,
    evaluate: Evaluate | None,
    *,
    slow_loader_remedy: str = "prepare them in more processes",
    threads: ThreadChoice | None = None,
) -> RunResult:
    """Trains until the last epoch, early stopping or Ctrl-C; the run's folder is up to date in each case.

    slow_loader_remedy: what the warning recommends where training waits for batches.  threads: measures how many
    threads are fastest; None leaves their number as it is.
    """
    recipe, train_state, record, log = run.recipe, run.train_state, run.record, run.log
    plan = StepPlan(recipe, len(batches))
    meter = record.loss_meter(train_state.process_group)
    clock = Clock(record.seconds, train_state.steps, plan.total)
    read_every = READ_EVERY if train_state.process_group.device.type == "cuda" else 1
    shown, counts = None, list[int]()
    with (
        exclusive(run.folder, train_state.process_group, new=False, warn=log.warning),
        StopRequest() as stop,
        log,
    ):
        if train_state.steps == 0:
            run.save_checkpoint()
        stopped = record.finished
        for event in () if stopped else train(recipe, train_state, batches):
            if threads is not None:
                threads.add(event)
            if isinstance(event, Step):
                done = plan.place(event.number)[1] + 1
                meter.add(event, first=shown is None)
                if shown != event.epoch:  # the first step of the epoch in this session
                    counts = plan.counts(event.epoch)
                    log.begin_epoch(event.epoch, recipe.epochs, len(counts), done - 1)
                    shown = event.epoch
                if done % read_every and not event.ends_epoch:
                    continue
                skipped = meter.read()
                found, interrupted, due = any_process_each(
                    (bool(skipped), stop.requested, run.checkpoint_due), train_state.process_group.device
                )
                if found:
                    _report_skipped(run, skipped)
                pace = clock.seconds_per_step(train_state.steps)
                images = recipe.batch_size
                if recipe.grow_accumulation:
                    images = images // recipe.accumulate * counts[done - 1]
                log.step(done, len(counts), meter.recent_means(), images / pace, clock.remaining(train_state.steps))
                record.seconds = clock.seconds()
                stopped = interrupted and not event.ends_epoch
                if stopped or (due and not event.ends_epoch):
                    run.save_checkpoint(meter)
            else:
                log.end_epoch()
                record.seconds = clock.seconds()
                images = plan.full_steps * recipe.batch_size
                _end_epoch(run, event, meter, images, evaluate, slow_loader_remedy=slow_loader_remedy)
                meter = LossMeter()
                record.finished = event.number + 1 == recipe.epochs or _out_of_patience(run)
                run.save_checkpoint()
                stopped = record.finished or any_process(stop.requested, train_state.process_group.device)
            if stopped:
                break
        log.end_epoch()
        if not record.finished:
            log.info(f"Stopped and saved after {train_state.steps} steps. To resume: {run.resume_command}")
        run.loggers.close()
    return run.result(plan.place(train_state.steps)[0])


def _end_epoch(
    run: Run, event: Epoch, meter: LossMeter, images: int, evaluate: Evaluate | None, *, slow_loader_remedy: str
) -> None:
    """Evaluates the model in the epochs chosen by the recipe; writes the epoch's metrics and the weights."""
    recipe, train_state, record, log = run.recipe, run.train_state, run.record, run.log
    if any_process(
        not meter.steps, train_state.process_group.device
    ):  # all stop together: none waits for one that has ended
        raise NonFiniteLossError(
            f"No step of epoch {event.number + 1} had a finite loss: the training has diverged.",
            f"Start again with a lower learning rate, or with clip=10. The run so far is in {run.folder}.",
        )
    average_statistics(*train_state.models)
    trained = record.seconds - sum(row["seconds"] for row in record.rows)
    row: dict[str, Any] = {f"loss/{name}": value for name, value in _over_processes(meter.means(), run).items()}
    row |= {"lr": run.rate, "images_per_second": images / max(trained, 1e-9), "waited": meter.waited}
    begin = time.monotonic()
    better = False
    if evaluate is not None and recipe.evaluates(event.number):
        metrics = dict(evaluate(train_state.evaluated_model))
        if recipe.metric not in metrics:
            raise UserError(
                f"metric={recipe.metric} is no metric of the evaluation.{did_you_mean(recipe.metric, metrics)}",
                f"Choose one of: {', '.join(metrics)}.",
            )
        row |= {name: None if value == UNDEFINED else value for name, value in metrics.items()}
        better = record.update_best(metrics[recipe.metric], event.number)
    record.seconds += time.monotonic() - begin
    row["seconds"] = trained + time.monotonic() - begin
    record.rows = [old for old in record.rows if old["epoch"] <= event.number]
    record.rows.append({"epoch": event.number + 1, **row})
    log.info(_line(event.number + 1, recipe, row, better))
    late, running = meter.waited - meter.starting, trained - meter.starting
    if late > 0.2 * running and late > 1:
        log.warning(f"Training waited {late:.1f} of {running:.1f} s for the data loader: {slow_loader_remedy}.")
    run.loggers.write(event.number + 1, row)
    if log.monitor is not None:
        log.monitor.rows(record.rows)
    if better or record.best is None:  # until an epoch is evaluated, the last one counts as the best
        run.write_weights(run_files.BEST_WEIGHTS, row)
    run.write_weights(run_files.LAST_WEIGHTS, row)


def _over_processes(values: Mapping[str, float], run: Run) -> dict[str, float]:
    """The mean of each number over the processes, as each has trained on a share of the batches."""
    shared = mean_over_processes(torch.tensor(list(values.values()), device=run.train_state.process_group.device))
    return dict(zip(values, shared.tolist())) if run.train_state.process_group.size > 1 else dict(values)


def _out_of_patience(run: Run) -> bool:
    patience, misses = run.recipe.patience, run.record.misses
    if patience is None or misses < patience:
        return False
    run.log.info(f"No improvement of {run.recipe.metric} in {misses} evaluations: stopped early.")
    run.record.reason = "patience"
    return True


def _report_skipped(run: Run, skipped: Sequence[tuple[Step, Mapping[str, float]]]) -> None:
    """Warns of skipped steps of all processes, with their images; NonFiniteLossError where the recipe stops."""
    messages = [_skipped_message(run, step, losses) for step, losses in skipped]
    for message in (message for messages in gather_objects(messages) for message in messages):
        if run.recipe.nonfinite == "stop" and not run.is_main:
            raise OtherProcessError(message)
        if run.recipe.nonfinite == "stop":
            raise NonFiniteLossError(
                message,
                "No weight was changed by it. Check the images and their boxes (onelook check). A lower learning rate, "
                "or nonfinite=skip, which skips such steps, is another recipe, which a resumed run does not accept: "
                f"start a new run in another folder (out){latest_weights_hint(run.folder)}. The run so far is in "
                f"{run.folder}.",
            )
        run.log.warning(f"{message} The step was skipped.")


def _skipped_message(run: Run, step: Step, losses: Mapping[str, float]) -> str:
    """The message about a skipped step: its number, what was not finite, and its images."""
    bad = ", ".join(f"{name} {value}" for name, value in losses.items() if not math.isfinite(value))
    images = ", ".join(run.image_name(row) for row in step.images)
    what, how = ("loss", f": {bad}") if bad else ("gradient", ", though its loss is")
    where = f"step {step.number} (epoch {step.epoch + 1})"
    return f"The {what} of {where} is not finite{how}. Its images: {images}."


def _line(epoch: int, recipe: Recipe, row: Mapping[str, Any], better: bool) -> str:
    losses = {name: row[f"loss/{name}"] for name in ("total", *recipe.terms_at(epoch - 1))}
    metrics = "  ".join(
        f"{name} {row[name]:.4f}" for name in ("AP", "AP50", "top1", "top5") if row.get(name) is not None
    )
    width = len(str(recipe.epochs))
    return (
        f"epoch {epoch:{width}}/{recipe.epochs}  {format_losses(losses)}  lr {row['lr']:.2e}  "
        f"{row['images_per_second']:.1f} img/s  {format_duration(row['seconds'])}  "
        f"{metrics}{'  best' if better else ''}"
    ).rstrip()


class Clock:
    """Measures the time of a run over all its sessions and estimates the time that remains."""

    def __init__(self, before: float, done: int, total: int) -> None:
        self._before, self._done, self._total = before, done, total
        self._begin = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far, with earlier sessions."""
        return self._before + time.monotonic() - self._begin

    def seconds_per_step(self, done: int) -> float:
        """Seconds a step in this session, with evaluations."""
        return (time.monotonic() - self._begin) / max(done - self._done, 1)

    def remaining(self, done: int) -> float:
        """Estimated seconds until the last step."""
        return self.seconds_per_step(done) * (self._total - done)
