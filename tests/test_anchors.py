"""Anchors for a data set: how they fit, how they are found, and what a training says of bad ones."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from onelook.api.anchors import FoundAnchors
from onelook.assign.anchor_ota import AnchorOta
from onelook.assign.simota import SimOta
from onelook.cli.app import run
from onelook.cli.views.anchors import show_anchors
from onelook.data import open_dataset
from onelook.data.anchors import AnchorFit, by_level, flat, measure_fit, search
from onelook.data.objects import object_sizes
from onelook.data.order import Sampling
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import DataError
from onelook.training.preflight import inspect_data
from shared import needs_shared, reference

P5 = (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small images in COCO format."""
    scenes = Scenes(size=(96, 128), objects=(2, 5), extent=(0.1, 0.6), empty=0.0, classes=3)
    return write_synthetic(tmp_path_factory.mktemp("things"), scenes, {"train": 24, "val": 1})


@needs_shared
def test_the_fit_is_the_published_one():
    facts = json.loads((reference("yolov7") / "details.json").read_text())["autoanchor"]
    random = np.random.RandomState(facts["seed"])
    sizes = np.exp(random.normal(3.6, 0.9, (400, 2)) + random.normal(0, 0.35, (400, 1))).astype(np.float32)
    np.testing.assert_allclose(sizes[:3], facts["first_wh"], rtol=1e-6)
    fit = measure_fit(flat(P5), sizes, facts["threshold"])
    assert fit.recall == pytest.approx(facts["best_possible_recall"], rel=1e-6)
    assert fit.fitting == pytest.approx(facts["anchors_above_threshold"], rel=1e-6)
    assert fit.fitness == pytest.approx(facts["fitness"], rel=1e-6)


def test_anchors_of_separate_groups_are_found():
    rng = np.random.default_rng(0)
    groups = np.array([[10, 20], [40, 30], [120, 60], [60, 150], [200, 210], [300, 90]], float)
    sizes = np.repeat(groups, 30, 0) * np.exp(rng.normal(0, 0.03, (180, 2)))
    found = search(sizes, 6, np.random.default_rng(1))
    order = np.argsort(groups.prod(1))
    np.testing.assert_allclose(found, groups[order], rtol=0.1)
    assert measure_fit(found, sizes).fitness > 0.95
    np.testing.assert_array_equal(found, search(sizes, 6, np.random.default_rng(1)))


def test_mutation_never_makes_the_fit_worse():
    sizes = np.exp(np.random.default_rng(3).normal(3.5, 1.0, (500, 2)))
    fits = [measure_fit(search(sizes, 9, np.random.default_rng(0), generations=g), sizes).fitness for g in (0, 300)]
    assert fits[1] > fits[0]


def test_anchors_go_to_levels_by_area():
    levels = by_level(np.array([[9.0, 9], [1, 1], [5, 5], [7, 7]]), 2)
    assert levels == (((1.0, 1.0), (5.0, 5.0)), ((7.0, 7.0), (9.0, 9.0)))


def test_sizes_are_those_at_the_training_size(data):
    dataset = open_dataset(data, "train")
    sizes = object_sizes(dataset, (64, 64))
    expected = [box[2:] - box[:2] for i in range(len(dataset)) for box in dataset.sample(i).boxes * (64 / 128)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-5)


def test_the_command_prints_a_setting(data, tmp_path, capfd):
    target = tmp_path / "anchors.json"
    arguments = ["anchors", str(data), "--size", "128", "--generations", "100", "--json", str(target)]
    assert run(arguments) == 0
    found = json.loads(target.read_text())
    printed = capfd.readouterr().out
    assert f"'{found['override']}'" in printed and "best possible recall" in printed
    assert [len(level) for level in found["anchors"]] == [3, 3, 3] and found["recall"] > 0.95
    assert found["override"].startswith("model.anchors=((") and found["present"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "10"], "cannot be shared out"),
        (["--count", "0"], "cannot be shared out"),
        (["--size", "8"], "at least 32"),
        (["--model", "yolox-s"], "yolox-s has no anchors"),
        (["--split", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_get_one_message(data, options, message, capfd):
    assert run(["anchors", str(data), *options]) in (1, 2)
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


def test_too_few_sizes_are_no_basis():
    with pytest.raises(DataError, match="9 anchors cannot be found: there are 2 different sizes"):
        search(np.array([[10.0, 10], [20, 30]] * 50), 9, np.random.default_rng(0))


@pytest.mark.parametrize(("assigner", "warns"), [(AnchorOta(), True), (SimOta(), False)])
def test_a_training_says_when_anchors_fit_badly(data, assigner, warns):
    model = SimpleNamespace(anchors=(((400, 400), (500, 500)), ((600, 600), (700, 700))))
    recipe = SimpleNamespace(input_size=(64, 64), model=model, loss=SimpleNamespace(assigner=assigner))
    recipe.sampling, recipe.seed, recipe.epochs, recipe.augment_at = Sampling(), 0, 1, lambda epoch: None
    found = inspect_data(recipe, open_dataset(data, "train"), None)
    assert any("onelook anchors" in warning and "--count 4 --size 64" in warning for warning in found.warnings) == warns
    good = SimpleNamespace(**{**vars(recipe), "model": SimpleNamespace(anchors=(((12, 12), (20, 20)),))})
    assert not any(
        "onelook anchors" in warning for warning in inspect_data(good, open_dataset(data, "train"), None).warnings
    )


def test_the_table_shows_the_models_own_beside():
    found = FoundAnchors(
        3, 64, (((1.0, 2.0),),), AnchorFit(1.0, 1.0, 0.9), "some", ((((5.0, 5.0),),), AnchorFit(0.5, 0.5, 0.2)), "a=b"
    )
    console = Console(file=io.StringIO(), width=120)
    show_anchors(found, console)
    text = console.file.getvalue()
    assert "some" in text and "5x5" in text and "1x2" in text and "0.5000" in text
    assert found.to_dict()["present"]["recall"] == 0.5
