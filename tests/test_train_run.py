"""Tests of runs: the files of the folder, interruption at any moment, resuming."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from onelook.config import read_yaml, to_plain
from onelook.errors import UserError
from onelook.reporter import PlainReporter
from onelook.training import loggers
from onelook.training.loop import train
from onelook.training.meter import LossMeter
from onelook.training.run import Run, fit
from onelook.training.same_recipe import check_same_recipe
from onelook.training.train_log import TrainLog
from onelook.types import UNDEFINED
from onelook.weights import read_header, restore, save_weights
from training import LOSS, Squares, changed, train_state_of

HERE = Path(__file__).parent
RECIPE = changed(epochs=3, evaluate_every=1)
SMALL = Squares(count=16)
pytestmark = pytest.mark.usefixtures("one_thread")


def start(folder, recipe=RECIPE, batches=SMALL, evaluate=None, **settings):
    run = Run(folder, recipe, train_state_of(recipe), **settings)
    return fit(run, batches, evaluate)


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def bytes_of(folder):
    """The weights in the run's files, without the header, which has times in it."""
    return {
        name: {key: value.numpy().tobytes() for key, value in restore(folder / name).state_dict().items()}
        for name in ("best.safetensors", "last.safetensors")
    }


def falling(detector):
    """An evaluation that is best in the second epoch."""
    falling.calls += 1
    return {"AP": [0.1, 0.3, 0.2, 0.1, 0.1][falling.calls - 1], "AP50": 0.5}


def test_a_run_writes_all_documented_files(tmp_path):
    falling.calls = 0
    folder = tmp_path / "run"
    result = start(folder, evaluate=falling)
    names = {"recipe.yaml", "metrics.csv", "best.safetensors", "last.safetensors", "state.pt", "train.log"}
    assert {path.name for path in folder.iterdir()} == names | {"MODEL_CARD.md"}
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss/total", "loss/box", "loss/objectness", "loss/classes", "lr", "AP", "AP50", "seconds"} <= set(rows[0])
    assert rows[0]["loss/l1"] == "" and float(rows[2]["loss/l1"]) > 0
    assert read_yaml(folder / "recipe.yaml") == to_plain(RECIPE)
    assert result.reason == "finished" and result.metrics == {"AP": 0.2, "AP50": 0.5}
    assert (result.best, result.best_epoch, result.steps) == (0.3, 2, 6)
    header = read_header(folder / "best.safetensors")
    assert header.metrics["AP"] == 0.3 and header.class_names == ("red", "green", "blue")
    assert header.recipe == to_plain(RECIPE)
    assert (folder / "train.log").read_text().count("epoch ") == 3
    assert "Best AP 0.3000, in epoch 2" in str(result)


def test_the_last_model_is_the_best_where_nothing_is_evaluated(tmp_path):
    start(tmp_path, changed(epochs=1, closing=None))
    weights = bytes_of(tmp_path)
    assert weights["best.safetensors"] == weights["last.safetensors"]


def test_patience_is_early_stopping(tmp_path):
    falling.calls = 0
    result = start(tmp_path, changed(epochs=5, evaluate_every=1, patience=2), evaluate=falling)
    assert (result.reason, result.epochs, result.best_epoch) == ("patience", 4, 2)
    # Resuming a run that is done does nothing.
    again = start(tmp_path, changed(epochs=5, evaluate_every=1, patience=2), resume=True)
    assert (again.reason, again.steps) == ("patience", 8)


def measured(values):
    """Evaluations that give these values, one after the other."""
    left = iter(values)
    return lambda detector: {"AP": next(left), "AP50": UNDEFINED}


