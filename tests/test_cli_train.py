"""`onelook train` on a small made-up data set: what the flags mean, and what a wrong one says."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_sets import without_objects
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.run_folder import run_folder
from onelook.cli.app import run
from onelook.config import diff, to_plain, write_yaml
from onelook.data import open_dataset
from onelook.data.loader import collate
from onelook.data.order import classes_of_objects
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError
from onelook.losses.feature_distillation import Mgd
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.training.batches import slow_loader_remedy
from onelook.training.distillation import Distillation
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.training.preflight import rates_too_low
from onelook.training.schedule import Constant, MultiStep, OneCycle, WarmCosine
from onelook.weights import restore, save_weights

HERE = Path(__file__).parent
NAMES = ("a", "b", "c")


def recipe(*overrides, **flags):
    situation = {name: flags.pop(name) for name in ("has_weights", "has_teacher", "on_cpu") if name in flags}
    return RecipeChoice(**{"model": "yolox-nano", "overrides": overrides, **flags}).resolve(NAMES, **situation)


def test_the_published_recipe_holds_unless_told_otherwise():
    changes = {one.path for one in diff(find_recipe("yolox-nano"), recipe())}
    assert changes == {"model.num_classes"}


def test_flags_and_settings_change_the_recipe():
    changed = recipe("loss.assigner.radius=2.0", epochs=30, size=320, batch=16)
    assert changed.loss.assigner.radius == 2.0 and changed.input_size == (320, 320) and changed.batch_size == 16
    assert (changed.epochs, changed.schedule.warmup_epochs, changed.closing.epochs) == (30, 1, 6)
    assert changed.model.num_classes == 3
    assert recipe(on_cpu=True).batch_size == 16
    assert recipe(has_weights=True).epochs == 50


def test_a_teacher_brings_its_published_settings_or_the_defaults():
    changes = {
        model: {one.path: one.after for one in diff(recipe(model=model), recipe(model=model, has_teacher=True))}
        for model in ("yolox-nano", "damo-yolo-ns")
    }
    assert changes["yolox-nano"] == {"distillation": Distillation()}
    assert changes["damo-yolo-ns"] == {"distillation": Distillation(), "clip": 30.0}
    told = recipe("distillation=Distillation(loss=Mgd(masked=0.5), closing=false)", "clip=none", has_teacher=True)
    assert told.distillation == Distillation(loss=Mgd(masked=0.5), closing=False) and told.clip is None


def test_one_class_needs_no_brackets():
    for text in ("classes=dog", "classes=(dog)", "classes=('dog',)"):
        assert recipe(f"sampling.{text}").sampling.classes == ("dog",)
        assert recipe(f"sampling=Sampling({text})").sampling.classes == ("dog",)
    assert recipe("freeze=backbone.*").freeze == ("backbone.*",)


def test_a_missing_model_is_wrong_usage():
    with pytest.raises(UsageError, match="model is missing"):
        recipe(model=None)


@pytest.mark.parametrize(("flags", "said"), [({"epochs": 0}, "epochs"), ({"batch": -4}, "batch")])
def test_counts_that_cannot_be_meant_are_wrong_usage(flags, said):
    with pytest.raises(UsageError, match=f"{said} is at least 1"):
        recipe(**flags)


def test_folders_of_runs_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run_folder(None, False, "yolox-nano")
    first.mkdir(parents=True)
    assert (str(first), str(run_folder(None, False, "yolox-nano"))) == ("runs/yolox-nano", "runs/yolox-nano-2")


@pytest.mark.parametrize(
    ("workers", "cached", "said", "unsaid"),
    [
        (1, False, "try more workers than 1, up to 2", "cache=ram"),
        (2, False, "than cores (2) do not help, but cache=ram, images that are stored smaller or", "try more"),
        (4, True, "than cores (2) do not help, but images that are stored smaller or", "cache=ram"),
    ],
)
def test_what_a_slow_loader_is_told_depends_on_the_cores(monkeypatch, workers, cached, said, unsaid):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    told = slow_loader_remedy(SimpleNamespace(workers=workers, cache=object() if cached else None))
    assert said in told and unsaid not in told


@pytest.mark.parametrize(
    ("schedule", "steps", "said"),
    [
        (WarmCosine(warmup_epochs=1.0, flat_epochs=0.0), 1, "The only step of this training would have the learning"),
        (
            WarmCosine(warmup_epochs=1.0, flat_epochs=0.0),
            2,
            "All 2 steps of this training lie in the warm-up, up to 25",
        ),
        (WarmCosine(warmup_epochs=0.5, flat_epochs=0.0), 4, ""),
        (WarmCosine(warmup_epochs=0.5, warmup_start=0.5), 1, ""),
        (OneCycle(warmup_steps=1000), 10, "All 10 steps of this training lie in the warm-up, up to 0.9 %"),
        (Constant(), 1, ""),
        (MultiStep(), 1, ""),
    ],
)
def test_a_training_within_its_warm_up_is_warned_of(schedule, steps, said):
    told = rates_too_low(replace(recipe(epochs=1), schedule=schedule), steps)
    assert told.startswith(said) and bool(told) == bool(said)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 4})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(scenes, *arguments):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(["train", str(scenes), "--device", "cpu", "--workers", "0", *arguments])
    finally:
        torch.set_num_threads(threads)


SMALL = ("--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", "1")


def test_one_command_trains_evaluates_and_leaves_a_run(scenes, tmp_path, capsys):
    out, report = tmp_path / "run", tmp_path / "result.json"
    asked = (*SMALL, "--cache", "ram", "--out", str(out), "--json", str(report))
    assert train(scenes, *asked, "multiscale=none") == 0
    result = json.loads(report.read_text())
    assert result["reason"] == "finished" and result["steps"] == 2
    with (out / "metrics.csv").open() as file:
        assert {"AP", "AP50", "loss/total", "lr"} <= set(next(csv.DictReader(file)))
    assert "Weights: " in capsys.readouterr().out
    assert "Decoded images are kept in memory: up to" in (out / "train.log").read_text()
    # The recipe of the run is a recipe for another.
    again = (
        "--recipe",
        str(out / "recipe.yaml"),
        "--out",
        str(tmp_path / "again"),
        "--weights",
        str(out / "best.safetensors"),
    )
    assert train(scenes, *again) == 0


def test_a_validation_without_objects_is_foretold_and_the_last_weights_are_the_best(scenes, tmp_path, capsys):
    out, report = tmp_path / "run", tmp_path / "result.json"
    asked = (*SMALL[:-1], "3", "--out", str(out), "--json", str(report), "patience=1", "evaluate_every=1")
    assert train(without_objects(scenes, tmp_path / "empty"), *asked) == 0
    said = capsys.readouterr()
    assert "The validation split has no objects: AP is undefined on it" in said.err
    assert "AP was never defined on the validation set: best is the last epoch." in said.out
    result = json.loads(report.read_text())
    assert (result["reason"], result["epochs"], result["best"]) == ("finished", 3, None)
    best, last = (restore(out / f"{name}.safetensors").state_dict() for name in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in last)
    assert "AP was never defined on the validation set" in (out / "report.html").read_text()


def test_the_sampling_of_the_recipe_is_what_is_looked_at(scenes, tmp_path, capsys):
    names = open_dataset(scenes, "train").names
    label = int(np.bincount(classes_of_objects(open_dataset(scenes, "train"))[1]).argmax())
    asked = (*SMALL, "--out", str(tmp_path / "run"), f"sampling.classes=({names[label]},)")
    assert train(scenes, *asked) == 0
    assert "the training set has none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def teacher(scenes, tmp_path_factory):
    """A weights file of a larger model, for other classes than the scenes'."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    return save_weights(build("yolox-tiny", ("cat", "dog")), folder / "tiny.safetensors")


