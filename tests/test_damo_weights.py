"""Official DAMO-YOLO checkpoints: of every form that is about, with their preprocessing, and nothing executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onelook
from networks import before_v030
from onelook.augment.letterbox import Stretch
from onelook.layers.rep_conv import RepConv
from onelook.networks.build import build
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.damo_yolo.architecture import LEGACY_FRAME
from onelook.networks.detector import Detector
from onelook.networks.variants import variant
from onelook.weights import load_weights, open_detector, save_weights


def randomised(detector: Detector) -> Detector:
    rng = torch.Generator().manual_seed(0)
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point() and name != "head.project":
            tensor.copy_(torch.rand(tensor.shape, generator=rng) * 0.1 + (0.95 if "running_var" in name else 0.0))
    return detector.eval()


def official(detector: Detector) -> dict[str, Tensor]:
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    return {names[name]: tensor.clone() for name, tensor in detector.state_dict().items()}


def write(path: Path, model: dict[str, Tensor], **extra: Any) -> Path:
    """As the official trainer saves."""
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.04, "params": [0]}]}
    torch.save({"epoch": 300, "model": model, "optimizer": optimizer, "feature_loss": None} | extra, path)
    return path


@pytest.fixture(scope="module")
def nano() -> Iterator[Detector]:
    torch.manual_seed(0)
    yield randomised(build("damo-yolo-ns"))


def equal(first: Detector, second: Detector) -> None:
    theirs = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("kind", ["plain", "module prefix", "no counters", "bare", "with a teacher"])
def test_official_checkpoints_load_and_are_recognised(nano: Detector, kind: str, tmp_path: Path) -> None:
    model = official(nano)
    if kind == "module prefix":
        model = {f"module.{name}": tensor for name, tensor in model.items()}
    if kind == "no counters":
        model = {name: tensor for name, tensor in model.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "damoyolo_nano_small.pth"
    if kind == "bare":
        torch.save(model, path)
    elif kind == "with a teacher":
        write(path, model, feature_loss={"align_module.0.weight": torch.zeros(2, 2, 1, 1)})
    else:
        write(path, model)
    opened = open_detector(path)
    assert opened.detector.architecture == variant("damo-yolo-ns").architecture and opened.size == (416, 416)
    assert opened.detector.class_names == COCO_CLASSES
    equal(opened.detector, nano)


def test_weights_of_before_v030_bring_their_frame_and_lose_their_spare_class(tmp_path: Path) -> None:
    old = randomised(before_v030(variant("damo-yolo-ns").architecture).build())
    path = write(tmp_path / "old.pth", official(old))
    opened = open_detector("damo-yolo-ns", path).detector
    assert opened.architecture is not None and opened.architecture.frame == LEGACY_FRAME
    assert opened.class_names == COCO_CLASSES
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(images).scores(), old(images).scores())
    again = save_weights(opened, tmp_path / "again.safetensors") or tmp_path / "again.safetensors"
    predictor = onelook.load(again)
    assert predictor.frame == LEGACY_FRAME
    # A model that is there already keeps its own frame, and says that the file's is another one.
    kept = build("damo-yolo-ns")
    report = load_weights(kept, path)
    assert kept.architecture is not None and kept.architecture.frame == Stretch()
    assert any("frame" in note for note in report.notes)


def test_old_weights_load_into_the_old_architecture_whole(tmp_path: Path) -> None:
    old = randomised(before_v030(variant("damo-yolo-ns").architecture).build())
    path = write(tmp_path / "old.pth", official(old))
    model = before_v030(variant("damo-yolo-ns").architecture).build()
    load_weights(model, path)
    equal(model, old)


def test_merged_branches_load_into_the_training_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = randomised(build("damo-yolo-t"))
    model = official(trained)
    for name, module in trained.named_modules():
        if isinstance(module, RepConv):
            merged = module.deploy().conv
            names = trained.architecture.official_names()  # type: ignore[union-attr]
            place = names[f"{name}.spatial.conv.weight"].partition(".rbr_dense.")[0]
            model = {key: value for key, value in model.items() if not key.startswith(f"{place}.rbr_")}
            assert merged.bias is not None
            model |= {f"{place}.rbr_reparam.weight": merged.weight.data, f"{place}.rbr_reparam.bias": merged.bias.data}
    path = write(tmp_path / "merged.pth", model)
    loaded = open_detector(path).detector.eval()
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        first, second = loaded.double()(images.double()), trained.double()(images.double())
    # Merging wrote float32.
    torch.testing.assert_close(first.scores(), second.scores(), rtol=1e-4, atol=1e-6)
    assert any(isinstance(module, nn.BatchNorm2d) for module in loaded.modules())


def test_other_classes_keep_what_they_share(nano: Detector, tmp_path: Path) -> None:
    path = write(tmp_path / "nano.pth", official(nano))
    model = build("damo-yolo-ns", classes=["cat", "unicorn"])
    report = load_weights(model, path)
    assert report.new_classes == ("unicorn",)
    ours, theirs = (one.head.levels[0].classes.weight.detach() for one in (model, nano))  # type: ignore[index, union-attr]
    np.testing.assert_array_equal(ours[0], theirs[COCO_CLASSES.index("cat")])
