"""The tables of the YOLOv4 paper that compare how the backbone was trained as a classifier (sec. 4.2 and 4.4).

Tables 2 and 3 train classifiers, on a folder of class folders; table 6 trains detectors whose backbones were such
classifiers. What "baseline" leaves out is taken from the published training (`recipes.classifier`): its crops, rotation
and colours stay, as they are Darknet's, in every row. A row's extra augmentation is applied to every second image, as
in Darknet, blur to every fourth; with CutMix and mosaic together, each image gets one of the two. The paper's numbers
are left empty: none could be checked.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.augment.blur import Blur
from onelook.augment.cutmix import CutMix
from onelook.augment.mixup import BatchMixUp
from onelook.augment.mosaic import BatchMosaic
from onelook.losses.classifier import ClassLoss
from onelook.networks.variants import variant
from onelook.recipes.classifier import published_classifier
from onelook.recipes.roadmaps.roadmap import Roadmap, Row
from onelook.recipes.yolov4 import default
from onelook.training.recipe import Recipe


def _plain(name: str) -> Recipe:
    """The published training of a variant's backbone without its freebies, and with leaky ReLU."""
    found = published_classifier(variant(name))
    network = replace(found.model.network, activation="leaky_relu")  # type: ignore[attr-defined]
    return replace(found, model=replace(found.model, network=network), batch_augments=(), loss=ClassLoss(smoothing=0.0))  # type: ignore[type-var]


_RESNEXT, _DARKNET = _plain("csresnext50-panet-spp"), _plain("yolov4")
_FREEBIES = {"batch_augments": published_classifier(variant("yolov4")).batch_augments, "loss.smoothing": 0.1}
_MISH = {"model.network.activation": "mish"}
_BLUR = Blur(whole=0.25, background=0.0, kernel=15)

TABLE_2 = Roadmap(
    name="yolov4-table2",
    title="Bag of freebies and activations in the CSPResNeXt-50 classifier",
    source="YOLOv4, table 2",
    setting="ImageNet, 256x256",
    start=_RESNEXT,
    rows=(
        Row("baseline", "CSPResNeXt-50"),
        Row("mixup", "MixUp", {"batch_augments": (BatchMixUp(0.5),)}, base="baseline"),
        Row("cutmix", "CutMix", {"batch_augments": (CutMix(0.5),)}, base="baseline"),
        Row("mosaic", "Mosaic", {"batch_augments": (BatchMosaic(0.5),)}, base="baseline"),
        Row("blur", "Blurring", {"batch_augments": (_BLUR,)}, base="baseline"),
        Row("smoothing", "Label smoothing", {"loss.smoothing": 0.1}, base="baseline"),
        Row("swish", "Swish", {"model.network.activation": "silu"}, base="baseline"),
        Row("mish", "Mish", _MISH, base="baseline"),
        Row("bof", "CutMix, Mosaic, label smoothing", _FREEBIES, base="baseline"),
        Row("bof-mish", "CutMix, Mosaic, label smoothing, Mish", _MISH),
    ),
)

TABLE_3 = Roadmap(
    name="yolov4-table3",
    title="Bag of freebies and Mish in the CSPDarknet-53 classifier",
    source="YOLOv4, table 3",
    setting="ImageNet, 256x256",
    start=_DARKNET,
    rows=(
        Row("baseline", "CSPDarknet-53"),
        Row("bof", "CutMix, Mosaic, label smoothing", _FREEBIES),
        Row("bof-mish", "CutMix, Mosaic, label smoothing, Mish", _MISH),
    ),
)


def _with_pretraining(name: str, backbone: Recipe) -> Recipe:
    """The published training of CSPResNeXt50-PANet-SPP, with the backbone of a variant trained by `backbone`."""
    recipe = default(variant("csresnext50-panet-spp"))
    model = replace(variant(name).architecture, activation="leaky_relu")  # type: ignore[type-var]
    return replace(recipe, model=model, size=(512, 512), pretraining=backbone)


_FREEBIES_BEFORE = {f"pretraining.{path}": value for path, value in _FREEBIES.items()}
_DARKNET_BOF = replace(_DARKNET, batch_augments=_FREEBIES["batch_augments"], loss=ClassLoss(smoothing=0.1))  # type: ignore[arg-type]
_MISH_THROUGHOUT = {f"pretraining.{path}": value for path, value in _MISH.items()} | {"model.activation": "mish"}

TABLE_6 = Roadmap(
    name="yolov4-table6",
    title="Pretraining of the backbone",
    source="YOLOv4, table 6",
    setting="COCO, 512x512; backbones trained on ImageNet",
    start=_with_pretraining("csresnext50-panet-spp", _RESNEXT),
    rows=(
        Row("resnext", "CSPResNeXt50-PANet-SPP"),
        Row("resnext-bof", "CSPResNeXt50-PANet-SPP, BoF backbone", _FREEBIES_BEFORE),
        Row("resnext-bof-mish", "CSPResNeXt50-PANet-SPP, BoF backbone + Mish", _MISH_THROUGHOUT),
        Row(
            "darknet-bof",
            "CSPDarknet53-PANet-SPP, BoF backbone",
            start=_with_pretraining("yolov4", _DARKNET_BOF),
        ),
        Row("darknet-bof-mish", "CSPDarknet53-PANet-SPP, BoF backbone + Mish", _MISH_THROUGHOUT),
    ),
)

TABLES = (TABLE_2, TABLE_3, TABLE_6)
