"""The published recipes of DAMO-YOLO (Xu et al. 2022)."""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.align_ota import PAPER as EQUATION_2
from onelook.assign.align_ota import AlignOta
from onelook.augment.damo_yolo import DamoAugment
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.generalized_focal import DistributionFocal, QualityFocal
from onelook.losses.yolox import BoxIou
from onelook.networks.published import Variant
from onelook.training.distillation import OFFICIAL_CODE, PAPER
from onelook.training.ema import Ema
from onelook.training.optimizer import AdamW, Sgd
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import WarmCosine

# Eq. 1 (sec. 2.3), the code's weights; box and distribution losses are weighted by the class score of their prior.
LOSS = DetectionLoss(
    AlignOta(),
    (QualityFocal(), BoxIou(2.0, kind="giou", squared=False, emphasis="scores"), DistributionFocal()),
)

# Mosaics are made at 640 pixels and shrunk to the input (416 for the Nano models): limits of object sizes are of 640.
STRONG = DamoAugment(reference_side=640)
LESS_SHEAR = replace(STRONG, affine=replace(STRONG.affine, shear=0.2))
NANO_S = replace(LESS_SHEAR, affine=replace(LESS_SHEAR.affine, scale=(0.75, 1.25)))

_AUGMENT = {"damo-yolo-t": LESS_SHEAR, "damo-yolo-ns": NANO_S, "damo-yolo-nm": LESS_SHEAR, "damo-yolo-nl": LESS_SHEAR}

# The paper has 0.4 for 256 images; the code of the released weights has a tenth of it.
SGD = Sgd(lr_per_image=0.01 / 64, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_scalars=True)
ADAMW = AdamW(lr_per_image=0.001 / 64, betas=(0.9, 0.999), weight_decay=1e-2, decay_scalars=True)


def default(model: Variant) -> Recipe:
    """The recipe of a DAMO-YOLO variant on COCO, from scratch and without a teacher, as in the code at v0.3.1.

    One input size, 256 images a step, no half precision. The last 16 epochs are without mosaic and MixUp; flips and the
    augmentations inside boxes continue, and the loss stays the same.
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
        closing=Closing(epochs=16, augment=augment.without_mosaic),
        max_labels=500,  # the code has no limit; a COCO image has fewer than 100 objects, a mosaic four images
        sync_batch_norm=True,
        evaluate_every=10,
    )


def published(model: Variant) -> Recipe:
    """The recipe of the authors: `default` without what this library changes in their code.

    The last batch of an epoch is left smaller, and an image may have any number of objects. With other epochs, the
    warm-up of 5 epochs and the closing phase keep their length.
    """
    recipe = default(model)
    sampling = replace(recipe.sampling, last_batch="partial")
    return replace(recipe, sampling=sampling, max_labels=None, fixed_phases=True)


def distilled(model: Variant) -> Recipe:
    """The recipe with distillation, as in the code (the paper's settings are `onelook.training.distillation.PAPER`).

    Published pairs of student and teacher: T and S, S and M, M and L, L and L; no Nano model. Gradients are clipped.
    """
    return replace(default(model), distillation=OFFICIAL_CODE, clip=30.0)


def paper(model: Variant) -> Recipe:
    """The recipe of a DAMO-YOLO variant as the paper's text has it (secs. 2.3, 2.4 and 3), where the code differs.

    The assignment's cost is eq. 2; SGD at 0.4 for 256 images; distillation with weight 0.5 in the first 284 epochs, and
    none in the last 16: the training needs a teacher, or `distillation=none`.
    """
    return replace(
        default(model),
        loss=replace(LOSS, assigner=EQUATION_2),
        optimizer=replace(SGD, lr_per_image=0.4 / 256),
        distillation=PAPER,
    )
