"""`onelook train --resume`: a run goes on with what it began with, or says why it does not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from onelook.api.recipe_choice import RecipeChoice
from onelook.cli.app import run
from onelook.cli.resume_command import resume_training
from onelook.config import to_plain, write_yaml
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UserError
from onelook.training.meter import LossMeter
from onelook.training.options import RunOptions
from onelook.weights import restore
from test_cli_train import SMALL, recipe, train

RUN = {"model": "yolox-nano", "epochs": 1, "size": 64, "batch": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 4})


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(scenes, *SMALL, "--out", str(folder)) == 0
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    """The folder of a run that has ended, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epochs": 2}, r"epochs was 1, now 2"),
        ({"size": 96}, r"size was \(64, 64\), now \(96, 96\)"),
        ({"batch": 8}, r"batch_size was 4, now 8"),
        ({"model": "yolox-tiny"}, r"model\.depthwise was True, now False"),
        ({"recipe": "yolox-tiny"}, r"own recipe"),
        ({"overrides": ("seed=3",)}, r"seed was 0, now 3"),
    ],
)
def test_a_run_goes_on_as_it_began_or_says_what_would_change(tmp_path, asked, said):
    before = recipe("loss.assigner.radius=2.0", **RUN)
    write_yaml(tmp_path / "recipe.yaml", to_plain(before))
    assert RecipeChoice().resumed(tmp_path) == before
    assert RecipeChoice(overrides=("loss.assigner.radius=2.0",), **RUN).resumed(tmp_path) == before
    with pytest.raises(UserError, match=said):
        RecipeChoice(**asked).resumed(tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epochs": 3}, r"another recipe: epochs was 60, now 3\.\nResume without changing the recipe"),
        ({"epochs": 3, "size": 96}, r"epochs was 60, now 3, size was \(64, 64\), now \(96, 96\)"),
        ({"overrides": ("epochs=3",)}, r"less than closing\.epochs 12.*\nA resumed run keeps its recipe"),
    ],
)
def test_a_change_that_the_recipe_cannot_have_is_refused_as_any_other(tmp_path, asked, said):
    before = recipe(**RUN | {"epochs": 60})
    assert before.closing is not None and before.closing.epochs == 12
    write_yaml(tmp_path / "recipe.yaml", to_plain(before))
    with pytest.raises(UserError, match=said) as caught:
        RecipeChoice(**asked).resumed(tmp_path)
    assert "Shorten" not in str(caught.value)
    assert RecipeChoice(epochs=60).resumed(tmp_path) == before


def test_a_damaged_run_says_how_its_weights_go_on(scenes, finished, tmp_path, capsys):
    out = finished
    recipe = (out / "recipe.yaml").read_bytes()
    (out / "recipe.yaml").unlink()
    assert train(scenes, "--out", str(out), "--resume") == 1
    error = capsys.readouterr().err
    assert "lost its recipe.yaml" in error and f"with the weights so far: {out / 'last.safetensors'}" in error
    (out / "recipe.yaml").write_bytes(recipe)
    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:1000])
    assert train(scenes, "--out", str(out), "--resume") == 1
    error = capsys.readouterr().err
    assert (
        "damaged" in error
        and "in another folder (out)" in error
        and f"with the weights so far: {out / 'last.safetensors'}" in error
    )
    again = ("--out", str(tmp_path / "again"), "--weights", str(out / "last.safetensors"))
    assert train(scenes, *SMALL, *again) == 0
    capsys.readouterr()
    (out / "last.safetensors").unlink()  # as in the first epoch
    for lost in (out / "state.pt", out / "recipe.yaml"):
        lost.unlink() if lost.suffix == ".yaml" else lost.write_bytes(b"")
        assert train(scenes, "--out", str(out), "--resume") == 1
        error = capsys.readouterr().err
        assert "in another folder (out)." in error and "weights so far" not in error


