"""Images that are described in the workers and made on the device (`--augment-on device`) are those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from host_copies import HostCopies
from networks import narrow
from onelook.augment.colour import HsvGain, HsvMap, HsvScale, HsvShift
from onelook.augment.copy_paste import CopyPaste
from onelook.augment.damo_yolo import DamoAugment
from onelook.augment.darknet import DarknetAugment
from onelook.augment.letterbox import Letterbox, Stretch
from onelook.augment.mixup import BetaMixUp, MixUp
from onelook.augment.yolov7 import Yolov7Augment
from onelook.augment.yolox import YOLOX_OCTOBER_2021, YOLOX_PAPER, SingleImageAugment
from onelook.cli.app import run
from onelook.config import change, to_plain, write_yaml
from onelook.data import Dataset, open_dataset
from onelook.data.batch import collate, collate_planned
from onelook.data.loader import Loader
from onelook.data.order import Sampling
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.data.training_images import DrawImages, TrainingImages, uses_polygons
from onelook.errors import ConfigError
from onelook.ops.warp import change_colours, hsv_to_rgb, rgb_to_hsv
from onelook.recipes import default_recipe
from onelook.training.device_batches import DeviceBatches, check_augment_on_device
from onelook.weights import restore

CPU = torch.device("cpu")
SIZE = (96, 128)
AUGMENTS: dict[str, Any] = {
    "YOLOX": YOLOX_PAPER,
    "YOLOX without MixUp and colours": replace(YOLOX_PAPER, mix=None, hsv=None),
    "YOLOX, mosaic in half of the images": replace(YOLOX_PAPER, mosaic=0.5),
    "YOLOX since October 2021": YOLOX_OCTOBER_2021,
    "a single image": SingleImageAugment(),
    "a single image, stretched": SingleImageAugment(frame=Stretch(), hsv=HsvScale()),
    "a single image in the centre": SingleImageAugment(frame=Letterbox(anchor="centre"), hsv=HsvShift()),
    "YOLOv7": Yolov7Augment(paste=None, nine=0.5, flip_vertical=0.5, mix=BetaMixUp(probability=0.5)),
    "DAMO-YOLO": DamoAugment(box_level=None, mosaic=0.7, mix=MixUp(probability=0.5, keep=None)),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes")
    return open_dataset(write_synthetic(folder, Scenes(size=(120, 160), classes=3), {"train": 8, "val": 4}), "train")


@pytest.mark.parametrize("name", AUGMENTS)
def test_images_of_fixed_parameters_are_those_of_the_cpu(name: str, dataset: Dataset) -> None:
    """Boxes are equal. Pixels differ by rounding, and in the pixels beside a seam, which OpenCV blends."""
    augment, images = AUGMENTS[name], TrainingImages(dataset, np.arange(len(dataset)))
    draw, rows = DrawImages(images, SIZE, outlines=uses_polygons(augment)), tuple(range(6))

    def made(build: Any) -> list[Any]:
        return [build(images.sample(row, draw.outlines), draw, np.random.default_rng((1, row))) for row in rows]

    here = collate(made(augment), rows, None)
    planned = collate_planned(made(augment.plan), rows, None)
    for column in ("boxes", "labels", "valid"):
        assert torch.equal(getattr(here.targets, column), getattr(planned.targets, column))
    with HostCopies() as counted:
        there = planned.images.render()
    assert not counted.reads and not counted.created
    assert there.dtype == torch.uint8 and there.shape == here.images.shape
    assert there.is_contiguous(memory_format=torch.channels_last)
    difference = (here.images.int() - there.int()).abs().float()
    assert here.images.float().std() > 20  # else a grey image would do
    assert difference.mean() < 1.5
    assert (difference > 8).float().mean() < 0.03
    assert float(difference.median()) <= 1


@pytest.mark.parametrize("change", [HsvGain().map((1.01, 0.6, 1.3)), HsvShift().map((-4, 20, -15)), HsvMap()])
def test_colours_are_those_of_opencv(change: HsvMap) -> None:
    """All of both hexagons' edges and greys are among the colours. A level of hue is up to 8 levels of a channel."""
    levels = np.array([0, 1, 50, 127, 128, 200, 254, 255], np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    row = (114, 0, 1, 1, change.reversed, *change.factors, *change.added, 0, 0, colours.shape[1], 1)
    found = change_colours(torch.from_numpy(colours).float()[None], torch.tensor([row], dtype=torch.float64))[0]
    difference = np.abs(found.numpy() - change.apply(colours).astype(float))
    assert difference.max() <= 10 and np.quantile(difference, 0.95) <= 2 and difference.mean() < 0.5


def test_colours_come_back_from_hue_saturation_and_value() -> None:
    colours = torch.tensor(
        [[255.0, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7], [0, 0, 0], [255, 255, 255], [200, 100, 0]]
    )
    hsv = rgb_to_hsv(colours)
    assert hsv[:3].tolist() == [[0, 255, 255], [60, 255, 255], [120, 255, 255]]
    expected = cv2.cvtColor(colours.numpy().astype(np.uint8)[None], cv2.COLOR_RGB2HSV)[0]
    assert np.array_equal(hsv.numpy(), expected)
    torch.testing.assert_close(hsv_to_rgb(hsv), colours, rtol=0, atol=1)
    assert torch.equal(hsv_to_rgb(torch.tensor([[180.0, 255, 255]])), colours[:1])  # hue wraps


@pytest.mark.parametrize("reuse", [0, 4])
def test_a_loader_describes_what_another_makes(reuse: int, dataset: Dataset) -> None:
    """With images that are reused, those of the pool may be overwritten while the batch is made."""
    augment, sampling = replace(YOLOX_PAPER, mix=None, hsv=None), Sampling(reuse=reuse)
    with (
        Loader(dataset, (64, 64), 4, sampling=sampling) as made,
        Loader(dataset, (64, 64), 4, sampling=sampling, plans=True) as described,
    ):
        expected = list(made.epoch(0, augment, 0))
        batches = DeviceBatches(described, CPU)
        found = list(batches.epoch(0, augment, 0))
        assert len(batches) == len(found) == len(expected) == 2
    for one, other in zip(found, expected):
        assert one.indices == other.indices and torch.equal(one.targets.boxes, other.targets.boxes)
        assert (one.images.int() - other.images.int()).abs().float().mean() < 1.5


def test_batches_that_are_made_pass_through(dataset: Dataset) -> None:
    with Loader(dataset, (64, 64), 4) as loader:
        expected = [batch.images for batch in loader.epoch(0, YOLOX_PAPER, 0)]
        found = [batch.images for batch in DeviceBatches(loader, CPU).epoch(0, YOLOX_PAPER, 0)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow  # starts a process
def test_descriptions_come_from_worker_processes(dataset: Dataset) -> None:
    with Loader(dataset, (64, 64), 4, plans=True) as here, Loader(dataset, (64, 64), 4, workers=1, plans=True) as there:
        expected, found = (
            [batch.images for batch in DeviceBatches(loader, CPU).epoch(0, YOLOX_PAPER, 0)] for loader in (here, there)
        )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("yolov7-tiny", {}, "augment.paste"),
        ("damo-yolo-ns", {}, "augment.box_level"),
        ("yolov4-tiny", {}, "DarknetAugment"),
        ("yolox-s", {"augment.mix": CopyPaste()}, "augment.mix"),
        ("yolox-s", {"batch_augments": (DarknetAugment(),)}, "batch_augments"),
        ("yolox-s", {"closing.augment.frame": Letterbox(interpolation="area")}, "closing.augment.frame"),
    ],
)
def test_what_a_device_does_not_make_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        check_augment_on_device(change(default_recipe(name), changes), CPU)
    assert "--augment-on" in str(raised.value)


def test_default_recipes_of_yolox_are_made_on_a_device() -> None:
    for name in ("yolox-nano", "yolox-s"):
        check_augment_on_device(default_recipe(name), CPU)
    with pytest.raises(ConfigError, match="mps"):
        check_augment_on_device(default_recipe("yolox-s"), torch.device("mps"))


@pytest.mark.slow
def test_a_training_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(96, 96), classes=3), {"train": 8, "val": 4})
    recipe = default_recipe("yolox-nano")
    assert recipe.closing is not None
    new = {"model": narrow(recipe.model), "batch_size": 4, "size": (64, 64), "epochs": 2, "multiscale": None}
    write_yaml(tmp_path / "narrow.yaml", to_plain(change(recipe, new | {"closing": replace(recipe.closing, epochs=1)})))
    arguments = ["train", str(scenes), "--recipe", str(tmp_path / "narrow.yaml"), "--device", "cpu"]
    arguments += ["--workers", "1", "--augment-on", "device"]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert restore(tmp_path / "run" / "last.safetensors").class_names
    capsys.readouterr()
    assert run([*arguments, "--out", str(tmp_path / "other"), "augment.mix=CopyPaste()"]) != 0
    assert "augment.mix" in capsys.readouterr().err
