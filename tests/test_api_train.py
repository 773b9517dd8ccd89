"""`onelook.train` from Python: recipes as values and as names, results, messages, and the way to `backward`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from torch import Tensor

import onelook
from onelook.api.recipe_choice import RecipeChoice
from onelook.cli.app import run
from onelook.config import diff
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.build import build
from onelook.reporter import SilentReporter
from onelook.training.distillation import Distillation
from onelook.weights import read_header

PACKAGE = Path(onelook.__file__).parent
SMALL = {"size": (64, 64), "batch_size": 4, "epochs": 1, "closing": None, "multiscale": None}
QUICK = {"device": "cpu", "workers": 0, "reporter": SilentReporter()}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 4})


def recipe(**changes) -> onelook.Recipe:
    return onelook.change(onelook.recipe("yolox-nano"), {**SMALL, "schedule.warmup_epochs": 0.0, **changes})


@pytest.fixture(scope="module")
def result(scenes, tmp_path_factory):
    return onelook.train(recipe(), scenes, out=tmp_path_factory.mktemp("runs") / "a", **QUICK)


def test_a_recipe_and_a_data_set_in_memory_are_enough(scenes, tmp_path, capfd):
    dataset = onelook.open_dataset(scenes, "train", reporter=SilentReporter())
    result = onelook.train(recipe(), dataset, out=tmp_path / "run", **QUICK)
    assert capfd.readouterr() == ("", "")
    assert (result.reason, result.epochs, result.steps, result.metric) == ("finished", 1, 2, "AP")
    assert {"AP", "AP50", "AR100"} <= result.metrics.keys() and "loss/total" not in result.metrics
    assert result.folder == tmp_path / "run" and (result.folder / "report.html").is_file()
    assert "Evaluating on" in (result.folder / "train.log").read_text()  # the split val beside train
    # The class count is fitted to the data; everything else is the recipe's.
    trained = onelook.recipe(result.folder)
    assert [one.path for one in diff(recipe(), trained)] == ["model.num_classes"]
    assert trained.model.num_classes == len(dataset.names)


def test_the_result_has_the_detector_of_the_best_weights(result, scenes):
    image = np.zeros((48, 64, 3), np.uint8)
    found = result.detector.detect(image, confidence=0.0)
    assert len(found) and set(found.names) <= set(result.detector.class_names)
    assert result.detector is result.detector and result.detector.size == (64, 64)
    assert result.detector.class_names == onelook.open_dataset(scenes, "train").names


def test_a_result_is_short_text_and_json(result):
    assert str(result).splitlines()[0].startswith("Trained for 1 epoch in ")
    assert str(result).splitlines()[-1] == f"Weights: {result.weights}"
    plain = json.loads(json.dumps(result.to_dict()))
    assert (plain["reason"], plain["folder"]) == ("finished", str(result.folder))
    assert plain["metrics"].keys() == dict(result.metrics).keys()


def test_a_name_is_the_published_training(scenes, tmp_path):
    choice = RecipeChoice(model="yolox-nano", epochs=1, size=64, batch=4)
    onelook.train(choice, scenes, out=tmp_path / "named", validation="none", **QUICK)
    trained = onelook.recipe(tmp_path / "named")
    assert (trained.epochs, trained.input_size, trained.batch_size) == (1, (64, 64), 4)
    # A file of a recipe, as well as a run's folder.
    again = onelook.train(str(tmp_path / "named"), scenes, out=tmp_path / "again", validation="none", **QUICK)
    assert onelook.recipe(again.folder) == trained and again.metrics == {} and again.best is None


def test_a_loaded_detector_is_trained_and_stays_as_it_is(result, scenes, tmp_path):
    detector = onelook.load(result.folder)
    before = {name: tensor.clone() for name, tensor in detector.runtime.detector.state_dict().items()}
    told = Collected()
    trained = detector.train(scenes, recipe(), out=tmp_path / "more", **{**QUICK, "reporter": told})
    assert trained.reason == "finished" and "Loaded 'a detector in memory'" in "\n".join(told.lines)
    after = detector.runtime.detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_training_starts_from_the_best_weights_of_a_run(result, scenes, tmp_path):
    told, given = Collected(), {"validation": "none", "device": "cpu", "workers": 0}
    more = onelook.train(recipe(), scenes, weights=result.folder, out=tmp_path / "more", reporter=told, **given)
    assert f"Loaded '{result.weights}'" in "\n".join(told.lines)
    (first,) = read_header(more.weights).trained["initial"]
    assert first["file"] == "best.safetensors"
    assert "started from | `best.safetensors`" in (more.folder / "MODEL_CARD.md").read_text()
    detector = onelook.load("yolox-nano", weights=result.folder, device="cpu")
    assert detector.class_names == result.detector.class_names
    (tmp_path / "photos").mkdir()
    with pytest.raises(onelook.UserError, match=r"photos' is not a run: it has no best\.safetensors"):
        onelook.train(recipe(), scenes, weights=tmp_path / "photos", out=tmp_path / "none", **QUICK)
    assert not (tmp_path / "none").exists()


def test_weights_and_a_teacher_may_be_in_memory(scenes, tmp_path):
    torch.manual_seed(0)
    start, teacher, other = build("yolox-nano", 3), build("yolox-tiny", 2), build("yolox-tiny", 2)
    taught, out = recipe(distillation=Distillation()), tmp_path / "run"
    given = {"out": out, "validation": "none", **QUICK}
    result = onelook.train(taught, scenes, weights=start, teacher=teacher, **given)
    assert result.last["loss/distillation"] > 0
    assert json.loads((out / "teacher.json").read_text())["model"] == "a detector in memory"
    with pytest.raises(onelook.UserError, match="Give the same teacher again"):
        onelook.train(None, scenes, resume=True, **given)
    with pytest.raises(onelook.UserError, match="another teacher"):
        onelook.train(None, scenes, resume=True, teacher=other, **given)
    assert onelook.train(None, scenes, resume=True, teacher=teacher, **given).steps == result.steps


class Collected:
    """A reporter that keeps its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def progress(self, title, *, every=None):
        return SilentReporter().progress(title, every=every)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


