"""A training in a folder: the loop, followed by somebody who logs, evaluates, saves and stops.

The folder holds `recipe.yaml`, `metrics.csv`, `best.safetensors`, `last.safetensors`, `state.pt` and `train.log`. Every
file but the log is replaced whole, the state last, so that a crash at any moment leaves a run that goes on from its
last state to exactly the numbers it would have had.
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
from rich.console import Console

from onelook.config import diff, to_plain, write_yaml
from onelook.errors import OtherProcessError, UserError, did_you_mean
from onelook.ops.reduce import mean_over_processes
from onelook.training.files import locked_folder, make_folder, remove_partial_files
from onelook.training.interrupt import StopRequest
from onelook.training.train_log import TrainLog, format_duration, format_losses
from onelook.training.train_state import TrainState
from onelook.training.loop import Batches, Epoch, Step, train
from onelook.training.meter import LossMeter, NonFiniteLossError
from onelook.training.processes import (
    ProcessGroup,
    any_process_each,
    any_process,
    average_statistics,
    gather_objects,
    gather_statistics,
)
from onelook.training.record import RunRecord, TrainResult
from onelook.training.loggers import CsvLogger, LoggerCollection, open_loggers
from onelook.training.checkpoint import load_checkpoint, save_checkpoint, latest_weights_hint
from onelook.types import UNDEFINED
from onelook.weights import save_weights

if TYPE_CHECKING:
    from onelook.models.detector import Detector
    from onelook.training.recipe import Recipe

READ_EVERY = 20  # steps between two looks at the losses on an accelerator, which has to stop for each

Evaluate = Callable[["Detector"], Mapping[str, float]]


@contextlib.contextmanager
def exclusive(folder: Path, world: ProcessGroup, *, new: bool) -> Iterator[None]:
    """The main process makes the folder of a new run and keeps all other trainings out of it meanwhile.

    UserError where one is in it, or where it cannot be made.
    """
    if not world.is_main:
        yield
        return
    if new:
        make_folder(folder)
    with locked_folder(folder):
        yield


class Run:
    """A folder, and what is written into it. Only the main process writes.

    resume_with: the command that goes on with the run, as Ctrl-C prints it.  save_minutes: between states inside an
    epoch.  name_of: what an image's row is called in messages.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        train_state: TrainState,
        *,
        console: Console | None = None,
        sinks: Sequence[str] = (),
        resume: bool = False,
        resume_command: str = "",
        save_minutes: float = 10.0,
        image_name: Callable[[int], str] = str,
    ) -> None:
        self.folder, self.recipe, self.train_state = folder, recipe, train_state
        self.resume_command = resume_command or "the same command and --resume"
        self.save_seconds = save_minutes * 60
        self.last_saved = time.monotonic()
        self.image_name = image_name
        self.is_main = train_state.world.is_main
        self.record = RunRecord()
        with exclusive(folder, train_state.world, new=not resume):
            if resume:
                self.record = RunRecord(**load_checkpoint(folder / "state.pt", train_state))
                self._check_names()
            elif self.is_main:
                if (folder / "state.pt").exists():
                    raise UserError(
                        f"'{folder}' holds a run already.", "Go on with it: --resume; or choose another folder: --out."
                    )
                write_yaml(folder / "recipe.yaml", to_plain(recipe))
            if self.is_main:
                remove_partial_files(folder)
        self.record.names = list(train_state.detector.class_names)
        self.log = TrainLog(
            console if self.is_main else None, folder / "train.log" if self.is_main else None, train_state.world.device
        )
        csv = CsvLogger(folder / "metrics.csv", self.record.rows)
        self.sinks = (
            open_loggers(sinks, csv, folder, to_plain(recipe), self.log.warn)
            if self.is_main
            else LoggerCollection(None, {}, self.log.warn)
        )

    def _check_names(self) -> None:
        """UserError where the data set's classes are others, or in another order, than those of the run."""
        before, now = self.record.names, list(self.train_state.detector.class_names)
        if before and before != now:
            place = next((i for i, (old, new) in enumerate(zip(before, now)) if old != new), min(len(before), len(now)))
            old, new = (f"'{names[place]}'" if place < len(names) else "none" for names in (before, now))
            raise UserError(
                f"The run in '{self.folder}' has other classes than the data set: class {place} was {old}, now {new}.",
                "Resume with the data set that the run was started with, its classes in the same order.",
            )

    def check_data(self, data: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Says what the run learns from and is judged on; see `RunRecord.identify`."""
        for warning in self.record.check_data(data, self.folder):
            self.log.warn(warning)

    def save(self, meter: LossMeter | None = None) -> None:
        """The state, inside an epoch with the losses it has so far. All processes take part."""
        self.record.meters = None if meter is None else gather_objects(meter.to_dict())
        self.last_saved = time.monotonic()
        statistics = gather_statistics(*self.train_state.models)
        if self.is_main:
            save_checkpoint(self.folder / "state.pt", self.train_state, asdict(self.record), statistics)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last state is so old that another is wanted."""
        return time.monotonic() - self.last_saved > self.save_seconds

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.train_state.optimizer.param_groups[0]["lr"])

    def write_weights(self, name: str, row: Mapping[str, Any]) -> None:
        """Writes the model to be used as `name`.safetensors."""
        if self.is_main:
            save_weights(
                self.train_state.evaluated_model,
                self.folder / f"{name}.safetensors",
                recipe=to_plain(self.recipe),
                metrics={name: value for name, value in row.items() if value is not None},
                size=self.recipe.input_size,
            )

    def result(self, steps_per_epoch: int) -> TrainResult:
        """What there is to say in the end."""
        record = self.record
        return TrainResult(
            folder=self.folder,
            reason=record.reason if record.finished else "interrupted",
            epochs=self.train_state.steps // steps_per_epoch,
            steps=self.train_state.steps,
            seconds=record.seconds,
            metric=self.recipe.metric,
            best=record.best,
            best_epoch=record.best_epoch,
            last=record.rows[-1] if record.rows else {},
        )


