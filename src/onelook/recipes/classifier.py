"""The published training of backbones as image classifiers (YOLOv4 sec. 4.1, csdarknet53-omega.cfg)."""

from __future__ import annotations

from onelook.augment.batch_augment import OneOf
from onelook.augment.classifier import ClassifierAugment
from onelook.augment.cutmix import CutMix
from onelook.augment.mosaic import BatchMosaic
from onelook.losses.classifier import ClassLoss
from onelook.networks.classifier import Classification
from onelook.networks.published import Variant
from onelook.training.optimizer import Sgd
from onelook.training.recipe import Recipe
from onelook.training.schedule import Polynomial


def published_classifier(model: Variant) -> Recipe:
    """The recipe of a variant's backbone on ImageNet: CutMix or mosaic, and label smoothing (the paper's BoF).

    1,200,000 steps of 128 images are 120 epochs of ImageNet; the paper's text has other numbers (8,000,000 steps and a
    weight decay of 0.005), which look like errors. Mish is the network's `activation`. As in the cfg, a step has four
    micro-batches, so that batch norm is over 32 images.
    """
    return Recipe(
        model=Classification(model.architecture),
        loss=ClassLoss(smoothing=0.1),
        augment=ClassifierAugment(),
        batch_augments=(OneOf((CutMix(1.0), BatchMosaic(1.0)), probability=0.5),),
        optimizer=Sgd(lr_per_image=0.1 / 128, momentum=0.9, nesterov=False, weight_decay=5e-4),
        schedule=Polynomial(power=4, warmup_epochs=0.1, warmup_power=4),
        epochs=120,
        batch_size=128,
        accumulate=4,
        ema=None,
        evaluate_every=1,
        metric="top1",
    )
