"""Tests of the advice after a training: each follows from a figure, names it, and is not given without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onelook.report.advice import TrainingFigures, advise
from onelook.report.page import Report, render

FLAT = [(float(epoch), 0.5) for epoch in range(1, 21)]
GOOD = TrainingFigures(
    scores=FLAT,
    epochs=20,
    stopped_early=False,
    stats={"AP": 0.50, "AP50": 0.80, "APs": 0.45, "APm": 0.50, "APl": 0.55},
    per_class={"cat": 0.52, "dog": 0.50, "hen": 0.48},
    train_objects={"cat": 900, "dog": 1000, "hen": 1100},
    val_objects={"cat": 90, "dog": 100, "hen": 110},
    num_small=60,
    num_objects=300,
    image_side=640,
    input_side=640,
    train_ap=0.58,
    suspects=2,
    from_weights=False,
)
WEAK = {"cat": 0.60, "dog": 0.62, "hen": 0.28}
RISING = [(float(epoch), 0.3 + 0.01 * epoch) for epoch in range(1, 21)]
SMALL = {**GOOD.stats, "APs": 0.20}


def test_a_training_without_a_weak_figure_gets_no_advice() -> None:
    assert advise(GOOD) == []
    page = render(Report(title="t", history=(), evaluation=None, facts={}, advice=[]))
    assert "No figure of this training suggests a change" in page
    assert "What to do next" not in render(Report(title="t", history=(), evaluation=None, facts={}))


@pytest.mark.parametrize(
    ("changes", "action", "figures"),
    [
        ({"per_class": WEAK, "train_objects": {"cat": 900, "dog": 950, "hen": 70}}, "More training images with hen",
         ("0.280", "70 training objects", "0.500", "900 objects")),
        ({"per_class": WEAK}, "Look at the labels of hen", ("0.280", "1100 training objects", "1000 objects")),
        ({"suspects": 12}, "Correct labels", ("12 confident", "300 annotations", "4.0%")),
        ({"stats": SMALL, "image_side": 1280.0, "input_side": 416}, "A larger input: --size 608",
         ("20%", "0.200", "0.550", "1280 pixels", "416")),
        ({"scores": RISING}, "A longer training: --epochs 30",
         ("0.450", "epoch 15", "0.500", "0.0100 an epoch", "0.050")),
        ({"scores": [*FLAT[:10], *((e, 0.46) for e, _ in FLAT[10:])]}, "A shorter training",
         ("epoch 1 (0.500)", "0.460")),
        ({"train_ap": 0.81}, "More training images, of any class", ("0.810", "0.500")),
        ({"train_ap": 0.52}, "A longer training, or trained weights", ("0.520", "0.500")),
        ({"train_ap": 0.52, "from_weights": True}, "A longer training; if", ("0.520", "0.500")),
    ],
)  # fmt: skip
def test_each_advice_names_the_figure_that_suggests_it(changes, action: str, figures: tuple[str, ...]) -> None:
    found = advise(replace(GOOD, **changes))
    assert [one.action.startswith(action) for one in found] == [True]
    assert all(figure in found[0].figure for figure in figures), found[0].figure
    page = render(Report(title="t", history=(), evaluation=None, facts={}, advice=found))
    assert found[0].action in page and found[0].figure in page and found[0].reason in page


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"per_class": WEAK, "val_objects": {"cat": 90, "dog": 100, "hen": 5}}, "AP of five objects is chance"),
        ({"per_class": {"cat": 0.2}}, "a single class is compared with none"),
        ({"per_class": {**GOOD.per_class, "hen": -1.0}}, "an undefined AP is not weak"),
        ({"suspects": 5}, "under 2 % of the objects"),
        ({"suspects": 30, "stats": {**GOOD.stats, "AP50": 0.4}}, "the model is wrong too often"),
        ({"stats": SMALL}, "the images are not larger than the input"),
        ({"stats": SMALL, "image_side": 1280.0, "num_small": 20}, "hardly any object is small"),
        ({"stats": {**SMALL, "APm": -1.0, "APl": -1.0}, "image_side": 1280.0}, "no other object to compare with"),
        ({"stats": {**SMALL, "APs": -1.0}, "image_side": 1280.0}, "no small object"),
        ({"scores": RISING, "stopped_early": True}, "more epochs would not have been trained"),
        ({"scores": RISING[:3]}, "three evaluations are no slope"),
        ({"scores": []}, "nothing was evaluated while training"),
        ({"train_ap": None}, "not measured"),
        ({"stats": dict.fromkeys(GOOD.stats, -1.0)}, "nothing is defined"),
    ],
)
def test_no_advice_without_enough_evidence(changes, why: str) -> None:
    assert advise(replace(GOOD, **changes)) == [], why


def test_noise_is_no_slope() -> None:
    found = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 0.004, len(FLAT))
        scores = [(epoch, score + float(one)) for (epoch, score), one in zip(FLAT, noise)]
        found += any(one.action.startswith("A longer") for one in advise(replace(GOOD, scores=scores)))
    assert found <= 10


def test_several_figures_give_several_advices() -> None:
    found = advise(replace(GOOD, suspects=30, train_ap=0.9, scores=RISING))
    assert [one.action.split(":")[0].split(",")[0] for one in found] == [
        "Correct labels", "A longer training", "More training images",
    ]  # fmt: skip
