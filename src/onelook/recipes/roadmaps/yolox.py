"""The tables of the YOLOX paper (Ge et al. 2021, arXiv 2107.08430) that compare trainings.

Settings that the paper does not give are the same in all rows: the published training of the official repository,
without the L1 term that the paper does not mention; YOLOv3's nine anchors and its box decoding; the objectness is the
paper's "IoU-aware branch", as in its figure 2, and class targets are the IoU. The other choices are documented in the
parts: `BestAnchor`, `CentreCell`, `OneToOne`, `Selection`, `Selector`.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.best_anchor import BestAnchor
from onelook.assign.centre_cell import CentreCell
from onelook.assign.one_to_one import OneToOne
from onelook.assign.simota import SimOta
from onelook.augment.copy_paste import CopyPaste
from onelook.augment.mixup import MixUp
from onelook.losses.one_to_one import Selection
from onelook.networks.variants import variant
from onelook.networks.yolox.architecture import YOLOV3_ANCHORS
from onelook.recipes.roadmaps.roadmap import PublishedNumbers, Roadmap, Row
from onelook.recipes.yolox import LOSS, STRONG, default
from onelook.training.recipe import Closing, Recipe

_END_TO_END = {
    "model.one_to_one": True,
    "loss.terms": (*LOSS.terms, Selection(OneToOne())),
}


def _without_l1(name: str) -> Recipe:
    recipe = default(variant(name))
    assert recipe.closing is not None
    return replace(recipe, closing=replace(recipe.closing, loss=None))


# The baseline's augmentation is flip, colour jitter and multi-scale: the YOLOX pipeline without mosaic.
_DARKNET = _without_l1("yolox-darknet53")
BASELINE = replace(
    _DARKNET,
    model=replace(variant("yolox-darknet53").architecture, head="coupled", anchors=YOLOV3_ANCHORS),  # type: ignore[type-var]
    loss=replace(LOSS, assigner=BestAnchor()),
    augment=replace(STRONG, mosaic=0.0, mix=None),
    closing=None,
)

_V100 = "COCO, 640x640, V100, FP16, batch 1, without NMS"

TABLE_1 = Roadmap(
    name="yolox-table1",
    title="Decoupled head for end-to-end YOLO",
    source="YOLOX, table 1",
    setting=_V100,
    counts="profiler",
    start=BASELINE,
    rows=(
        Row("coupled", "Vanilla YOLO, coupled head", {}, PublishedNumbers(38.5)),
        Row("decoupled", "Vanilla YOLO, decoupled head", {"model.head": "decoupled"}, PublishedNumbers(39.6)),
        Row("end-to-end-coupled", "End-to-end YOLO, coupled head", _END_TO_END, PublishedNumbers(34.3), base="coupled"),
        Row(
            "end-to-end-decoupled",
            "End-to-end YOLO, decoupled head",
            {"model.head": "decoupled"},
            PublishedNumbers(38.8),
        ),
    ),
)

TABLE_2 = Roadmap(
    name="yolox-table2",
    title="Roadmap of YOLOX-Darknet53",
    source="YOLOX, table 2",
    setting=_V100,
    counts="profiler",
    start=BASELINE,
    rows=(
        Row("baseline", "YOLOv3 baseline", {}, PublishedNumbers(38.5, 63.00, 157.3, 10.5)),
        Row(
            "decoupled-head", "+decoupled head", {"model.head": "decoupled"}, PublishedNumbers(39.6, 63.86, 186.0, 11.6)
        ),
        Row(
            "strong-augmentation",
            "+strong augmentation",
            {
                "augment.mosaic": STRONG.mosaic,
                "augment.mix": STRONG.mix,
                "closing": Closing(epochs=15, augment=STRONG.without_mosaic),
            },
            PublishedNumbers(42.0, 63.86, 186.0, 11.6),
        ),
        Row(
            "anchor-free",
            "+anchor-free",
            {"model.anchors": None, "loss.assigner": CentreCell(cells=1)},
            PublishedNumbers(42.9, 63.72, 185.3, 11.1),
        ),
        Row(
            "multi-positives",
            "+multi positives",
            {"loss.assigner.cells": 3},
            PublishedNumbers(45.0, 63.72, 185.3, 11.1),
        ),
        Row("simota", "+SimOTA", {"loss.assigner": SimOta()}, PublishedNumbers(47.3, 63.72, 185.3, 11.1)),
        Row("nms-free", "+NMS free (optional)", _END_TO_END, PublishedNumbers(46.5, 67.27, 205.1, 13.5)),
    ),
)

# The recipe evaluates every 10 epochs, as the figure does: each run's metrics.csv and report have the curve.
_CURVE = "Indicative; the figure's best epoch is {} with {} AP."
FIGURE_3 = Roadmap(
    name="yolox-figure3",
    title="Training curves with the YOLO head and the decoupled head",
    source="YOLOX, figure 3",
    setting="COCO val, 640x640",
    counts="profiler",
    start=BASELINE,
    rows=(
        Row("yolo-head", "YOLO head", {}, PublishedNumbers(38.43), note=_CURVE.format(290, 38.49)),
        Row(
            "decoupled-head",
            "Decoupled head",
            {"model.head": "decoupled"},
            PublishedNumbers(38.91),
            note=_CURVE.format(230, 39.64),
        ),
    ),
)

_LARGE = replace(_without_l1("yolox-l"), augment=replace(STRONG, mix=None))
TABLE_5 = Roadmap(
    name="yolox-table5",
    title="Data augmentation for models of different sizes",
    source="YOLOX, table 5",
    setting="COCO, 416x416 (Nano) and 640x640 (L)",
    counts="profiler",
    start=_without_l1("yolox-nano"),
    rows=(
        Row("nano", "YOLOX-Nano, scale 0.5 to 1.5", {}, PublishedNumbers(25.3)),
        Row(
            "nano-mixup",
            "YOLOX-Nano, scale 0.1 to 2.0, MixUp",
            {"augment.affine.scale": STRONG.affine.scale, "augment.mix": MixUp()},
            PublishedNumbers(24.0),
        ),
        Row("l", "YOLOX-L, scale 0.1 to 2.0", {}, PublishedNumbers(48.6), start=_LARGE),
        Row("l-mixup", "YOLOX-L, MixUp", {"augment.mix": MixUp()}, PublishedNumbers(49.5)),
        Row("l-copy-paste", "YOLOX-L, copy-paste", {"augment.mix": CopyPaste()}, PublishedNumbers(49.4)),
    ),
)

TABLES = (TABLE_1, TABLE_2, TABLE_5, FIGURE_3)