def test_the_command_that_ctrl_c_prints_goes_on_with_what_the_run_began_with(scenes, tmp_path, capsys, monkeypatch):
    began = ("--train-split", "val", "--val-split", "none", "--precision", "bf16", "--layout", "contiguous")
    asked = ("--model", "yolox-nano", "--size", "64", "--batch", "2", "--epochs", "2", *began, "multiscale=none")
    assert train(scenes, *asked, "--out", str(tmp_path / "whole")) == 0
    stop_after(3, monkeypatch)
    out = tmp_path / "broken"
    assert train(scenes, *asked, "--out", str(out)) == 130
    printed = f"onelook train {scenes} --out {out} --resume"
    assert f"To resume: {printed}\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(shlex.split(printed)[1:]) == 0
    told = capsys.readouterr().err
    assert "split 'val': 4 images" in told and "Nothing to evaluate on" in told
    whole, broken = (restore(folder / "last.safetensors").state_dict() for folder in (tmp_path / "whole", out))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())


def stop_after(steps, monkeypatch):
    """Ctrl-C once a training has taken so many steps."""
    add = LossMeter.add

    def asked(meter, step, **given):
        add(meter, step, **given)
        if step.number + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LossMeter, "add", asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--train-split", "val"), "training data of the run in '{out}' was 8 images of the split 'train', now it is"),
        (("--val-split", "none"), "validation data of the run in '{out}' was 4 images of the split 'val', now it is"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(scenes, finished, capsys, arguments, said):
    out = finished
    assert train(scenes, "--out", str(out), "--resume", *arguments) == 1
    assert said.format(out=out) in capsys.readouterr().err
    assert f"error: The {said.format(out=out)[:10]}" in (out / "train.log").read_text()


def test_a_command_that_names_a_recipe_goes_on_by_itself(scenes, tmp_path, capsys):
    """As torchrun restarts it; with another recipe it does not."""
    out = tmp_path / "run"
    quick = (*SMALL, "--out", str(out), "--auto-resume")
    for _ in range(2):
        assert train(scenes, "--recipe", "yolox-nano:published", *quick) == 0
    assert train(scenes, "--recipe", "yolox-nano:small", *quick) == 2
    assert "A resumed run keeps its own recipe" in capsys.readouterr().err


def test_other_boxes_on_the_same_images_are_told_of_when_a_run_goes_on(tmp_path, capsys):
    data = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 8, "val": 4})
    out = tmp_path / "run"
    assert train(data, *SMALL, "--out", str(out)) == 0
    labels = data / "annotations" / "instances_train.json"
    content = json.loads(labels.read_text())
    content["annotations"].pop()
    labels.write_text(json.dumps(content))
    capsys.readouterr()
    assert train(data, "--out", str(out), "--resume") == 0
    assert "training images or their annotations have changed since the run began" in capsys.readouterr().err


def test_flags_that_are_given_again_hold_and_the_others_are_found():
    began = RunOptions(precision="bf16", workers=3, deterministic=True, log=("wandb",), val_split="test", cache="ram")
    again = RunOptions(workers=0, precision="fp32").after(json.loads(json.dumps(began.to_dict())))
    assert again == replace(began, workers=0, precision="fp32")
    assert RunOptions(workers=0).after({}) == RunOptions(workers=0)
    off = RunOptions(deterministic=False, log=("none",), cache="none").after(began.to_dict())
    assert (off.deterministic, off.loggers, off.cache) == (False, (), "none") and not off.runtime.deterministic
    with_more = began.to_dict() | {"a flag of another version": 1}
    assert RunOptions().after(with_more) == began


def test_the_command_to_go_on_is_torchrun_where_it_was_torchrun(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resume_training("my data", tmp_path) == (
        f"torchrun --nproc-per-node 2 -m onelook train 'my data' --out {tmp_path} --resume"
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert resume_training("d", tmp_path).startswith("torchrun as before on every node")


def test_a_state_with_a_flipped_byte_is_damaged(scenes, finished, capsys):
    out = finished
    content = bytearray((out / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "state.pt").write_bytes(content)
    assert train(scenes, "--out", str(out), "--resume") == 1
    assert "is damaged or no checkpoint (its checksum is wrong)" in capsys.readouterr().err
