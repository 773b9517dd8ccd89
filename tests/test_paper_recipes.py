"""Tests of `NAME:paper`: the training that a paper's text states, beside that of its authors' code."""

from __future__ import annotations

import pytest
import torch

import onelook
from networks import narrow
from onelook.config import diff
from onelook.errors import ConfigError
from onelook.layers.cross_mini_batch_norm import Cmbn
from onelook.networks.variants import VARIANTS
from onelook.predict.runtime import postprocess_steps_of
from onelook.recipes import default_recipe, find_recipe
from onelook.training.adversarial import Adversarial
from onelook.training.dropblock import DropBlock
from onelook.training.schedule import WarmCosine
from onelook.types import Targets

OTHERS = {name for name, model in VARIANTS.items() if model.family == "YOLOv4"} - {"yolov4", "csresnext50-panet-spp"}
PAPERS = sorted(set(VARIANTS) - OTHERS)


def changes(name: str) -> dict[str, object]:
    return {one.path: one.after for one in diff(default_recipe(name), find_recipe(f"{name}:paper"))}


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_has_a_recipe_of_its_text(name: str) -> None:
    recipe = find_recipe(f"{name}:paper")
    assert onelook.recipe(f"{name}:paper") == recipe
    assert recipe.epochs == default_recipe(name).epochs


@pytest.mark.parametrize("name", ["yolov4", "yolox-s", "yolov7-tiny", "damo-yolo-t"])
def test_a_papers_recipe_trains(name: str) -> None:
    recipe = find_recipe(f"{name}:paper")
    torch.manual_seed(0)
    detector = narrow(recipe.model).build()
    boxes = torch.tensor([[[5.0, 5, 40, 30]], [[20.0, 20, 60, 60]]])
    targets = Targets(boxes, torch.tensor([[0], [2]]), torch.ones(2, 1, dtype=torch.bool))
    terms = recipe.loss(detector(torch.rand(2, 3, 64, 64) * 255), targets)
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_yolox_s_has_the_weak_augmentation_of_small_models() -> None:
    assert changes("yolox-s")["augment.affine.scale"] == (0.5, 1.5)
    assert changes("yolox-s")["augment.mix"] is None and changes("yolox-s")["batch_size"] == 128
    assert "augment.mix" not in changes("yolox-m")


def test_damo_yolo_has_equation_2_the_printed_rate_and_two_stages_of_distillation() -> None:
    found = changes("damo-yolo-s")
    assert found["loss.assigner.iou_weight"] == 1.0 and found["loss.assigner.all_classes"] is False
    assert find_recipe("damo-yolo-s:paper").optimizer.lr_per_image * 256 == pytest.approx(0.4)
    distillation = find_recipe("damo-yolo-s:paper").distillation
    assert distillation is not None and distillation.weight == 0.5 and not distillation.closing
    assert distillation.at(284 * 10, 10, 300, 16) == 0 < distillation.at(284 * 10 - 1, 10, 300, 16)


def test_yolov4_has_the_whole_list_of_the_paper() -> None:
    found = changes("yolov4")
    assert found["model.neck_activation"] == "mish" and found["accumulate"] == 8
    assert found["model.attention"] == "pointwise" and found["model.residual"] == "per_feature"
    assert found["loss.terms.classes.smoothing"] == 0.1
    kinds = {"normalization": Cmbn, "dropblock": DropBlock, "adversarial": Adversarial, "schedule": WarmCosine}
    for path, kind in kinds.items():
        assert isinstance(found[path], kind)
    assert find_recipe("yolov4:paper").optimizer.lr_per_image * 64 == pytest.approx(0.00261)
    for step in postprocess_steps_of(find_recipe("yolov4:paper").model):
        assert getattr(step, "kind") == "diou"  # noqa: B009
    for step in postprocess_steps_of(find_recipe("yolov4").model):
        assert getattr(step, "kind") == "iou"  # noqa: B009


def test_yolov7s_paper_states_no_training_of_its_own() -> None:
    assert changes("yolov7") == {}


def test_a_model_of_no_paper_is_refused() -> None:
    with pytest.raises(ConfigError, match="yolov4-tiny"):
        find_recipe("yolov4-tiny:paper")
