"""The published recipes of YOLOv4 (Bochkovskiy et al. 2020; Wang et al. 2021), from Darknet's cfg files."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onelook.assign.darknet_anchors import DarknetAnchors
from onelook.augment.darknet import DarknetAugment
from onelook.errors import ConfigError
from onelook.layers.cross_mini_batch_norm import Cmbn
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolov4 import DarknetBox, DarknetClasses, DarknetObjectness
from onelook.networks.published import Variant
from onelook.networks.yolov4.pan import Pan
from onelook.training.adversarial import Adversarial
from onelook.training.dropblock import DropBlock
from onelook.training.ema import Ema
from onelook.training.frozen_start import FrozenStart
from onelook.training.multiscale import DarknetShapes
from onelook.training.optimizer import Sgd
from onelook.training.recipe import AnyLoss, Recipe
from onelook.training.schedule import MultiStep, WarmCosine

BATCH = 64
BURN_IN = 1000  # steps in which the learning rate rises with the fourth power
_COCO_STEPS = 118_287 / BATCH  # an epoch of COCO train2017

_LATE_EMA = {"warmup": 0.0, "start": 0.5, "statistics": False, "last_steps": 1000}
# The first of the neck's parts are those before the first prediction layer (`stopbackward` of the cfg file).
_BEFORE_FIRST_PREDICTIONS = ("backbone.*", *(f"neck.{part}.*" for part in Pan.parts[0]))

LOSS = DetectionLoss(DarknetAnchors(), (DarknetBox(), DarknetObjectness(), DarknetClasses()))
# One anchor an object. The smallest anchor of the tiny model has no level: objects that match it best are left out.
SINGLE_ANCHOR_LOSS = replace(LOSS, assigner=DarknetAnchors(iou_threshold=1.0))
TINY_LOSS = replace(LOSS, assigner=DarknetAnchors(iou_threshold=1.0, unused=((10.0, 14.0),)))
CSP_LOSS = DetectionLoss(
    DarknetAnchors(iou_threshold=0.2, soft=(False, True, True)),
    (DarknetBox(weight=0.05), DarknetObjectness(balance=(4.0, 1.0, 0.4), squares=True), DarknetClasses(squares=True)),
)


@dataclass(frozen=True)
class _Settings:
    """The settings of a model's cfg file. lr: for a batch of 64.  steps: in total, and where the rate falls."""

    lr: float
    loss: DetectionLoss
    augment: DarknetAugment
    momentum: float = 0.949
    steps: tuple[int, int, int] = (500_500, 400_000, 450_000)
    shapes: DarknetShapes | None = None
    size: tuple[int, int] | None = None
    ema: Ema | None = None


_LARGE = _Settings(0.0013, LOSS, DarknetAugment(), shapes=DarknetShapes(), size=(512, 512))
_CSP = _Settings(0.001, CSP_LOSS, DarknetAugment(jitter=0.1, resize=1.5, letterbox=True))
_TINY_AUGMENT = DarknetAugment(resize=1.5, mosaic=0.0)
_TABLE = {
    "yolov4": _LARGE,
    "csresnext50-panet-spp": replace(_LARGE, lr=0.00261, size=None),
    "yolov4-tiny": _Settings(0.00261, TINY_LOSS, _TINY_AUGMENT, momentum=0.9, steps=(2_000_200, 1_600_000, 1_800_000)),
    "yolov4-tiny-3l": _Settings(
        0.00261, SINGLE_ANCHOR_LOSS, _TINY_AUGMENT, momentum=0.9, steps=(500_200, 400_000, 450_000)
    ),
    "yolov4-csp": replace(_CSP, ema=Ema(decay=0.9998, warmup=2000)),
    "yolov4x-mish": _CSP,
}


def default(model: Variant) -> Recipe:
    """The recipe of a YOLOv4 variant on COCO, from the cfg files of Darknet's authors.

    They differ from the paper's text (rate 0.01, momentum 0.9) and from its list of methods: they have no CmBN,
    DropBlock, self-adversarial training and class smoothing. All of these are settings of a recipe here. In Darknet,
    backbones start from ImageNet; batches are split into 8 micro-batches (1 for the tiny models), which is `accumulate`
    here (`official` has this, and the late EMA of yolov4-csp); the backbone of yolov4x-mish is frozen for the first 800
    steps (`official`). Darknet's gradient of boxes is that of no loss (`official`); here it is the true one. With both
    mosaic and letterbox, Darknet of 2025 does not train.
    """
    own = _TABLE[model.name]
    total, *falls = own.steps
    return Recipe(
        model=model.architecture,
        loss=own.loss,
        augment=own.augment,
        optimizer=Sgd(lr_per_image=own.lr / BATCH, momentum=own.momentum, nesterov=False, weight_decay=5e-4),
        schedule=MultiStep(
            milestones=tuple(step / total for step in falls),
            factor=0.1,
            warmup_epochs=BURN_IN / _COCO_STEPS,
            warmup_power=4.0,
        ),
        epochs=round(total / _COCO_STEPS),
        batch_size=BATCH,
        size=own.size,
        ema=own.ema,
        multiscale=own.shapes,
        max_labels=200,
        evaluate_every=10,
    )


