"""YOLOv4 learns images by heart through the command line, and comes out as a Darknet file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from onelook.api.validate import validate
from onelook.cli.app import run
from onelook.data.synthetic import Scenes, write_synthetic


@pytest.mark.slow
def test_a_narrow_tiny_overfits_twenty_images_in_every_file_format(tmp_path: Path) -> None:
    """Its published loss, several anchors an object, no augmentation; then Darknet's file, ONNX, and ONNX with NMS.

    At 160 pixels boxes weigh little against objectness, because their weight counts cells; 1 makes up for that.
    """
    scenes = Scenes(size=(160, 160), objects=(1, 4), extent=(0.2, 0.6), difficulty=0.2, classes=3)
    data = write_synthetic(tmp_path / "data", scenes, {"train": 20})
    settings = (
        "model.width=0.25",
        "model.norm_momentum=0.1",
        "augment=SingleImageAugment(hsv=none,flip=0.0,frame=Stretch())",
        "optimizer.lr_per_image=0.000375",
        "schedule=CosineRestarts(warmup_epochs=5,warmup_power=2)",
        "loss.assigner.iou_threshold=0.213",
        "loss.terms.box.weight=1",
        "evaluate_every=200",
    )
    out = tmp_path / "run"
    options = ("--val-split", "train", "--size", "160", "--batch", "10", "--epochs", "50", "--workers", "0")
    assert run(["train", str(data), "--model", "yolov4-tiny", "--out", str(out), *options, *settings]) == 0
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["AP50"]) > 0.7

    best = str(out / "best.safetensors")
    file = tmp_path / "mine.weights"
    assert run(["export", "--model", best, "--to", "darknet", "--out", str(file)]) == 0
    assert file.stat().st_size > 20
    plain, distant = (validate(best, data, split="train", postprocess=kind).stats for kind in ("nms", "diou"))
    assert plain["AP50"] > 0.7 and distant["AP50"] > 0.7
    for nms in ((), ("--nms", "--confidence", "0.01", "--iou", "0.65")):
        exported = tmp_path / "exported.onnx"
        assert run(["export", "--model", best, "--size", "160", "--out", str(exported), *nms]) == 0
        assert validate(exported, data, split="train").stats == pytest.approx(plain, abs=1e-4)