def test_the_last_weights_are_the_best_where_the_metric_was_never_defined(tmp_path):
    recipe = changed(epochs=4, evaluate_every=1, patience=1)
    result = start(tmp_path, recipe, evaluate=measured([UNDEFINED] * 4))
    assert (result.reason, result.epochs, result.best, result.best_epoch) == ("finished", 4, None, None)
    weights = bytes_of(tmp_path)
    assert weights["best.safetensors"] == weights["last.safetensors"]
    assert [row["AP"] for row in rows_of(tmp_path)] == [""] * 4
    assert json.loads(json.dumps(result.to_dict()))["last"]["AP"] is None
    assert "AP" not in read_header(tmp_path / "best.safetensors").metrics
    assert "AP " not in (tmp_path / "train.log").read_text()
    assert "AP was never defined on the validation set: best is the last epoch." in str(result)
    assert "Best AP" not in str(result)


def test_the_first_defined_metric_is_the_best(tmp_path):
    recipe = changed(epochs=5, evaluate_every=1, patience=2)
    result = start(tmp_path, recipe, evaluate=measured([UNDEFINED, 0.0, 0.0, UNDEFINED, UNDEFINED]))
    assert (result.reason, result.epochs, result.best, result.best_epoch) == ("finished", 5, 0.0, 2)
    assert read_header(tmp_path / "best.safetensors").metrics["AP"] == 0.0
    assert [row["AP"] for row in rows_of(tmp_path)] == ["", "0.0", "0.0", "", ""]
    assert "Best AP 0.0000, in epoch 2." in str(result) and "never defined" not in str(result)


def test_without_evaluation_no_metric_is_printed(tmp_path):
    assert "never defined" not in str(start(tmp_path, changed(epochs=1, closing=None)))


def test_undefined_metrics_are_not_sent_to_loggers(tmp_path, monkeypatch):
    rows = []
    logger = SimpleNamespace(write=lambda epoch, row: rows.append(row), close=lambda: None)
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", lambda folder, settings: logger)
    start(tmp_path, changed(epochs=1, closing=None), evaluate=measured([UNDEFINED]), loggers=["mlflow"])
    assert len(rows) == 1 and "AP" not in rows[0] and rows[0]["loss/total"] > 0


def test_an_unknown_metric_is_named(tmp_path):
    falling.calls = 0
    with pytest.raises(UserError, match=r"metric=AP51 .* Did you mean 'AP50'"):
        start(tmp_path, changed(epochs=1, metric="AP51", closing=None), evaluate=falling)


class Interrupting(Squares):
    """Sends this process a signal while step `at` is prepared."""

    at = 3

    def take(self, rows):
        type(self).at -= 1
        if type(self).at == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().take(rows)


def test_an_epoch_has_one_progress_bar_even_before_its_first_losses(tmp_path, monkeypatch):
    from test_train_loop import SumOfBoxes

    shown = []
    monkeypatch.setattr(
        TrainLog, "begin_epoch", lambda journal, epoch, epochs, steps, done: shown.append((epoch, done))
    )
    first = int(np.random.default_rng((7, 0)).permutation(16)[0])  # of the first batch: its step is skipped
    recipe = changed(epochs=2, loss=LOSS.with_terms(SumOfBoxes()), closing=None, nonfinite="skip")
    start(tmp_path, recipe, Squares(count=16, broken=first))
    assert shown == [(0, 0), (1, 0)]


@pytest.mark.parametrize("at", [1, 4, 6])
def test_ctrl_c_saves_and_the_resumed_run_is_bit_equal(tmp_path, at):
    whole = start(tmp_path / "whole")
    Interrupting.at = at
    before = signal.getsignal(signal.SIGINT)
    told = io.StringIO()
    batches = Interrupting(count=16)
    broken = start(
        tmp_path / "broken", batches=batches, reporter=PlainReporter(told), resume_command="onelook train d --resume"
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert broken.reason == ("interrupted" if at < 6 else "finished")
    if at < 6:
        assert "To resume: onelook train d --resume" in told.getvalue()
    again = start(tmp_path / "broken", resume=True)
    assert again.reason == "finished" and again.steps == whole.steps
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "whole")
    columns = [name for name in rows_of(tmp_path / "whole")[0] if name.startswith("loss/")]
    one, two = ([[row[name] for name in columns] for row in rows_of(tmp_path / which)] for which in ("whole", "broken"))
    assert one == two


