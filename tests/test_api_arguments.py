"""Arguments of the wrong type, and settings that contradict each other, are one message that says what to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onelook
from onelook.api.recipe_choice import RecipeChoice
from onelook.cli.app import run
from onelook.errors import UsageError

WRONG: dict[str, tuple[Callable[[], Any], str, str]] = {
    "fraction": (
        lambda: onelook.train("yolox-nano", "data", epochs=1.9),  # type: ignore[arg-type]
        "'epochs' must be a whole number or None, not 1.9",
        "epochs=1 or epochs=2",
    ),
    "float": (
        lambda: onelook.train("yolox-nano", "data", size=96.0),  # type: ignore[arg-type]
        "'size' must be a whole number or None, not 96.0",
        "size=96",
    ),
    "text": (
        lambda: onelook.train("yolox-nano", "data", batch="1"),  # type: ignore[arg-type]
        "'batch' must be a whole number, 'auto' or None, not '1'",
        "batch=1",
    ),
    "choice": (
        lambda: onelook.train("yolox-nano", "data", precision="fp61"),  # type: ignore[arg-type]
        "'precision' must be 'fp32', 'fp16' or 'bf16' or None, not 'fp61'. Did you mean 'fp16'?",
        "",
    ),
    "recipe": (lambda: onelook.recipe(3), "'name' must be text or a path, not 3", ""),  # type: ignore[arg-type]
    "function": (
        lambda: onelook.train("yolox-nano", "data", reporter=print),  # type: ignore[arg-type]
        "'reporter' must be Reporter or None, not <built-in function print>",
        "onelook.PlainReporter()",
    ),
    "class": (
        lambda: onelook.check("data", reporter=onelook.SilentReporter),  # type: ignore[arg-type]
        "'reporter' must be Reporter or None",
        "onelook.SilentReporter()",
    ),
    "threshold": (
        lambda: onelook.validate("a.onnx", "data", confidence="0.5"),  # type: ignore[arg-type]
        "'confidence' must be a number, not '0.5'",
        "confidence=0.5",
    ),
    "threads": (
        lambda: onelook.load("a.onnx", threads="2"),  # type: ignore[arg-type]
        "'threads' must be a whole number or None, not '2'",
        "threads=2",
    ),
    "flag": (
        lambda: onelook.detect("a.onnx", "a.jpg", half=1),  # type: ignore[arg-type]
        "'half' must be True or False, not 1",
        "",
    ),
    "data": (lambda: onelook.open_dataset(3), "'data' must be text or Path, not 3", ""),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_of_the_wrong_type_is_named_with_what_to_give(case: str) -> None:
    call, message, remedy = WRONG[case]
    with pytest.raises(UsageError) as caught:
        call()
    assert message in caught.value.message and remedy in caught.value.remedy


def test_the_threshold_of_a_loaded_detector_is_checked_too(tmp_path: Path) -> None:
    from onnx_models import write_model

    detector = onelook.load(write_model(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match=r"'confidence' must be a number, not '0\.5'"):
        detector.detect(np.zeros((8, 8, 3), np.uint8), confidence="0.5")  # type: ignore[call-overload]


def test_numbers_of_numpy_are_numbers() -> None:
    with pytest.raises(onelook.UserError, match="does not exist"):
        onelook.validate("a.onnx", "data", batch=np.int64(4), confidence=np.float32(0.5))  # type: ignore[arg-type]


def test_a_recipe_is_shortened_by_the_same_argument_as_a_name() -> None:
    from onelook.api.recipe_choice import named_choice

    recipe = onelook.change(onelook.recipe("yolox-nano"), {"loss.assigner.radius": 2.0})
    for given in (recipe, "yolox-nano", RecipeChoice(model="yolox-nano")):
        choice = named_choice(given, epochs=5, size=96, batch=4)
        assert isinstance(choice, RecipeChoice) and choice.name == "yolox-nano"
        found = choice.resolve(("a", "b"))
        assert found.closing is not None
        assert (found.epochs, found.closing.epochs, found.size, found.batch_size) == (5, 1, (96, 96), 4)
        assert (found.loss.assigner.radius == 2.0) is (given is recipe)  # type: ignore[union-attr]
    assert named_choice(recipe) is recipe


def test_a_choice_with_other_epochs_contradicts_the_argument() -> None:
    from onelook.api.recipe_choice import named_choice

    with pytest.raises(UsageError, match="'epochs' is 5, and 6 in the RecipeChoice"):
        named_choice(RecipeChoice(model="yolox-nano", epochs=6), epochs=5)


def test_fewer_epochs_than_the_closing_phase_name_the_way_to_shorten_it() -> None:
    with pytest.raises(onelook.UserError, match=r"less than closing\.epochs 15") as caught:
        onelook.change(onelook.recipe("yolox-nano"), {"epochs": 5})
    assert "onelook.train(..., epochs=...)" in caught.value.remedy and "--epochs" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"epochs": 20}, "epochs=30"),
        ({"size": 96}, "size=(64, 64)"),
        ({"batch": 4}, "batch_size=8"),
        ({"batch": "auto"}, "batch_size=8"),
    ],
)
def test_an_option_and_a_setting_that_contradict_each_other_are_both_named(given: Any, setting: str) -> None:
    ((name, value),) = given.items()
    with pytest.raises(UsageError) as caught:
        RecipeChoice(model="yolox-nano", overrides=(setting,), **given).resolve(("a",))
    assert f"--{name} {value} and {setting} contradict each other" in caught.value.message


def test_an_option_and_a_setting_may_say_the_same() -> None:
    settings = ("epochs=20", "size=(96, 96)", "batch_size=4")
    found = RecipeChoice(model="yolox-nano", epochs=20, size=96, batch=4, overrides=settings).resolve(("a",))
    assert (found.epochs, found.size, found.batch_size) == (20, (96, 96), 4)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train data --model yolox-nano --epochs 1.9", "--epochs takes a whole number, not 1.9. Give --epochs 1 or"),
        ("train data --model yolox-nano --size=96.5", "--size takes a whole number, not 96.5."),
        ("train data --model yolox-nano --batch 4.0", "--batch takes a whole number, not 4.0. Give --batch 4."),
        ("bench model yolox-nano --runs .5", "--runs takes a whole number, not .5."),
    ],
)
def test_a_fraction_is_not_rounded_silently(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())
