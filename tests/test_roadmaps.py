"""Tests of the roadmaps: every row builds, trains, has the paper's costs, and changes exactly its settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import narrow
from onelook.api.diff import diff as diff_command
from onelook.config import change, diff
from onelook.errors import ConfigError
from onelook.networks.classifier import Classifier
from onelook.networks.detector import Detector
from onelook.networks.flops import count_merged, count_parameters
from onelook.networks.variants import variant
from onelook.recipes import find_recipe
from onelook.recipes.records import printed_table
from onelook.recipes.roadmaps import ROADMAPS, Roadmap, Row, roadmap
from onelook.training.recipe import Recipe
from onelook.types import Predictions, Targets

ROWS = [(table, row) for table in ROADMAPS.values() for row in table.rows]
each_row = pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table.name}:{row.key}" for table, row in ROWS])


@cache
def seen(model: Any) -> tuple[Detector | Classifier, Predictions | Tensor]:
    """A network and its predictions on two images; shared by all rows with the same network."""
    torch.manual_seed(0)
    detector = model.build()
    return detector, detector(torch.rand(2, 3, 64, 64) * 255)


def objects(batch: int) -> Targets:
    boxes = torch.tensor([[5.0, 5, 40, 30], [20, 20, 60, 60], [0, 0, 0, 0]]).expand(batch, 3, 4)
    labels = torch.tensor([0, 2, 0]).expand(batch, 3)
    return Targets(boxes, labels, torch.tensor([True, True, False]).expand(batch, 3))


def losses(recipe: Recipe) -> Iterator[Any]:
    yield recipe.loss
    if recipe.closing is not None and recipe.closing.loss is not None:
        yield recipe.closing.loss


def learning_rows() -> list[Any]:
    """All rows; by default the ends of every table, and all of YOLOX's road, which share their models."""
    found = []
    for table, row in ROWS:
        seldom = table.name != "yolox-table2" and row not in (table.rows[0], table.rows[-1])
        deep = table.name in ("yolov7-table6", "yolov7-table7", "yolov7-table8")  # hundreds of layers
        marks = [pytest.mark.slow] if seldom or deep else []
        found.append(pytest.param(table, row, id=f"{table.name}:{row.key}", marks=marks))
    return found


@pytest.mark.parametrize(("table", "row"), learning_rows())
def test_every_row_builds_loses_and_back_propagates(table: Roadmap, row: Row) -> None:
    recipe = table.recipes[row.key]
    learns(recipe)
    if recipe.pretraining is not None:
        learns(recipe.pretraining)
        before, after = (narrow(one.model).build().backbone for one in (recipe.pretraining, recipe))
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (before, after)]
        assert shapes[0] == shapes[1]  # the detector starts with the classifier's backbone


def learns(recipe: Recipe) -> None:
    detector, predictions = seen(narrow(recipe.model))
    for loss in losses(recipe):
        detector.zero_grad()
        terms: dict[str, Tensor] = loss(predictions, objects(2))
        total = torch.stack(list(terms.values())).sum()
        assert total.isfinite() and total > 0
        total.backward(retain_graph=True)
        silent = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
        assert not silent
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters()
        )


@each_row
def test_a_row_changes_exactly_its_settings(table: Roadmap, row: Row) -> None:
    base = table.base_of(row)
    if base is None:
        assert row.start is not None or row is table.rows[0]
        return
    assert row.change
    before, after = table.recipes[base], table.recipes[row.key]
    assert {one.path for one in diff(before, after)} == set(row.change)
    assert change(before, row.change) == after
    printed = diff_command(f"{table.name}:{base}", f"{table.name}:{row.key}").to_dict()["differences"]
    assert {one["path"] for one in printed} == set(row.change)


# Rows whose printed GFLOPs are not the counted ones, with the counted ones; each row says why in its note.
DIFFERENT = {
    "damo-yolo-table2:2-192": 36.83,
    "damo-yolo-table2:3-160": 37.72,
    "damo-yolo-table2:4-64": 37.13,
}
COSTED = [(table, row) for table, row in ROWS if row.published.parameters or row.published.gflops]


@pytest.mark.parametrize(("table", "row"), COSTED, ids=[f"{table.name}:{row.key}" for table, row in COSTED])
def test_parameters_and_arithmetic_are_the_printed_ones(table: Roadmap, row: Row) -> None:
    recipe, printed = table.recipes[row.key], row.published
    parameters, gflops = table.cost(row, recipe.model, recipe.model.size)
    if printed.parameters is not None:
        assert parameters == pytest.approx(printed.parameters, abs=_last_digit(printed.parameters))
    name = f"{table.name}:{row.key}"
    if name in DIFFERENT:
        assert row.note and gflops == pytest.approx(DIFFERENT[name], abs=0.005)
        assert gflops != pytest.approx(printed.gflops, abs=_last_digit(printed.gflops or 0))
    elif printed.gflops is not None:
        assert gflops == pytest.approx(printed.gflops, abs=_last_digit(printed.gflops))