def test_a_run_with_a_teacher_is_interrupted_and_goes_on(scenes, teacher, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    # Sends the signal of Ctrl-C as the second batch is made.
    made = []
    monkeypatch.setattr(
        "onelook.data.loader.collate",
        lambda *given: made.append(1) or (len(made) == 5 and os.kill(os.getpid(), signal.SIGINT)) or collate(*given),
    )
    told = ("--teacher", str(teacher), "distillation.weight=0.5", "multiscale=none")
    code = train(scenes, *SMALL[:-1], "2", "--out", str(out), *told)
    assert code == 130
    record = json.loads((out / "teacher.json").read_text())
    assert record["model"] == str(teacher) and record["fingerprint"].startswith("sha256:")
    assert f"Learning from {teacher} as well: the features at strides 8, 16, 32." in (out / "train.log").read_text()
    monkeypatch.undo()

    moved = teacher.rename(tmp_path / "moved.safetensors")
    assert train(scenes, "--out", str(out), "--resume") == 1
    assert f"the teacher '{teacher}', which does not exist any more" in capsys.readouterr().err
    other = save_weights(build("yolox-nano", 3), tmp_path / "other.safetensors")
    assert train(scenes, "--out", str(out), "--resume", "--teacher", str(other)) == 1
    assert "another teacher" in capsys.readouterr().err
    assert train(scenes, "--out", str(out), "--resume", "--teacher", str(moved)) == 0
    moved.rename(teacher)
    with (out / "metrics.csv").open() as file:
        assert all(float(row["loss/distillation"]) > 0 for row in csv.DictReader(file))
    assert str(teacher) in (out / "report.html").read_text()
    # The student's file has nothing of the teacher in it.
    assert restore(out / "best.safetensors").state_dict().keys() == build("yolox-nano", 3).state_dict().keys()
    assert find_recipe(out).distillation == Distillation(weight=0.5)


def test_a_fitted_training_learns_the_predictions_of_a_teacher_of_its_classes(scenes, teacher, tmp_path, capsys):
    out, names = tmp_path / "run", open_dataset(scenes, "train").names
    knowing = save_weights(build("yolox-tiny", names), tmp_path / "knowing.safetensors")
    assert train(scenes, *SMALL, "--out", str(out), "--teacher", str(knowing), "distillation.share=0.3") == 0
    assert f"Learning from {knowing} as well: the predictions at strides 8, 16, 32." in (out / "train.log").read_text()
    assert find_recipe(out).distillation == PredictionDistillation(share=0.3)
    assert train(scenes, *SMALL, "--out", str(tmp_path / "other"), "--teacher", str(teacher)) == 1
    error = capsys.readouterr().err
    assert "no class in common: the teacher knows cat, dog" in error and "distillation=Distillation()" in error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "yolox-nanoo"], 1, "Did you mean 'yolox-nano'"),
        ([*SMALL, "loss.assigner.radios=2"], 2, "radius"),
        ([*SMALL, "epochs=many"], 2, "epochs"),
        (["--resume"], 2, "the folder of the run is needed"),
        (["--resume", "--out", "nowhere"], 1, "no run in 'nowhere'"),
        ([*SMALL, "--weights", "missing.pth"], 1, "missing.pth"),
        ([*SMALL, "--log", "tensorbord"], 1, "tensorboard"),
        ([*SMALL, "freeze=['bakbone.*']"], 1, "backbone"),
        ([*SMALL, "--train-split", "trian"], 1, "trian"),
        ([*SMALL, "metric=AP51"], 1, "Choose one of: AP, AP50"),
        ([*SMALL, "--val-split", "none", "patience=3"], 1, "nothing to evaluate on"),
        ([*SMALL, "--cache", "rma"], 2, "Did you mean 'ram'"),
        ([*SMALL, "--augment-on", "gpu"], 2, "Choose from: 'cpu', 'device'.\nSee"),
        ([*SMALL[:4], "--batch", "all"], 2, "--batch takes a whole number or auto, not 'all'."),
        ([*SMALL[:4], "--batch", "9999"], 1, "show each of the 8 images again and again"),
        ([*SMALL, "--out", ""], 2, "out names no folder"),
        ([*SMALL, "--teacher", "yolox-ss"], 1, "Did you mean 'yolox-s'"),
        ([*SMALL, "--teacher", "no"], 1, "There is no model 'no', nor a file or a run's folder of that name."),
        ([*SMALL, "--teacher", "yolox-s"], 1, "a file as teacher_weights"),
        ([*SMALL, "--teacher", "missing.safetensors"], 1, "missing.safetensors"),
        ([*SMALL, "--teacher-weights", "x.pth"], 2, "Give the name as teacher"),
        ([*SMALL, "distillation=Distillation()"], 2, "Give a teacher"),
        ([*SMALL, "--teacher", "yolox-s", "distillation=none"], 2, "has no teacher"),
        ([*SMALL, "--teacher", "yolox-s", "distillation.sharp=2"], 2, "sharpness"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_mistakes_get_one_message(scenes, capsys, arguments, code, said):
    assert train(scenes, *arguments) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_training_that_would_learn_nothing_says_so_before_it_begins(scenes, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ("--recipe", "yolox-nano", *SMALL[2:4], "--epochs", "1", "--batch", "8", "--out", str(out))
    assert train(scenes, *flags, "multiscale=none") == 0
    log = (out / "train.log").read_text()
    assert "warning: The only step of this training would have the learning rate 0, and nothing would be learnt" in log
    assert log.index("learning rate 0") < log.index("epoch 1/1") and "more epochs, a smaller batch" in log


@pytest.mark.usefixtures("elsewhere")
def test_a_folder_of_a_run_in_the_wrong_place_is_shown_the_right_one(scenes, tmp_path, capsys):
    said = []
    once, files = tmp_path / "runs" / "b 1", ("best.safetensors", "recipe.yaml")
    once.mkdir(parents=True)
    write_yaml(once / "recipe.yaml", to_plain(recipe()))
    for weights in (False, True):
        if weights:
            (once / "best.safetensors").write_bytes(b"x")
        for model in ("runs/b 1", *(f"runs/b 1/{name}" for name in files[not weights :])):
            assert train(scenes, "--model", model, "--epochs", "1") == 2
            said.append(" ".join(capsys.readouterr().err.split()))
    train_as, begin = "To train as it did: --recipe 'runs/b 1'.", "--model NAME --weights 'runs/b 1/best.safetensors'."
    assert "is the folder of a run" in said[0] and train_as in said[0] and "--weights" not in said[0]
    assert "is a file" in said[1] and "--recipe 'runs/b 1/recipe.yaml'." in said[1]
    assert train_as in said[2] and begin in said[2]
    assert "is a file" in said[3] and begin in said[3]
    assert train(scenes, "--model", "yolox-nano", "--weights", "runs/b 1") == 1
    assert "'runs/b 1/best.safetensors' is not a weights file" in capsys.readouterr().err  # the best ones
    (once / "best.safetensors").unlink()
    assert train(scenes, "--model", "yolox-nano", "--weights", "runs/b 1") == 1
    assert "has no weights yet: it stopped before the end of its first epoch." in capsys.readouterr().err
    assert train(scenes, "--model", "yolox-nano", "--weights", "runs") == 1
    assert "The folder 'runs' is not a run: it has no best.safetensors." in capsys.readouterr().err
    assert train(scenes, "--model", "runs", "--epochs", "1") == 1  # no folder of a run: an unknown name
    # A folder that is called as a model is no reason to refuse the model.
    (tmp_path / "yolox-nano").mkdir()
    assert train(scenes, *SMALL) == 0


@pytest.mark.usefixtures("elsewhere")
def test_a_file_where_the_run_should_be_is_named(scenes, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert train(scenes, *SMALL, "--out", str(tmp_path / "taken")) == 1
    error = capsys.readouterr().err
    assert f"'{tmp_path / 'taken'}' is not a folder." in error and "(out)" in error and "--debug" not in error


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
@pytest.mark.slow
@pytest.mark.parametrize("later", [0.4, 1.2])  # seconds: as workers import, after
def test_a_ctrl_c_while_the_workers_start_is_no_failure(scenes, tmp_path, later):
    command = [sys.executable, "-m", "onelook", "train", str(scenes), "--device", "cpu", "--workers", "2"]
    training = subprocess.Popen(
        [*command, *SMALL[:-1], "50", "--out", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with training:
        said = []
        for line in training.stderr:
            said.append(line)
            if "In the first batches" in line:
                time.sleep(later)
                os.killpg(training.pid, signal.SIGINT)  # as a terminal does: to all processes
    told = "".join(said)
    assert training.returncode == 130 and "Traceback" not in told and "error: A process" not in told, told
    assert "Stopped and saved" in told or "Interrupted." in told


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_the_report_of_two_processes_has_the_last_weights(scenes, tmp_path):
    """Its only epoch is the best: all processes evaluate the weights that the main one has just written."""
    start = [sys.executable, str(HERE / "command_in_two_processes.py")]
    asked = ["train", str(scenes), *SMALL, "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *asked], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").is_file()
