"""YOLOv7 learns images by heart through the command line, auxiliary heads and all."""

from __future__ import annotations

import csv

import pytest

from onelook.cli.app import run
from onelook.data.synthetic import Scenes, write_synthetic


@pytest.mark.slow
def test_w6_with_auxiliary_heads_overfits_eight_images(tmp_path):
    """A narrow W6 (an eighth of the width), its published assignment and auxiliary loss, no augmentation.

    Batch norm's running statistics follow slowly (momentum 0.03), so the rate ends at 0 and they catch up.
    """
    scenes = Scenes(size=(160, 160), objects=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=3)
    data = write_synthetic(tmp_path / "data", scenes, {"train": 8})
    settings = (
        "model.width_multiple=0.125",
        'augment=SingleImageAugment(hsv=none, flip=0.0, frame=Letterbox(anchor="centre"))',
        "optimizer.lr_per_image=0.00125",
        "schedule.floor=0",
        "schedule.warmup_epochs=10",
        "schedule.warmup_steps=30",
        "ema.decay=0.95",
        "ema.warmup=50",
        "loss.terms.objectness.weight=8",
        "evaluate_every=300",
    )
    options = ("--val-split", "train", "--size", "192", "--batch", "8", "--epochs", "300", "--workers", "0")
    out = tmp_path / "run"
    assert run(["train", str(data), "--model", "yolov7-w6", "--out", str(out), *options, *settings]) == 0
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["AP50"]) > 0.9
    assert float(rows[-1]["loss/auxiliary_box"]) < 0.5 * float(rows[0]["loss/auxiliary_box"])
