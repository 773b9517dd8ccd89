"""Whole trainings on real images through the command line: minutes each, so `make test-all` only."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from onelook.cli.app import run
from shared import data, needs_shared, reference

pytestmark = [needs_shared, pytest.mark.slow]

OBJECTS = range(2, 13)  # of an image that is worth learning by heart


def eight_images(folder: Path) -> Path:
    """The first eight training images of coco_mini with 2 to 12 objects, as a data set's train and val."""
    everything = json.loads((data("coco_mini") / "annotations" / "instances_train.json").read_text())
    boxes: dict[int, list] = {}
    for one in everything["annotations"]:
        if not one["iscrowd"]:
            boxes.setdefault(one["image_id"], []).append(one)
    chosen = [one for one in everything["images"] if len(boxes.get(one["id"], ())) in OBJECTS][:8]
    few = {
        "images": chosen,
        "categories": everything["categories"],
        "annotations": [box for one in chosen for box in boxes[one["id"]]],
    }
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(few))
        (folder / split).mkdir()
        for one in chosen:
            shutil.copy(data("coco_mini") / "train" / one["file_name"], folder / split)
    return folder


def best(folder: Path) -> dict[str, float]:
    """The best epoch's numbers of a run."""
    lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
    evaluated = [row for row in rows if row["AP"]]
    return {key: float(value) for key, value in max(evaluated, key=lambda row: float(row["AP"])).items() if value}


# Name -> what its training from scratch on eight images needs; more is the same for all.
BY_HEART = {"yolox-nano": ("multiscale=none", "closing=none", "optimizer.lr_per_image=0.001")}


@pytest.mark.parametrize("name", BY_HEART)
def test_eight_images_are_learnt_by_heart_from_scratch(name, tmp_path):
    images, out = eight_images(tmp_path / "eight"), tmp_path / "run"
    plain = ("augment=SingleImageAugment(hsv=none,flip=0.0)", "evaluate_every=50", "ema.warmup=200")
    flags = ("--size", "320", "--batch", "8", "--epochs", "400", "--workers", "0", "--device", "cpu")
    assert run(["train", str(images), "--recipe", name, *flags, *plain, *BY_HEART[name], "--out", str(out)]) == 0
    assert best(out)["AP50"] > 0.9


def test_closing_settings_at_a_low_rate_keep_what_official_weights_know(tmp_path):
    weights, out = reference("yolox") / "yolox_nano.onnx", tmp_path / "run"
    low = ("closing.epochs=3", "schedule.flat_epochs=3", "optimizer.lr_per_image=0.00001")
    flags = ("--size", "416", "--batch", "16", "--epochs", "3", "--device", "cpu")
    command = ["train", str(data("coco_mini")), "--recipe", "yolox-nano", "--weights", str(weights)]
    assert run([*command, *flags, *low, "--out", str(out)]) == 0
    before = json.loads((data("coco_mini") / "reference_yolox_nano.json").read_text())
    rows = [float(row["AP"]) for row in csv.DictReader((out / "metrics.csv").read_text().splitlines()) if row["AP"]]
    assert len(rows) == 3 and min(rows) > before["stats"]["AP"] - 0.01
