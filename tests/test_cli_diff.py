"""`onelook diff`, and finding recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onelook.assign.simota import SimOta
from onelook.cli.app import run
from onelook.config import change, from_plain, override, to_plain, write_yaml
from onelook.errors import ConfigError
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.networks.variants import variant
from onelook.recipes import RECIPE_TYPES, find_recipe, read_recipe
from onelook.run_files import RECIPE
from onelook.training.optimizer import Sgd
from onelook.training.recipe import Recipe
from onelook.training.schedule import WarmCosine


def recipe() -> Recipe:
    return Recipe(
        model=variant("yolox-s").architecture,
        loss=DetectionLoss(SimOta(), (BoxIou(), Objectness(), Classes())),
        augment=SimOta(),  # type: ignore[arg-type]  # anything that can be written will do
        optimizer=Sgd(),
        schedule=WarmCosine(),
        epochs=300,
        batch_size=64,
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two recipe files: one alone, one in the folder of a run."""
    base = recipe()
    other = override(base, "epochs=30", "loss.assigner.radius=1.5", "model.size=(416, 416)", types=RECIPE_TYPES)
    other = change(other, {"loss.terms": (*base.loss.terms, RawL1())})
    write_yaml(tmp_path / "run" / RECIPE, to_plain(other))
    return write_yaml(tmp_path / "base.yaml", to_plain(base)), tmp_path / "run"


def test_a_recipe_comes_back_from_its_file(files: tuple[Path, Path]) -> None:
    assert read_recipe(files[0]) == recipe()
    assert from_plain(to_plain(recipe()), RECIPE_TYPES) == recipe()


def test_the_differences_are_shown_and_written(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(["diff", *map(str, files), "--json", str(tmp_path / "diff.json")]) == 0
    shown = capsys.readouterr().out
    assert "loss.assigner.radius" in shown and "..., RawL1()" in shown and "4 settings differ." in shown
    written = json.loads((tmp_path / "diff.json").read_text())
    assert [row["path"] for row in written["differences"]] == [
        "model.size",
        "loss.assigner.radius",
        "loss.terms",
        "epochs",
    ]
    assert written["differences"][1] == {"path": "loss.assigner.radius", "before": 2.5, "after": 1.5}


def test_equal_recipes_are_said_to_be_equal(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(files[0]), str(files[0])]) == 0
    assert "the same" in capsys.readouterr().out


MISTAKES: list[tuple[str, str, str]] = [
    (
        "a wrong setting",
        "type: Recipe\nepochz: 3\n",
        "x.yaml:2: Recipe has no setting 'epochz'. Did you mean",
    ),
    ("a wrong value", "type: Recipe\nepochs: many\n", "x.yaml:2: 'epochs' must be a whole number, not 'many'."),
    ("a wrong type", "type: Recipe\nloss:\n  type: Los\n", "x.yaml:3: 'loss': there is no type 'Los'."),
    ("settings missing", "type: Recipe\nepochs: 3\n", "x.yaml:1: Recipe needs 'model'"),
    ("another file", "names: [cat]\n", "x.yaml: is no recipe"),
    ("an empty file", "", "x.yaml: is no recipe"),
    ("broken YAML", "type: Recipe\nepochs: [3\n", "x.yaml:3:"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_recipe_file_with_a_mistake_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_recipe(tmp_path / "x.yaml")
    assert message in str(caught.value)


def test_a_missing_file_has_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", "yolox-s", "nothere.yaml"]) == 1
    assert "nothere.yaml: there is no such file.\n" in (error := capsys.readouterr().err) and "Check the path." in error


def test_names_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    for name, message in (
        (tmp_path, "has no recipe.yaml"),
        (tmp_path / "none.yaml", "no such file"),
        ("yolov99", "There is no recipe 'yolov99'"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_recipe(name)


def test_everything_a_recipe_mentions_can_be_set_from_text() -> None:
    changed = override(
        recipe(), "schedule=Constant", "optimizer=AdamW()", "closing=Closing(epochs=15)", types=RECIPE_TYPES
    )
    assert type(changed.schedule).__name__ == "Constant"
    assert changed.closing is not None and changed.closing.epochs == 15
