"""The tables of the YOLOv4 paper (Bochkovskiy et al. 2020, arXiv 2004.10934) that compare networks.

The published training of CSPResNeXt50-PANet-SPP ("original-optimal") at the table's size is the start. Where the paper
gives no more than a block's name, its place is that of the block's own paper, or of Darknet: see `Rfb`,
`PointwiseAttention`, `Asff` and `AnchorHead`. The paper's numbers are left empty: none could be checked. Tables 2, 3
and 6, whose rows differ in how the backbone was trained as a classifier, are in `yolov4_backbones`.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.darknet_anchors import DarknetAnchors
from onelook.augment.darknet import DarknetAugment
from onelook.layers.cross_mini_batch_norm import Cmbn
from onelook.losses.yolov4 import DarknetBox, DarknetSquares, GaussianBox
from onelook.networks.variants import variant
from onelook.networks.yolov4.architecture import ANCHORS
from onelook.networks.yolox.architecture import YOLOV3_ANCHORS
from onelook.ops.iou import IouKind
from onelook.recipes.roadmaps.roadmap import Roadmap, Row
from onelook.recipes.yolov4 import BATCH, LOSS, default
from onelook.training.optimizer import Sgd
from onelook.training.schedule import WarmCosine

_START = replace(default(variant("csresnext50-panet-spp")), size=(512, 512))

TABLE_5 = Roadmap(
    name="yolov4-table5",
    title="Bag of specials in CSPResNeXt50-PANet-SPP",
    source="YOLOv4, table 5",
    setting="COCO, 512x512",
    start=_START,
    rows=(
        Row("pan-spp", "PANet-SPP"),
        Row("rfb", "PANet-SPP-RFB", {"model.context": ("spp", "rfb")}, base="pan-spp"),
        Row("sam", "PANet-SPP-SAM", {"model.attention": "pointwise"}, base="pan-spp"),
        Row("sam-g", "PANet-SPP-SAM-G", {"model.gaussian": True, "loss.terms.box": GaussianBox()}, base="sam"),
        Row("asff-rfb", "PANet-SPP-ASFF-RFB", {"model.fusion": "asff"}, base="rfb"),
    ),
)

# Table 4's detector before any of its freebies: the settings of Darknet's YOLOv3, with the paper's rate and momentum;
# mini-batches of 8 of a step's 64 images (sec. 4.1), which CmBN and dynamic mini-batches need.
_MODEL = _START.model
_PLAIN = replace(
    _START,
    model=replace(_MODEL, anchors=YOLOV3_ANCHORS, grid_scales=(1.0, 1.0, 1.0)),  # type: ignore[type-var]
    loss=replace(LOSS, assigner=DarknetAnchors(iou_threshold=1.0), terms=(DarknetSquares(), *LOSS.terms[1:])),
    augment=replace(DarknetAugment(), mosaic=0.0),
    optimizer=Sgd(lr_per_image=0.01 / BATCH, momentum=0.9, nesterov=False, weight_decay=5e-4),
    accumulate=8,
)
_COSINE = WarmCosine(
    warmup_epochs=_PLAIN.schedule.warmup_epochs,  # type: ignore[union-attr]
    warmup_power=4.0,
    flat_epochs=0.0,
    floor=0.0,
)
_SENSITIVITY = {"model.grid_scales": (1.2, 1.1, 1.05)}
_MOSAIC = {"augment.mosaic": 0.5}
_THRESHOLD = {"loss.assigner.iou_threshold": 0.213}
# Sec. 4.1: the rate, the momentum, the threshold of IoU and the normaliser of the box loss that the search found.
_GENETIC = {
    "optimizer.lr_per_image": 0.00261 / BATCH,
    "optimizer.momentum": 0.949,
    "loss.assigner.iou_threshold": 0.213,
    "loss.terms.box.weight": 0.07,
}
_GENETIC_BESIDE_IOU = {key: value for key, value in _GENETIC.items() if key != "loss.terms.box.weight"}


_OPTIMAL_ANCHORS = {
    f"model.anchors.{level}.{index}": anchor
    for level, boxes in enumerate(ANCHORS)
    for index, anchor in enumerate(boxes)
}


def _overlap(kind: IouKind) -> dict[str, object]:
    return {**_SENSITIVITY, "loss.terms.box": DarknetBox(kind=kind)}


# IoU losses have the normaliser 0.07 in every row. DM joins the mini-batches of a step.
TABLE_4 = Roadmap(
    name="yolov4-table4",
    title="Bag of freebies in CSPResNeXt50-PANet-SPP",
    source="YOLOv4, table 4",
    setting="COCO, 512x512",
    start=_PLAIN,
    rows=(
        Row("mse", "MSE"),
        Row("s", "S: eliminated grid sensitivity", _SENSITIVITY, base="mse"),
        Row("m", "M: mosaic", _MOSAIC, base="mse"),
        Row("it", "IT: several anchors an object", _THRESHOLD, base="mse"),
        Row("ga", "GA: settings of a genetic search", _GENETIC, base="mse"),
        Row("ls", "LS: class label smoothing", {"loss.terms.classes.smoothing": 0.1}, base="mse"),
        Row("cbn", "CBN: CmBN", {"normalization": Cmbn()}, base="mse"),
        Row("ca", "CA: cosine annealing", {"schedule": _COSINE}, base="mse"),
        Row("dm", "DM: dynamic mini-batches", {"join_micro_batches": True}, base="mse"),
        Row("s-giou", "S, GIoU", _overlap("giou"), base="mse"),
        Row("s-diou", "S, DIoU", _overlap("diou"), base="mse"),
        Row("s-ciou", "S, CIoU", _overlap("ciou"), base="mse"),
        Row("s-m-it-ga", "S, M, IT, GA, CIoU", {**_MOSAIC, **_GENETIC_BESIDE_IOU}, base="s-ciou"),
        Row("s-m-it-ga-oa", "S, M, IT, GA, OA, CIoU", _OPTIMAL_ANCHORS),
        Row("s-m-it-ga-oa-giou", "S, M, IT, GA, OA, GIoU", {"loss.terms.box.kind": "giou"}),
    ),
)

# A mini-batch has 4 or 8 of a batch's 64 images, the input of batch norm. "Without" is the plain detector of table 4.
TABLE_7 = Roadmap(
    name="yolov4-table7",
    title="Mini-batch sizes, without and with bags of freebies and specials",
    source="YOLOv4, table 7",
    setting="COCO, 512x512",
    start=replace(_PLAIN, accumulate=16),
    rows=(
        Row("plain-4", "without BoF and BoS, mini-batch 4"),
        Row("plain-8", "without BoF and BoS, mini-batch 8", {"accumulate": 8}),
        Row("bags-4", "with BoF and BoS, mini-batch 4", start=replace(default(variant("yolov4")), accumulate=16)),
        Row("bags-8", "with BoF and BoS, mini-batch 8", {"accumulate": 8}),
    ),
)

TABLES = (TABLE_4, TABLE_5, TABLE_7)
