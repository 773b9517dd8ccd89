"""The published trainings of DAMO-YOLO (Xu et al. 2022), as values."""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.align_ota import AlignOta
from onelook.augment.damo_yolo import DamoAugment
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.generalized_focal import DistributionFocal, QualityFocal
from onelook.losses.yolox import BoxIou
from onelook.models.published import Variant
from onelook.training.distill import OFFICIAL_CODE
from onelook.training.ema import Ema
from onelook.training.optimizer import AdamW, Sgd
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import WarmCosine

# Sec. 2.4 with the weights of the code: boxes and distributions count as much as their prior is sure of its class.
LOSS = DetectionLoss(
    AlignOta(),
    (QualityFocal(), BoxIou(2.0, kind="giou", squared=False, emphasis="scores"), DistributionFocal()),
)

STRONG = DamoAugment()
LESS_SHEAR = replace(STRONG, affine=replace(STRONG.affine, shear=0.2))
# Mosaics of the Nano models are made at 640 pixels and shrunk to 416: what is too small there is smaller here.
_SHRUNK = 416 / 640
NANO = replace(
    LESS_SHEAR,
    keep=replace(STRONG.keep, side=STRONG.keep.side * _SHRUNK),
    smallest=STRONG.smallest * _SHRUNK**2,
)
NANO_S = replace(NANO, affine=replace(NANO.affine, scale=(0.75, 1.25)))

_AUGMENT = {"damo-yolo-t": LESS_SHEAR, "damo-yolo-ns": NANO_S, "damo-yolo-nm": NANO, "damo-yolo-nl": NANO}

# The paper says 0.4 for 256 images; the code that made the weights has a tenth of it.
SGD = Sgd(lr_per_image=0.01 / 64, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_scalars=True)
ADAMW = AdamW(lr_per_image=0.001 / 64, betas=(0.9, 0.999), weight_decay=1e-2, decay_scalars=True)


def published(model: Variant) -> Recipe:
    """The training of a DAMO-YOLO variant on COCO from scratch and without a teacher, as the code at v0.3.1 has it.

    One size throughout, 256 images a step, no half precision. Mosaic and MixUp close for the last 16 epochs; flips and
    the changes inside boxes go on, and the loss stays the same.
    """
    augment = _AUGMENT.get(model.name, STRONG)
    return Recipe(
        model=model.architecture,
        loss=LOSS,
        augment=augment,
        optimizer=ADAMW if model.name in ("damo-yolo-ns", "damo-yolo-nm", "damo-yolo-nl") else SGD,
        schedule=WarmCosine(warmup_epochs=5, warmup_power=2, flat_epochs=16, floor=0.05),
        epochs=300,
        batch_size=256,
        ema=Ema(decay=0.9998, warmup=2000, first=0),
        closing=Closing(epochs=16, augment=augment.plain),
        max_labels=500,  # the code has no limit; images of COCO have fewer than a hundred objects, a mosaic has four
        sync_batch_norm=True,
        evaluate_every=10,
    )


def distilled(model: Variant) -> Recipe:
    """The same with a teacher, as the code has it (the paper's way is `onelook.training.distill.PAPER`).

    Published are T learning from S, S from M, M from L and L from itself; no Nano model. Gradients are clipped.
    """
    return replace(published(model), distillation=OFFICIAL_CODE, clip=30.0)
