"""YOLOv7 with auxiliary heads: it trains through the command line, and its published loss can be learnt."""

from __future__ import annotations

import csv
from dataclasses import replace

import torch

from descent import share_of_the_fall
from onelook.cli.app import run
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.build import build
from onelook.recipes import default_recipe
from training import Squares


def test_w6_with_auxiliary_heads_trains_on_eight_images(tmp_path):
    """A narrow W6 with its published assignment and auxiliary loss: the auxiliary terms are in the table of metrics."""
    scenes = Scenes(size=(64, 64), objects=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=3)
    data = write_synthetic(tmp_path / "data", scenes, {"train": 8})
    options = ("--val-split", "train", "--size", "64", "--batch", "8", "--epochs", "1", "--workers", "0")
    out = tmp_path / "run"
    settings = ("model.width_multiple=0.125", "--device", "cpu")
    assert run(["train", str(data), "--model", "yolov7-w6", "--out", str(out), *options, *settings]) == 0
    (row,) = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    assert 0 <= float(row["AP50"]) <= 1 and float(row["loss/auxiliary_box"]) > 0


def test_the_published_loss_of_w6_lowers_itself():
    """A small step against the gradient of lead and auxiliary terms, which reaches every weight, lowers both."""
    recipe = default_recipe("yolov7-w6")
    torch.manual_seed(0)
    detector = build(replace(recipe.model, width_multiple=0.125, num_classes=3)).train().double()
    batch = Squares(size=128).take(range(4))
    images, targets = batch.images.double(), batch.targets
    parts = []

    def loss():
        losses = recipe.loss(detector(images), targets)
        auxiliary = sum(float(value.detach()) for name, value in losses.items() if name.startswith("auxiliary_"))
        total = torch.stack(list(losses.values())).sum()
        parts.append((auxiliary, float(total.detach()) - auxiliary))
        return total

    assert share_of_the_fall(loss, detector.parameters()) > 0
    (auxiliary, lead), (later_auxiliary, later_lead) = parts
    assert later_auxiliary < auxiliary and later_lead < lead
