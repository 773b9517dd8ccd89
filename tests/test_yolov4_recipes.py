"""YOLOv4's trainings are those of Darknet's settings files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from onelook.recipes import default_recipe
from onelook.training.recipe import Recipe


@dataclass(frozen=True)
class Cfg:
    """What a settings file of Darknet says. lr: of a batch of 64.  steps: of the training, and where the rate falls.

    random: whether the input's size changes.  obj: obj_normalizer of the strides 8, 16, 32; () for 1.
    """

    size: int
    lr: float
    momentum: float
    steps: tuple[int, int, int]
    jitter: float
    resize: float
    random: bool
    mosaic: bool
    letterbox: bool
    iou_norm: float
    iou_thresh: float
    obj: tuple[float, ...] = ()
    smooth: tuple[bool, ...] = ()
    average: float | None = None


LATE = (500_500, 400_000, 450_000)
YOLOV4 = Cfg(512, 0.0013, 0.949, LATE, 0.3, 1, True, True, False, 0.07, 0.213)
TINY = Cfg(416, 0.00261, 0.9, (2_000_200, 1_600_000, 1_800_000), 0.3, 1.5, False, False, False, 0.07, 1)
TINY_3L = Cfg(608, 0.00261, 0.9, (500_200, 400_000, 450_000), 0.3, 1.5, False, False, False, 0.07, 1)
SCALED = {"obj": (4.0, 1.0, 0.4), "smooth": (False, True, True)}
CSP = Cfg(512, 0.001, 0.949, LATE, 0.1, 1.5, False, True, True, 0.05, 0.2, **SCALED, average=0.9998)
CFGS = {
    "yolov4": YOLOV4,
    "yolov4-tiny": TINY,
    "yolov4-tiny-3l": TINY_3L,
    "yolov4-csp": CSP,
    "yolov4x-mish": Cfg(640, 0.001, 0.949, LATE, 0.1, 1.5, False, True, True, 0.05, 0.2, **SCALED),
    "csresnext50-panet-spp": Cfg(608, 0.00261, 0.949, LATE, 0.3, 1, True, True, False, 0.07, 0.213),
}
EPOCH = 118_287 / 64  # steps: a pass over COCO train2017


def parts(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.optimizer, recipe.augment, recipe.loss, recipe.model


@pytest.mark.parametrize("name", CFGS)
def test_settings_are_those_of_the_file(name: str) -> None:
    cfg, recipe = CFGS[name], default_recipe(name)
    optimizer, augment, loss, model = parts(recipe)
    assert recipe.batch_size == 64 and recipe.max_labels == 200
    assert (recipe.size or model.size) == (cfg.size, cfg.size)
    assert recipe.epochs * EPOCH == pytest.approx(cfg.steps[0], rel=2e-3)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (cfg.momentum, False, 5e-4)
    assert (augment.jitter, augment.resize, augment.letterbox) == (cfg.jitter, cfg.resize, cfg.letterbox)
    assert augment.mosaic == (0.5 if cfg.mosaic else 0) and augment.flip == 0.5
    assert (augment.hsv.hue, augment.hsv.saturation, augment.hsv.exposure) == (0.1, 1.5, 1.5)
    assert (recipe.multiscale is not None) == cfg.random
    box, objectness, classes = loss.terms
    assert (box.kind, box.weight, loss.assigner.iou_threshold) == ("ciou", cfg.iou_norm, cfg.iou_thresh)
    assert (objectness.weight, objectness.balance, classes.weight) == (1, cfg.obj, 1)
    assert (loss.assigner.ignore, loss.assigner.soft, classes.smoothing) == (0.7, cfg.smooth, 0)
    assert (recipe.ema.decay if recipe.ema else None) == cfg.average
    assert recipe.adversarial is recipe.dropblock is recipe.normalization is None and not recipe.batch_augments


@pytest.mark.parametrize("name", CFGS)
def test_rates_burn_in_and_fall_at_the_steps_of_the_file(name: str) -> None:
    cfg, recipe = CFGS[name], default_recipe(name)
    optimizer, *_ = parts(recipe)
    steps_per_epoch = round(EPOCH)

    def rate(step: float) -> float:
        return optimizer.lr_per_image * 64 * recipe.schedule(round(step), steps_per_epoch, recipe.epochs).scale

    assert rate(500) == pytest.approx(cfg.lr / 16, rel=0.01)
    total, first, second = cfg.steps
    for step, wanted in (
        (1001, 1),
        (0.99 * first, 1),
        (1.01 * first, 0.1),
        (0.99 * second, 0.1),
        (1.01 * second, 0.01),
    ):
        assert rate(step) == pytest.approx(cfg.lr * wanted, rel=1e-6)
    assert rate(total - steps_per_epoch) == pytest.approx(cfg.lr / 100)
