"""The model card beside the best weights: made of their description, written with them."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import onelook
from onelook.api.demo import SHORT, draw_data
from onelook.api.recipe_choice import RecipeChoice
from onelook.cli.app import make_app
from onelook.networks.build import build
from onelook.networks.variants import VARIANTS
from onelook.reporter import SilentReporter
from onelook.run_files import BEST_WEIGHTS, MODEL_CARD
from onelook.training.model_card import model_card
from onelook.training.origin import initial_weights
from onelook.training.record import RunRecord
from onelook.weights import read_header, save_weights
from onelook.weights.header import Header
from test_train_run import RECIPE, falling, start

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = {
    "split": "val",
    "images": 7,
    "digest": "ab12",
    "name": "cups",
    "format": "COCO",
    "objects": {"cup": 5, "pan": 200},
}
HEADER = Header(
    model="yolox-nano",
    architecture={},
    class_names=("cup", "pan"),
    size=(320, 416),
    preprocessing={"pixels": "rgb, 0..255", "frame": {"type": "Letterbox"}},
    form="training",
    version="1.2.3",
    recipe={"epochs": 9, "batch_size": 8, "seed": 4, "optimizer": {"type": "Sgd"}, "metric": "AP", "sampling": {}},
    metrics={"AP": 0.25, "AP50": 0.5, "loss/total": 3.0},
    trained={
        "date": "2026-01-02T03:04:05+00:00",
        "epoch": 3,
        "training": DATA | {"split": "train", "images": 1234},
        "validation": DATA,
        "initial": [],
        "per_class": {"cup": {"AP": 0.25, "AP50": 0.5}, "pan": {"AP": -1.0, "AP50": -1.0}},
        "best_confidence": 0.417,
        "best_f1": 0.61,
    },
)


def with_trained(**changes: object) -> Header:
    return replace(HEADER, trained={**(HEADER.trained or {}), **changes})


def rows_of(card: str) -> list[list[str]]:
    """The cells of all tables; escaped signs are text."""
    lines = [line for line in card.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_card_says_what_the_weights_are_and_what_they_reached() -> None:
    card = model_card(HEADER, 900_000)
    assert card.startswith("# yolox-nano on cups\n\nA detector of 2 classes, trained on 2026-01-02 with Onelook 1.2.3.")
    rows = rows_of(card)
    assert ["model", "`yolox-nano`, 0.90 M parameters"] in rows and ["epoch", "3 of 9"] in rows
    assert ["input", "RGB, 416x320 pixels (letterbox)"] in rows and ["started from", "random values"] in rows
    assert ["training", "cups", "train", "1,234", "205", "`ab12`"] in rows
    assert ["AP", "AP50"] in rows and ["0.250", "0.500"] in rows
    assert ["cup", "5", "0.250", "0.500"] in rows and ["pan", "200", "-", "-"] in rows
    assert "Best confidence: 0.42" in card and "Few objects to train on: cup (5)." in card
    assert "by its AP on the images that the results are of" in card and "only 7 of them" in card
    assert "no licence of other weights applies" in card


def test_a_card_of_a_training_by_a_budget_has_no_fewer_epochs_than_it_took() -> None:
    assert ["epoch", "12"] in rows_of(model_card(with_trained(epoch=12), 900_000))


def test_commands_and_code_of_a_card_are_understood() -> None:
    classifier = replace(HEADER, metrics={"top1": 0.5, "top5": 0.9}, trained={"validation": None})
    unmeasured = replace(HEADER, metrics={}, trained={"validation": None})
    count = 0
    for card in (model_card(header, 1) for header in (HEADER, classifier, unmeasured)):
        for line in re.findall(r"onelook ((?:detect|train|val) [^`\n]+)", card):
            make_app().parse_args(shlex.split(line), exit_on_error=False, print_error=False)
            count += 1
        for code in re.findall(r"```python\n(.+?)```", card, re.DOTALL):
            compile(code, "card", "exec")
    assert count == 4
    assert "classifier of images" in model_card(classifier, 1) and "Not measured" in model_card(unmeasured, 1)


def test_names_from_data_and_files_stay_in_their_cells() -> None:
    name = "a|b`c\n# d <img> [x](y) _z_"
    header = replace(
        with_trained(
            training=DATA | {"name": name, "objects": {name: 3}},
            per_class={name: {"AP": 0.1, "AP50": 0.2}},
            initial=[{"file": name, "model": name, "licence": None}],
            teacher=name,
        ),
        class_names=(name,),
        model=name,
    )
    card = model_card(header, 1)
    assert {len(row) for row in rows_of(card)} == {2, 4, 6} and card.count("\n# ") == 0
    assert "<img>" not in card.replace("\\<img\\>", "") and "[x]" not in card


@pytest.mark.parametrize("trained", [None, {}, {"date": "2026-01-02", "training": None, "validation": None}])
def test_what_is_not_recorded_is_said(trained: dict[str, object] | None) -> None:
    card = model_card(replace(HEADER, trained=trained, recipe=None, metrics={}), 1)
    assert "started from is not recorded" in card and "Not recorded." in card and "Classes: cup, pan." in card


def test_official_names_give_a_licence_and_other_files_none(tmp_path: Path) -> None:
    official, other = tmp_path / str(VARIANTS["yolov7"].weights_file), tmp_path / "mine.pt"
    for file in (official, other):
        file.write_bytes(b"no weights of ours")
    assert initial_weights(None, "yolov7") == []
    assert initial_weights(official, "yolov7") == [{"file": "yolov7.pt", "model": "yolov7", "licence": "GPL-3.0"}]
    unknown = initial_weights(other, "yolov7")
    assert unknown == [{"file": "mine.pt", "model": "yolov7", "licence": None}]
    card = model_card(with_trained(initial=initial_weights(official, "yolov7")), 1)
    assert "`yolov7.pt` is named as the official weights of `yolov7`, which are GPL-3.0." in card
    card = model_card(with_trained(initial=unknown), 1)
    assert "The licence of `mine.pt` is not known; the official weights of `yolov7` are GPL-3.0." in card


def test_weights_trained_from_trained_weights_name_all_generations(tmp_path: Path) -> None:
    before = [{"file": "yolov7.pt", "model": "yolov7", "licence": "GPL-3.0"}, "damage", {"file": 3}]
    path = save_weights(build("yolox-nano", 1), tmp_path / "mine.safetensors", trained={"initial": before})
    found = initial_weights(path, "yolox-nano")
    assert [one["file"] for one in found] == ["mine.safetensors", "yolov7.pt", "?"] and found[1]["licence"] == "GPL-3.0"
    assert initial_weights(build("yolox-nano", 1), "yolox-nano")[0]["file"] == "a detector in memory"
    card = model_card(with_trained(initial=found), 1)
    assert "| started from | `mine.safetensors`, which started from `yolov7.pt`, which" in card and "GPL-3.0" in card


def test_the_card_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    falling.calls = 0
    start(tmp_path, evaluate=falling)
    card = (tmp_path / MODEL_CARD).read_text(encoding="utf-8")
    assert ["epoch", f"2 of {RECIPE.epochs}"] in rows_of(card) and ["0.300", "0.500"] in rows_of(card)
    header = read_header(tmp_path / BEST_WEIGHTS)
    assert header.trained is not None and header.trained["epoch"] == 2


def test_a_record_of_an_older_checkpoint_has_no_origin() -> None:
    record = RunRecord(data={"training": DATA, "validation": None})
    assert record.trained()["training"] == DATA and "initial" not in record.trained()


def test_a_training_describes_its_data_and_its_first_weights_and_resuming_keeps_it(tmp_path: Path) -> None:
    draw_data(tmp_path / "shapes", size=64, images=8)
    weights = tmp_path / "first.safetensors"
    torch.manual_seed(0)
    save_weights(build("yolox-nano", ("ball", "fish", "flower")), weights)
    choice = RecipeChoice(model="yolox-nano", epochs=1, size=64, batch=8, overrides=SHORT)
    given = {"out": tmp_path / "run", "workers": 0, "reporter": SilentReporter()}
    result = onelook.train(choice, tmp_path / "shapes", weights=weights, **given)
    card = (tmp_path / "run" / MODEL_CARD).read_text(encoding="utf-8")
    header = read_header(result.weights)
    assert header.trained is not None and set(header.trained["per_class"]) == {"ball", "fish", "flower"}
    assert card == model_card(header, sum(value.numel() for value in build("yolox-nano", 3).parameters()))
    training = header.trained["training"]
    assert (training["name"], training["images"], set(training["objects"])) == ("shapes", 8, {"ball", "fish", "flower"})
    assert ["started from", "`first.safetensors`"] in rows_of(card) and "# yolox-nano on shapes" in card
    (tmp_path / "run" / MODEL_CARD).unlink()
    onelook.train(None, tmp_path / "shapes", resume=True, **given)
    assert (tmp_path / "run" / MODEL_CARD).read_text(encoding="utf-8") == card