def test_a_run_is_resumed_with_its_own_classes_only(tmp_path):
    start(tmp_path, changed(epochs=1, closing=None))
    train_state = train_state_of(RECIPE)
    train_state.detector.class_names = ("red", "blue", "green")
    with pytest.raises(UserError, match="class 1 was 'green', now 'blue'"):
        Run(tmp_path, RECIPE, train_state, resume=True)


class Slow(Squares):
    """Whose batches take so many seconds, one after the other."""

    seconds: tuple[float, ...] = (0.6, 0.6, 0.6)

    def epoch(self, epoch, augment, first):
        for wait, batch in zip(self.seconds[first:], super().epoch(epoch, augment, first)):
            time.sleep(wait)
            yield batch


def test_a_slow_data_loader_is_warned_of_with_numbers(tmp_path):
    recipe = changed(epochs=1, closing=None)
    fit(Run(tmp_path / "slow", recipe, train_state_of(recipe)), Slow(), None, slow_loader_remedy="take more")
    said = (tmp_path / "slow" / "train.log").read_text()
    found = re.search(r"Training waited (\S+) of (\S+) s for the data loader: take more\.", said)
    assert found and 1.2 <= float(found[1]) <= float(found[2])
    assert float(rows_of(tmp_path / "slow")[0]["waited"]) >= 1.8
    start(tmp_path / "quick", changed(epochs=1, closing=None), Squares(count=16))
    assert "waiting" not in (tmp_path / "quick" / "train.log").read_text()


def test_the_start_of_workers_does_not_count_as_a_slow_loader(tmp_path):
    class Starting(Slow):
        seconds = (1.5, 0.0, 0.0)

    start(tmp_path, changed(epochs=1, closing=None), Starting())
    assert "waiting" not in (tmp_path / "train.log").read_text() and float(rows_of(tmp_path)[0]["waited"]) >= 1.5


def test_the_start_of_workers_in_an_earlier_session_does_not_count():
    before = LossMeter({"box": 1.0}, 1, waited=3.0, starting=2.0)
    assert LossMeter.from_dict(before.to_dict()).starting == 2.0
    assert LossMeter.from_dict({"sums": {}, "steps": 0, "waited": 1.0}).starting == 0.0


def test_a_run_folder_is_locked_while_it_trains(tmp_path):
    """As where two are started at once, or one lives on when the program that started it was killed."""
    start(tmp_path)
    locking = "import fcntl, os, sys, time; folder = os.open(sys.argv[1], os.O_RDONLY); "
    locking += "fcntl.flock(folder, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", locking, str(tmp_path)]
    written = tmp_path / ".state.pt.abc.part"  # what the other one is just writing
    written.touch()
    recipe = (tmp_path / "recipe.yaml").read_bytes()
    before = bytes_of(tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="Another training is running in"):
            start(tmp_path, resume=True)
        with pytest.raises(UserError, match="Another training is running in"):
            start(tmp_path, changed(epochs=2))
        assert written.exists() and (tmp_path / "recipe.yaml").read_bytes() == recipe
        other.kill()
    assert bytes_of(tmp_path) == before
    start(tmp_path, resume=True)


def test_a_failing_logger_does_not_stop_training(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, folder, settings):
            pass

        def write(self, epoch, row):
            raise ConnectionError("no connection")

        def close(self):
            raise AssertionError("a logger that failed is left alone")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", Broken)
    result = start(tmp_path, changed(epochs=2, closing=None), loggers=("wandb",))
    assert result.reason == "finished" and len(rows_of(tmp_path)) == 2
    assert (tmp_path / "train.log").read_text().count("wandb: write failed (ConnectionError: no connection)") == 1


def test_rows_that_could_not_be_written_are_written_later(tmp_path, monkeypatch):
    write, calls = loggers.write_text, []

    def full(path, text):
        calls.append(path)
        if len(calls) in (1, 3, 4):
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(loggers, "write_text", full)
    result = start(tmp_path, changed(epochs=3, closing=None))
    assert result.reason == "finished" and len(rows_of(tmp_path)) == 2
    log = (tmp_path / "train.log").read_text()
    assert log.count("could not be written (no space left on device)") == 3
    assert log.count("written with the next epoch's") == 2 and log.count("a resumed training writes them") == 1
    # All epochs are done, and going on does nothing but that.
    start(tmp_path, changed(epochs=3, closing=None), resume=True)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1", "2", "3"]