def published(model: Variant) -> Recipe:
    """The recipe of the authors: `default` without what this library changes in Darknet or its cfg files.

    The burn-in has 1000 steps, on data sets of any size. A step of 64 images has 8 micro-batches (`subdivisions`; 1 for
    the tiny models), with batch norm over each; batches of other sizes are accumulated to 64 images. The EMA of
    yolov4-csp starts in the middle of the training, averages no statistics, and replaces the weights 1000 steps before
    the end. What yolov4x-mish has before its first prediction layers is frozen for 800 steps. Boxes have the gradient
    that Darknet computes, with the limits of each cfg file.
    """
    recipe = default(model)
    assert isinstance(recipe.schedule, MultiStep)
    return replace(
        recipe,
        schedule=replace(recipe.schedule, warmup_epochs=0.0, warmup_steps=BURN_IN),
        accumulate=1 if "tiny" in model.name else 8,
        nominal_batch=BATCH,
        fixed_phases=True,
        ema=None if recipe.ema is None else replace(recipe.ema, **_LATE_EMA),  # type: ignore[arg-type]
        loss=_with_darknets_gradient(recipe.loss, model.name),
        frozen_start=FrozenStart(_BEFORE_FIRST_PREDICTIONS, 800) if model.name == "yolov4x-mish" else None,
    )


def _with_darknets_gradient(loss: AnyLoss, name: str) -> DetectionLoss:
    """The loss with the box gradient of Darknet, limited as in the model's cfg file."""
    assert isinstance(loss, DetectionLoss) and isinstance(loss.assigner, DarknetAnchors)
    is_csp = name in ("yolov4-csp", "yolov4x-mish")
    box = DarknetBoxGradient(
        weight=loss.terms[0].weight,
        coordinates="sigmoid" if is_csp else "exponential",
        max_delta=(5.0, 5.0, 2.0) if is_csp else (5.0, 5.0, 5.0) if name == "yolov4" else (),
        shares=loss.assigner.iou_threshold < 1,
    )
    return replace(loss, terms=(box, *loss.terms[1:]))


# The models that the paper is about; the others are of later papers and of Darknet.
_OF_THE_PAPER = ("yolov4", "csresnext50-panet-spp")


def paper(model: Variant) -> Recipe:
    """The recipe of YOLOv4 as the paper's text lists it (sec. 3.4), where the cfg file differs.

    Bag of freebies: CmBN over 8 mini-batches, DropBlock, self-adversarial training, class label smoothing, cosine
    annealing; the rate and momentum of the genetic search (sec. 4.1). Bag of specials: Mish in the neck too, SAM,
    weighted residual connections (MiWRC), and DIoU-NMS. DropBlock's probability, the smoothing (0.1) and the strength
    of the attack are not in the text. Raises ConfigError for a model that is not the paper's.
    """
    if model.name not in _OF_THE_PAPER:
        raise ConfigError(
            f"YOLOv4's paper has no training of {model.name}.", f"It has those of {' and '.join(_OF_THE_PAPER)}."
        )
    recipe = default(model)
    darknet = model.name == "yolov4"
    specials = {"neck_activation": "mish", "attention": "pointwise", "nms": "diou"}
    return replace(
        recipe,
        model=replace(model.architecture, **specials, **({"residual": "per_feature"} if darknet else {})),  # type: ignore[type-var]
        loss=replace(LOSS, terms=(*LOSS.terms[:2], replace(LOSS.terms[2], smoothing=0.1))),  # type: ignore[type-var]
        optimizer=replace(recipe.optimizer, lr_per_image=0.00261 / BATCH),
        schedule=WarmCosine(warmup_epochs=BURN_IN / _COCO_STEPS, warmup_power=4.0, flat_epochs=0.0, floor=0.0),
        accumulate=8,
        normalization=Cmbn(),
        dropblock=DropBlock(),
        adversarial=Adversarial(),
    )
