"""The tables of the YOLOv4 paper (Bochkovskiy et al. 2020, arXiv 2004.10934) that compare networks.

The published training of CSPResNeXt50-PANet-SPP ("original-optimal") at the table's size is the start. Where the paper
says no more than a block's name, its place is the one that the block's own paper, or Darknet's, gives it: see `Rfb`,
`PointwiseAttention`, `Asff` and `AnchorHead`.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.losses.darknet import GaussianBox
from onelook.models.variants import variant
from onelook.recipes.roadmaps.roadmap import Roadmap, Row
from onelook.recipes.yolov4 import published

_START = replace(published(variant("csresnext50-panet-spp")), size=(512, 512))

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

TABLES = (TABLE_5,)