MISTAKES = {
    "a name that does not exist": (("yolox-nanoo", None), {}, "Did you mean 'yolox-nano'"),
    "a data set that does not exist": (("yolox-nano", "nowhere"), {}, "'nowhere' does not exist"),
    "no data set": (("yolox-nano", 3), {}, "'data' must be Dataset"),
    "no recipe": ((3, None), {}, "'recipe' must be Recipe"),
    "no run to resume": (("yolox-nano", None), {"resume": True, "out": "nowhere"}, "no run in 'nowhere'"),
    "a teacher for a recipe without": ((None, None), {"teacher": "yolox-s"}, "The recipe has no teacher"),
    "weights that do not exist": ((None, None), {"weights": "missing.pth"}, "missing.pth"),
    "a device that does not exist": ((None, None), {"device": "gpu"}, "'gpu'"),
    "a logger that does not exist": ((None, None), {"log": "tensorbord"}, "tensorboard"),
}


@pytest.mark.parametrize(("given", "settings", "said"), MISTAKES.values(), ids=list(MISTAKES))
@pytest.mark.usefixtures("elsewhere")
def test_mistakes_are_user_errors(scenes, given, settings, said):
    chosen, data = given
    with pytest.raises(onelook.UserError, match=said):
        onelook.train(recipe() if chosen is None else chosen, scenes if data is None else data, **{**QUICK, **settings})


def test_a_negative_number_of_workers_is_refused_before_the_run_has_a_folder(scenes, tmp_path):
    with pytest.raises(onelook.UserError, match="workers is a number of processes, not -1"):
        onelook.train("yolox-nano", scenes, epochs=1, size=64, workers=-1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_its_recipe_or_refuses_another(scenes, tmp_path):
    out = tmp_path / "run"
    onelook.train(recipe(), scenes, out=out, **QUICK)
    again = onelook.train(recipe(), scenes, out=out, resume=True, **QUICK)
    assert (again.reason, again.steps) == ("finished", 2)
    assert onelook.train(None, scenes, out=out, resume=True, **QUICK).steps == 2
    with pytest.raises(onelook.UserError, match="batch_size was 4, now 8"):
        onelook.train(recipe(batch_size=8), scenes, out=out, resume=True, **QUICK)


def test_the_default_reporter_prints_plain_lines_on_standard_error(scenes, tmp_path, capfd):
    onelook.train(recipe(), scenes, out=tmp_path / "run", device="cpu", workers=0, validation="none")
    out, err = capfd.readouterr()
    assert out == "" and "epoch 1/1  loss" in err and "\x1b" not in err


def frames_of_ours(frame: FrameType | None) -> list[str]:
    """The functions of the package on the stack below the command line's own dispatch, outermost first.

    Counted is every Python frame whose code is in a file of the package, from the verb (`cli/<verb>.py`) inwards. A
    generator counts once, as the frame that is resumed. Frames of the standard library and of PyTorch are not counted.
    """
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            found.append(f"{path.relative_to(PACKAGE)}:{frame.f_code.co_name}")
        frame = frame.f_back
    found.reverse()
    first = next(place for place, name in enumerate(found) if name.startswith("cli/train.py"))
    return found[first:]


def test_from_the_verb_to_backward_there_are_at_most_five_calls_of_ours(scenes, tmp_path, monkeypatch):
    stacks, backward = [], Tensor.backward

    def watched(tensor, *given, **named):
        stacks.append(frames_of_ours(sys._getframe(1)))
        return backward(tensor, *given, **named)

    monkeypatch.setattr(Tensor, "backward", watched)
    flags = ("--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", "1", "--val-split", "none")
    asked = ["train", str(scenes), *flags, "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "run")]
    assert run(asked) == 0
    assert len(stacks) == 2  # one a step
    for stack in stacks:
        assert stack == [
            "cli/train.py:train",
            "api/train.py:train",
            "training/run.py:fit",
            "training/loop.py:train",
            "training/loop.py:_gradients",
        ]


SCRIPT = """
import sys
import onelook

print("the script runs")
recipe = onelook.change(onelook.recipe("yolox-nano"), {
    "epochs": 1, "size": (32, 32), "batch_size": 8, "model.width": 0.125, "schedule.warmup_epochs": 0,
    "closing.epochs": 0, "multiscale": None,
})
result = onelook.train(recipe, sys.argv[1], workers=1, device="cpu", out=sys.argv[2], reporter=onelook.SilentReporter())
print("trained", result.epochs)
"""


def test_a_script_without_a_main_guard_trains_once(scenes, tmp_path):
    """A worker process does not import the script, which would train again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "script.py"), str(scenes), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["the script runs", "trained 1"]
