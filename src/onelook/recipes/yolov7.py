"""The published recipes of YOLOv7 (Wang et al. 2022), and the assignments of the auxiliary head in its tables."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from onelook.assign.anchor_cells import AnchorCells
from onelook.assign.anchor_ota import AnchorOta
from onelook.augment.geometry import RandomAffine
from onelook.augment.mixup import BetaMixUp
from onelook.augment.yolov7 import Yolov7Augment
from onelook.augment.yolov7_copy_paste import Yolov7CopyPaste
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.lead_guided import Auxiliary
from onelook.losses.yolov7 import LevelBoxIou, LevelClasses, LevelObjectness
from onelook.networks.published import Variant
from onelook.training.ema import Ema
from onelook.training.fit_anchors import MIN_ANCHOR_RECALL
from onelook.training.optimizer import Sgd
from onelook.training.recipe import Recipe
from onelook.training.schedule import OneCycle

NOMINAL_BATCH = 64  # images that losses are scaled to, for any batch size

TERMS = (LevelBoxIou(0.05), LevelObjectness(0.7), LevelClasses(0.3))
TINY_TERMS = (LevelBoxIou(0.05), LevelObjectness(1.0), LevelClasses(0.5))
# Means, not sums: each process divides by its own number of pairs, as published.
LOSS = DetectionLoss(AnchorOta(), TERMS, across_processes=False, scale=NOMINAL_BATCH)

FINE = AnchorOta(candidates=20)  # of networks with four levels
COARSE = AnchorOta(AnchorCells(reach=1.0), candidates=20)

# Label assignments of the auxiliary head (tables 6 and 7): values for `loss.auxiliary`. The partial auxiliary head
# (table 8) is the architecture's `partial_auxiliary`; for no auxiliary head, set `model.auxiliary` and this to none.
AUXILIARY_SCHEMES = MappingProxyType(
    {
        "independent": Auxiliary(assigner=FINE, guide="own"),  # fig. 5c
        "lead-guided": Auxiliary(),  # fig. 5d: the lead head's own labels
        "coarse-to-fine": Auxiliary(assigner=COARSE),  # fig. 5e, published
        # Sec. 5.4.3 in words: objectness bounded by distance, more tightly than by the reach of the head.
        "constrained": Auxiliary(assigner=COARSE, terms=(TERMS[0], replace(TERMS[1], reach=0.5), TERMS[2])),
    }
)
AUXILIARY_LOSS = replace(LOSS, assigner=FINE, auxiliary=AUXILIARY_SCHEMES["coarse-to-fine"])

AUGMENT = Yolov7Augment()
TINY_AUGMENT = Yolov7Augment(
    affine=RandomAffine(degrees=0.0, translate=0.1, scale=(0.5, 1.6), shear=0.0),
    mix=BetaMixUp(0.05),
    paste=Yolov7CopyPaste(0.05),
)


def default(model: Variant) -> Recipe:
    """The recipe of a YOLOv7 variant on COCO from scratch, with the hyper-parameters of its group: P5, P6 or tiny.

    300 epochs at 640 pixels (1280 for networks with four levels), evaluated after each, mosaics to the end. Official
    code multiplies the loss by the images of a step, which it brings to 64 by accumulating batches, at one learning
    rate: here the loss is scaled to 64 images and the rate is proportional to the batch, which is the same. Where 64
    images do not fit into memory, `accumulate` splits them.
    """
    network = model.architecture
    tiny = "tiny" in model.name
    large = "auxiliary" in network.provides
    floor = 0.01 if tiny else 0.2 if large else 0.1
    return Recipe(
        model=network,
        loss=replace(LOSS, terms=TINY_TERMS) if tiny else AUXILIARY_LOSS if large else LOSS,
        augment=TINY_AUGMENT if tiny else AUGMENT,
        optimizer=Sgd(lr_per_image=0.01 / NOMINAL_BATCH, momentum=0.937, nesterov=True, weight_decay=5e-4),
        schedule=OneCycle(floor=floor),
        epochs=300,
        batch_size=NOMINAL_BATCH,
        size=(1280, 1280) if large else (640, 640),
        ema=Ema(decay=0.9999, warmup=2000),
        max_labels=200,
        sync_batch_norm=large,
        evaluate_every=1,
    )


def published(model: Variant) -> Recipe:
    """The recipe of the authors: `default` without what this library changes in their code.

    Batches of other sizes are accumulated to 64 images, and to fewer in the warm-up; a step may begin in one epoch and
    end in the next. Anchors that fit less than 98 % of the objects are replaced before the training (autoanchor), which
    starts with weights rounded to float16. An image may have any number of objects. With other epochs, the warm-up
    keeps its 1000 batches.
    """
    return replace(
        default(model),
        max_labels=None,
        nominal_batch=NOMINAL_BATCH,
        grow_accumulation=True,
        fixed_phases=True,
        least_anchor_recall=MIN_ANCHOR_RECALL,
        float16_start=True,
    )


def paper(model: Variant) -> Recipe:
    """The recipe of a YOLOv7 variant as the paper has it, which is the code's: its text has no settings of a training.

    What it does state (sec. 5.1: from scratch, leaky ReLU in tiny, SiLU elsewhere) the code has as well.
    """
    return default(model)
