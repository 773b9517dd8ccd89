"""YOLOv4's methods in trainings of other families: each is one setting of the published recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from onelook.config import diff, override
from onelook.data.loader import collate
from onelook.losses.generalized_focal import QualityFocal
from onelook.recipes import RECIPE_TYPES, default_recipe
from onelook.training.recipe import Recipe
from sampling import ListSampler, sample_generator
from scenes import SCENES
from test_train_loop import run
from training import train_state_of

FAMILIES = ("yolox-nano", "yolov4-tiny", "yolov7-tiny", "damo-yolo-ns")
SWITCHES = {
    "SAT": "adversarial=Adversarial(rate=100, probability=1.0, ramp=false)",
    "DropBlock": "dropblock=DropBlock(size=2, ramp=0)",
    "CutMix": "batch_augments=(CutMix(1.0),)",
    "label smoothing": "loss.terms.classes.smoothing=0.1",
    "CmBN": "normalization=Cmbn()",
}
EXTRAS = (
    *("CutMix(1.0)", "BatchMixUp(1.0)", "BatchMosaic(1.0)", "Blur(whole=1.0,background=0.0)"),
    *("Blur(whole=0.0,background=1.0)", "CutOut(1.0)", "RandomErase(1.0)", "HideAndSeek(1.0)", "GridMask(1.0)"),
)


@dataclass(frozen=True)
class Scenery:
    """Batches of two scenes, augmented as the recipe says."""

    size: int = 64

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, augment: Any, first: int):
        draw = ListSampler(SCENES, (self.size, self.size))
        for number in range(first, len(self)):
            rows = (2 * number, 2 * number + 1)
            made = [augment(SCENES[row], draw, sample_generator(0, epoch, row)) for row in rows]
            yield collate([replace(one, labels=one.labels % 3) for one in made], rows, 50)


pytestmark = pytest.mark.usefixtures("one_thread_in_module")


def small(name: str) -> Recipe:
    """A published training, of one step of two passes."""
    recipe = default_recipe(name)
    model = replace(recipe.model, num_classes=3)
    changes = {"epochs": 1, "batch_size": 4, "accumulate": 2, "size": (64, 64), "multiscale": None, "closing": None}
    return replace(recipe, model=model, ema=None, **changes)


@pytest.fixture(scope="module")
def published():
    return {name: run(small(name), train_state_of(small(name)), Scenery()) for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SWITCHES)
def test_a_method_is_one_setting_of_any_family(published, family, method):
    recipe = override(small(family), SWITCHES[method], types=RECIPE_TYPES)
    assert len(diff(small(family), recipe)) == 1
    train_state = train_state_of(recipe)
    before = [parameter.clone() for parameter in train_state.detector.parameters()]
    curve = run(recipe, train_state, Scenery())
    assert len(curve) == 1 and torch.tensor(curve).isfinite().all() and curve != published[family]
    after = list(train_state.detector.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    if recipe.schedule(0, 1, 1).scale > 0:
        assert any(not torch.equal(one, two) for one, two in zip(before, after))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_batch_augment_is_one_setting_of_any_family(family, extra):
    plain = default_recipe(family)
    recipe = override(plain, f"batch_augments=({extra},)", types=RECIPE_TYPES)
    assert len(diff(plain, recipe)) == 1
    draw, changes = ListSampler(SCENES, (160, 160)), 0
    for row in range(4):
        rngs = (sample_generator(0, 0, row), sample_generator(0, 0, row))
        with_it, without = (one.augment_at(0)(SCENES[row], draw, rng) for one, rng in zip((recipe, plain), rngs))
        assert with_it.image.shape == without.image.shape == (160, 160, 3)
        assert len(with_it.boxes) == len(with_it.labels) and np.isfinite(with_it.boxes).all()
        changes += not np.array_equal(with_it.image, without.image)
    assert changes >= 2  # small objects forbid much blur


def test_smoothing_of_quality_focal_touches_priors_with_a_pair_only():
    from onelook.losses.pairs import Pairs
    from onelook.types import Matches, Predictions, Priors, Targets

    priors = Priors(torch.zeros(3, 2), torch.ones(3), torch.zeros(3, dtype=torch.long))
    boxes = torch.tensor([[[0.0, 0, 1, 1]]])

    def value(logits: torch.Tensor) -> torch.Tensor:
        predictions = Predictions(boxes.expand(1, 3, 4), logits[None], None, boxes.expand(1, 3, 4), priors)
        zero, sure = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1) > 0
        matches = Matches(torch.ones(1, 1, dtype=torch.long), zero, torch.full((1, 1), 0.8), sure)
        return QualityFocal(smoothing=0.2)(Pairs(predictions, Targets(boxes, zero, sure), matches))

    wanted = torch.tensor([[0.0, 0.0], [0.8 * 0.8 + 0.1, 0.1], [0.0, 0.0]])
    best = torch.logit(wanted, eps=1e-9)
    for step in (-0.5, 0.5):
        moved = best.clone()
        moved[1] += step
        assert value(moved) > value(best)