@pytest.fixture
def small_files():
    """Limits the size of written files to 100 kB, which is like a full disk for larger ones."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_is_one_message(tmp_path, small_files):
    with pytest.raises(UserError, match=r"state\.pt' could not be written: file too large") as caught:
        start(tmp_path)
    assert "then resume" in caught.value.remedy
    with pytest.raises(UserError, match=r"x\.safetensors' cannot be written: file too large"):
        save_weights(train_state_of(RECIPE).detector, tmp_path / "x.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


def test_a_log_file_that_cannot_be_written_does_not_stop_training(tmp_path):
    (tmp_path / "train.log").mkdir(parents=True)
    told = io.StringIO()
    assert start(tmp_path, changed(epochs=2, closing=None), reporter=PlainReporter(told)).reason == "finished"
    assert told.getvalue().count("train.log' could not be written (is a directory)") == 1


def test_unknown_loggers_and_changed_recipes_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"no logger 'tensorbord'\. Did you mean 'tensorboard'"):
        start(tmp_path, loggers=("tensorbord",))
    with pytest.raises(UserError, match="another recipe: batch_size was 8, now 4"):
        check_same_recipe(tmp_path, RECIPE, changed(epochs=3, evaluate_every=1, batch_size=4))


LONGER = Squares(count=32)
ALWAYS = {"AP": 0.5}


def kill_loop(folder: Path) -> None:
    """Starts (or resumes) the whole training in `folder`; called in a process that may be killed at any moment."""
    torch.set_num_threads(1)
    print("ready", flush=True)
    resume = (folder / "state.pt").exists()
    start(folder, batches=LONGER, evaluate=lambda detector: ALWAYS, resume=resume, save_minutes=0.0005)


def killable(folder: Path) -> subprocess.Popen:
    """A process that has imported everything and then trains in `folder`, or resumes."""
    paths = os.pathsep.join(str(HERE.parent / part) for part in ("src", "tests", "benchmarks"))
    code = f"from pathlib import Path; from test_train_run import kill_loop; kill_loop(Path({str(folder)!r}))"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_and_resumed_is_bit_equal(tmp_path):
    whole, begin = killable(tmp_path / "whole"), time.monotonic()
    assert whole.wait(600) == 0
    length = time.monotonic() - begin
    rng, folder, kills, reached = random.Random(5), tmp_path / "broken", 0, set()
    while kills < 10:
        process = killable(folder)
        try:
            assert process.wait(rng.uniform(0, length)) == 0
            (folder / "state.pt").unlink()  # it came to its end before it was killed: once more from the start
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            if (folder / "state.pt").exists():
                reached.add(steps_of(folder))
    assert killable(folder).wait(600) == 0
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    assert not list(folder.glob(".*.part"))
    assert len(reached) > 2  # the kills met the training at different steps


def steps_of(folder: Path) -> int:
    """The optimizer steps of a run's state."""
    with safe_open(folder / "state.pt", framework="pt") as file:
        return int(json.loads(file.metadata()["numbers"])["steps"])


def test_a_run_begins_with_a_checkpoint_so_it_can_be_resumed_in_epoch_one(tmp_path):
    run = Run(tmp_path, RECIPE, train_state_of(RECIPE))
    run.save_checkpoint()
    next(train(RECIPE, run.train_state, SMALL))
    result = start(tmp_path, resume=True)
    assert result.steps == 6


def test_weights_of_another_training_are_not_replaced(tmp_path):
    weights = tmp_path / "best.safetensors"
    weights.write_bytes(b"weights of before")
    with pytest.raises(UserError, match=r"holds a run already: best\.safetensors") as caught:
        start(tmp_path)
    assert caught.value.remedy == "Choose another folder (out)."
    assert weights.read_bytes() == b"weights of before"
