"""The published recipes of YOLOX (Ge et al. 2021)."""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.simota import SimOta
from onelook.augment.geometry import RandomAffine
from onelook.augment.yolox import YoloxAugment
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.networks.published import Variant
from onelook.training.ema import Ema
from onelook.training.multiscale import MultiScale
from onelook.training.optimizer import Sgd
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import WarmCosine

LOSS = DetectionLoss(SimOta(), (BoxIou(), Objectness(), Classes()))
STRONG = YoloxAugment()
WEAK = YoloxAugment(affine=RandomAffine(scale=(0.5, 1.5)), mix=None)  # stronger augmentation makes small networks worse

# The sizes of Nano and Tiny are 416, trained at 320 to 640; the others' 640, trained at 448 to 832.
SMALL_SIZES = MultiScale(low=320 / 416, high=640 / 416)
LARGE_SIZES = MultiScale(low=448 / 640, high=832 / 640)

_AUGMENT = {"yolox-nano": replace(WEAK, mosaic=0.5), "yolox-tiny": WEAK}
_SIZES = {"yolox-nano": SMALL_SIZES, "yolox-tiny": SMALL_SIZES}


def default(model: Variant) -> Recipe:
    """The recipe of a YOLOX variant on COCO from scratch, as in the code at the date of the released weights.

    Batch 64 (128 in the paper, with the same rate an image). The last 15 epochs are without mosaic and MixUp (sec. 2.1;
    16 in official code), and with an L1 term on the raw regression (official code only).
    """
    augment = _AUGMENT.get(model.name, STRONG)
    return Recipe(
        model=model.architecture,
        loss=LOSS,
        augment=augment,
        optimizer=Sgd(lr_per_image=0.01 / 64, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=WarmCosine(warmup_epochs=5, warmup_power=2, flat_epochs=15, floor=0.05),
        epochs=300,
        batch_size=64,
        ema=Ema(decay=0.9998, warmup=2000),
        multiscale=_SIZES.get(model.name, LARGE_SIZES),
        closing=Closing(epochs=15, augment=augment.without_mosaic, loss=LOSS.with_terms(RawL1())),
        evaluate_every=10,
    )


def published(model: Variant) -> Recipe:
    """The recipe of the authors: `default` without what this library changes in their code.

    The closing phase has 16 epochs, of which the first is not at the lowest rate. Boxes beyond the image are cleaned as
    in the code, and epochs are parts of one stream of shuffles. With other epochs, the warm-up of 5 epochs and the
    closing phase keep their length.
    """
    recipe = default(model)
    assert recipe.closing is not None
    return replace(
        recipe,
        closing=replace(recipe.closing, epochs=16),
        sampling=replace(recipe.sampling, beyond_image="slide", last_batch="stream"),
        fixed_phases=True,
    )


_SMALL = ("yolox-nano", "yolox-tiny", "yolox-s")


def paper(model: Variant) -> Recipe:
    """The recipe of a YOLOX variant as the paper's text has it (secs. 2.1 and 2.2), where the code differs.

    128 images a step; small models, S among them, have weaker mosaics (scale 0.5 to 1.5) and no MixUp; no L1 term in
    the closing phase.
    """
    recipe = default(model)
    augment = replace(WEAK, mosaic=1.0) if model.name in _SMALL else STRONG
    closing = Closing(epochs=15, augment=augment.without_mosaic)
    return replace(recipe, augment=augment, batch_size=128, closing=closing)