def test_the_rows_with_printed_costs_are_those_that_the_papers_print() -> None:
    count = {table.name: sum(one is table for one, _ in COSTED) for table in ROADMAPS.values()}
    assert {name: number for name, number in count.items() if number} == {
        "yolox-table2": 7,
        "yolov7-table3": 4,
        "damo-yolo-table2": 5,
        "damo-yolo-table3": 4,
        "damo-yolo-table4": 4,
    }


def test_every_printed_figure_of_a_row_stands_in_the_papers_table() -> None:
    """A row's numbers are all in one line of the printed table, and the lines are in the order of the rows."""
    following = dict.fromkeys(ROADMAPS, 0)
    elsewhere = ("yolox-table1", "damo-yolo-table7:student")  # below; in the paper's text
    for table, row in ROWS:
        numbers = {value for value in vars(row.published).values() if value is not None}
        if not numbers or table.name in elsewhere or f"{table.name}:{row.key}" in elsewhere:
            continue
        lines = [_numbers(" ".join(cells)) for cells in printed_table(table.name).rows]
        found = [place for place, line in enumerate(lines) if numbers <= line and place >= following[table.name]]
        assert found, (table.name, row.key)
        following[table.name] = found[0] + 1
    both = _numbers(" ".join(" ".join(cells) for cells in printed_table("yolox-table1").rows))  # two networks in a line
    assert {row.published.ap for row in roadmap("yolox-table1").rows} <= both


def _numbers(text: str) -> set[float]:
    return {float(number) for number in re.findall(r"\d+\.\d+|\d+", text)}


def test_published_models_of_damo_yolo_have_the_printed_cost_in_its_way_of_counting() -> None:
    printed = {"t": (8.5, 18.1), "s": (16.3, 37.8), "m": (28.2, 61.8)}  # table 8
    for size, (parameters, gflops) in printed.items():
        architecture = variant(f"damo-yolo-{size}").architecture
        with torch.device("meta"):
            counted = count_merged(architecture.build(), architecture.size, per_norm=4 if size == "s" else 2)
        assert (round(counted[0] / 1e6, 1), round(counted[1], 1)) == (parameters, gflops)


def test_csp_darknet_of_damo_yolos_table_1_has_the_parameters_of_yolox_s() -> None:
    with torch.device("meta"):
        ours, theirs = roadmap("damo-yolo-table1").start.model.build(), variant("yolox-s").architecture.build()
    assert count_parameters(ours.backbone) == count_parameters(theirs.backbone) == 4_212_672


def test_table_2_of_damo_yolo_reaches_the_published_s() -> None:
    assert diff(roadmap("damo-yolo-table2").recipes["3-96"], find_recipe("damo-yolo-s")) == []


def _last_digit(value: float) -> float:
    """Half a unit of the last printed digit, and what a rounding of halves may add."""
    text = repr(value)
    return 0.5001 * 10.0 ** -len(text.partition(".")[2]) if not text.endswith(".0") else 0.051


def test_backbones_and_yolor_csp_have_the_parameters_that_are_known_of_them() -> None:
    """YOLOv4's table 1 (with 1000 classes), and what the official code of YOLOv7 counts."""
    for name, parameters in (("yolov4-table2", 20.6), ("yolov4-table3", 27.6)):
        with torch.device("meta"):
            classifier = roadmap(name).start.model.build()
        assert count_parameters(classifier) / 1e6 == pytest.approx(parameters, abs=0.05)
    with torch.device("meta"):
        assert count_parameters(roadmap("yolov7-table5").start.model.build()) == 52_923_994


@pytest.mark.parametrize("name", ROADMAPS)
def test_keys_are_unique_and_rows_are_found_by_key_and_number(name: str) -> None:
    table = roadmap(name)
    keys = [row.key for row in table.rows]
    assert len(set(keys)) == len(keys)
    assert table.row(keys[-1]) is table.rows[-1]
    assert table.row("1") is table.rows[0]
    assert find_recipe(f"{name}:{keys[-1]}") == table.recipes[keys[-1]]


@pytest.mark.parametrize(
    ("name", "said"),
    [("yolox-tabel2:simota", "yolox-table2"), ("yolox-table2:simotta", "simota"), ("yolox-table2:99", "no row '99'")],
)
def test_unknown_rows_are_errors_with_the_nearest_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_recipe(name)


@pytest.mark.parametrize(
    ("row", "model"), [("yolox-table2:simota", "yolox-darknet53"), ("yolox-table5:nano", "yolox-nano")]
)
def test_the_last_row_is_the_published_training_without_the_l1_term(row: str, model: str) -> None:
    assert [one.path for one in diff(find_recipe(row), find_recipe(model))] == ["closing.loss"]