def check_same_recipe(folder: Path, before: Recipe, recipe: Recipe) -> None:
    """UserError if a run that is to go on was started with another recipe; names what differs."""
    changes = diff(before, recipe)
    if changes:
        listed = ", ".join(f"{one.path} was {one.before}, now {one.after}" for one in changes[:5])
        raise UserError(
            f"The run in '{folder}' has another recipe: {listed}.",
            "Resume without changing the recipe, or start a new run with --out in another folder.",
        )


def fit(
    run: Run, batches: Batches, evaluate: Evaluate | None, *, slow_loader_remedy: str = "prepare them in more processes"
) -> TrainResult:
    """Trains to the end, or until patience or Ctrl-C stops it; the run's folder is up to date either way.

    faster: what to do where training waits for batches.
    """
    recipe, learner, record, journal = run.recipe, run.train_state, run.record, run.log
    steps = -(-len(batches) // recipe.accumulate)
    meter = record.loss_meter(learner.world)
    clock = Clock(record.seconds, learner.steps, recipe.epochs * steps)
    read_every = READ_EVERY if learner.world.device.type == "cuda" else 1
    shown = None
    with exclusive(run.folder, learner.world, new=False), StopRequest() as stop, journal:
        if learner.steps == 0:
            run.save()
        stopped = record.finished
        for event in () if stopped else train(recipe, learner, batches):
            if isinstance(event, Step):
                done = event.number % steps + 1
                meter.add(event, first=shown is None)
                if shown != event.epoch:  # the first step of the epoch in this sitting
                    journal.begin_epoch(event.epoch, recipe.epochs, steps, done - 1)
                    shown = event.epoch
                if done % read_every and not event.ends_epoch:
                    continue
                broken = meter.read()
                found, asked, due = any_process_each(
                    (bool(broken), stop.asked, run.checkpoint_due), learner.world.device
                )
                if found:
                    _report_broken(run, broken)
                pace = clock.seconds_per_step(learner.steps)
                journal.step(done, steps, meter.smooth(), recipe.batch_size / pace, clock.left(learner.steps))
                record.seconds = clock.seconds()
                stopped = asked and not event.ends_epoch
                if stopped or (due and not event.ends_epoch):
                    run.save(meter)
            else:
                journal.end_epoch()
                record.seconds = clock.seconds()
                _end_epoch(run, event, meter, steps * recipe.batch_size, evaluate, faster=slow_loader_remedy)
                meter = LossMeter()
                record.finished = event.number + 1 == recipe.epochs or _out_of_patience(run)
                run.save()
                stopped = record.finished or any_process(stop.asked, learner.world.device)
            if stopped:
                break
        journal.end_epoch()
        if not record.finished:
            journal.info(f"Stopped and saved after {learner.steps} steps. To go on: {run.resume_command}")
        run.sinks.close()
    return run.result(steps)


def _end_epoch(
    run: Run, event: Epoch, meter: LossMeter, images: int, evaluate: Evaluate | None, *, faster: str
) -> None:
    """Evaluates where the recipe says so, writes the epoch's row and the weights."""
    recipe, learner, record, journal = run.recipe, run.train_state, run.record, run.log
    if any_process(not meter.steps, learner.world.device):  # all of them stop: nobody waits for one that is gone
        raise NonFiniteLossError(
            f"No step of epoch {event.number + 1} had a finite loss: the training has diverged.",
            f"Start again with a lower learning rate, or with clip=10. The run so far is in {run.folder}.",
        )
    average_statistics(*learner.models)
    trained = record.seconds - sum(row["seconds"] for row in record.rows)
    row: dict[str, Any] = {f"loss/{name}": value for name, value in _over_processes(meter.means(), run).items()}
    row |= {"lr": run.rate, "images_per_second": images / max(trained, 1e-9), "waited": meter.waited}
    begin = time.monotonic()
    better = False
    if evaluate is not None and recipe.evaluates(event.number):
        metrics = dict(evaluate(learner.evaluated_model))
        if recipe.metric not in metrics:
            raise UserError(
                f"metric={recipe.metric} is nothing that the evaluation measures.{did_you_mean(recipe.metric, metrics)}",
                f"Choose one of: {', '.join(metrics)}.",
            )
        row |= {name: None if value == UNDEFINED else value for name, value in metrics.items()}
        better = record.update_best(metrics[recipe.metric], event.number)
    record.seconds += time.monotonic() - begin
    row["seconds"] = trained + time.monotonic() - begin
    record.rows = [old for old in record.rows if old["epoch"] <= event.number]
    record.rows.append({"epoch": event.number + 1, **row})
    journal.info(_line(event.number + 1, recipe, row, better))
    late, running = meter.waited - meter.starting, trained - meter.starting
    if late > 0.2 * running and late > 1:
        journal.warn(f"The loader kept training waiting for {late:.1f} of {running:.1f} s: {faster}.")
    run.sinks.write(event.number + 1, row)
    if better or record.best is None:  # the last epoch stands in for the best until one is judged
        run.write_weights("best", row)
    run.write_weights("last", row)


def _over_processes(values: Mapping[str, float], run: Run) -> dict[str, float]:
    """The mean of each number over the processes: every one of them has seen a share of the batches only."""
    shared = mean_over_processes(torch.tensor(list(values.values()), device=run.train_state.world.device))
    return dict(zip(values, shared.tolist())) if run.train_state.world.size > 1 else dict(values)


def _out_of_patience(run: Run) -> bool:
    patience, misses = run.recipe.patience, run.record.misses
    if patience is None or misses < patience:
        return False
    run.log.info(f"No better {run.recipe.metric} in {misses} evaluations: stopped early.")
    run.record.reason = "patience"
    return True


def _report_broken(run: Run, broken: Sequence[tuple[Step, Mapping[str, float]]]) -> None:
    """Names the images of steps that came to nothing, in whatever process; NonFiniteLossError where all shall stop."""
    messages = [_of_broken(run, step, losses) for step, losses in broken]
    for message in (message for own in gather_objects(messages) for message in own):
        if run.recipe.nonfinite == "stop" and not run.is_main:
            raise OtherProcessError(message)
        if run.recipe.nonfinite == "stop":
            raise NonFiniteLossError(
                message,
                "No weight was changed by it. Check the images and their boxes (onelook check). A lower learning rate, "
                "or nonfinite=skip, which goes on without such steps, is another recipe, which --resume refuses: start "
                f"a new run in another --out{latest_weights_hint(run.folder)}. The run so far is in {run.folder}.",
            )
        run.log.warn(f"{message} The step was skipped.")


def _of_broken(run: Run, step: Step, losses: Mapping[str, float]) -> str:
    """What a step came to nothing by."""
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
        f"{row['images_per_second']:.1f} img/s  {format_duration(row['seconds'])}  {metrics}{'  best' if better else ''}"
    ).rstrip()


class Clock:
    """Seconds of a run over all its sittings, and how many are left."""

    def __init__(self, before: float, done: int, total: int) -> None:
        self._before, self._done, self._total = before, done, total
        self._begin = time.monotonic()

    def seconds(self) -> float:
        """Spent so far, earlier sittings included."""
        return self._before + time.monotonic() - self._begin

    def seconds_per_step(self, done: int) -> float:
        """Seconds a step in this sitting, evaluations included."""
        return (time.monotonic() - self._begin) / max(done - self._done, 1)

    def left(self, done: int) -> float:
        """Seconds until all steps are done at this pace."""
        return self.seconds_per_step(done) * (self._total - done)
