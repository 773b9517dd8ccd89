"""The ablations of the YOLOv7 paper (Wang, Bochkovskiy and Liao 2022, arXiv 2207.02696).

Only AP of rows that equal published models is given, and table 3; the rest could not be checked and is left empty. In
table 3 the last row is a published model too; AP of the other rows could not be checked against the paper's text, but
their parameters and GFLOPs, all six, equal the counts.

Table 5 compares residual units in YOLOR-W6, whose layers are not known here: its rows are the same units in YOLOR-CSP,
which is YOLOv4-CSP with SiLU and implicit knowledge (52,923,994 parameters, as in the official code). It is trained as
YOLOv7 is.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.networks.variants import variant
from onelook.networks.yolov4.architecture import CSP
from onelook.networks.yolov7.architecture import YOLOV7, X
from onelook.recipes.roadmaps.roadmap import PublishedNumbers, Roadmap, Row
from onelook.recipes.yolov7 import AUXILIARY_LOSS, AUXILIARY_SCHEMES, published

_COCO = "COCO, V100"
_X, _E6, _E6E, _P5 = (published(variant(name)) for name in ("yolov7x", "yolov7-e6", "yolov7-e6e", "yolov7"))

_UNCHECKED = "AP not checked against the paper's text; parameters and GFLOPs agree with what is counted."
TABLE_3 = Roadmap(
    name="yolov7-table3",
    title="Compound scaling of a concatenation-based model",
    source="YOLOv7, table 3",
    setting="COCO, 640x640",
    counts="biases",
    start=replace(_X, model=replace(X, depth=4, width=1.0)),
    rows=(
        Row("base", "base (v7-X light)", {}, PublishedNumbers(51.7, 47.0, 125.5), note=_UNCHECKED),
        # What the paper prints of these two is the training form with batch norm counted, unlike the others.
        Row(
            "width-only",
            "width only (1.25 w)",
            {"model.width_multiple": 1.25},
            PublishedNumbers(52.4, 73.4, 195.5),
            "base",
            note=_UNCHECKED,
            counts="profiler",
        ),
        Row(
            "depth-only",
            "depth only (2.0 d)",
            {"model.depth": 8},
            PublishedNumbers(52.7, 69.3, 187.6),
            "base",
            note=_UNCHECKED,
            counts="profiler",
        ),
        Row(
            "compound",
            "compound (v7-X): 1.5 d of blocks, 1.25 w of transitions",
            {"model.depth": 6, "model.width": 1.25},
            PublishedNumbers(52.9, 71.3, 189.9),
            "base",
        ),
    ),
)

# A chain of three whose convolutions are all joined: "3-stacked ELAN". Which positions the paper's figures (a) to (f)
# replace is not in its text: all single ones, pairs and the whole chain are here.
_THREE = replace(YOLOV7, depth=3, step=1)
TABLE_4 = Roadmap(
    name="yolov7-table4",
    title="Planned re-parameterised convolution in a concatenation-based model",
    source="YOLOv7, table 4",
    setting="COCO, 640x640",
    counts="biases",
    start=replace(_P5, model=_THREE),
    rows=(
        Row("base", "base (3-stacked ELAN)"),
        Row("first", "RepConvN first", {"model.rep": (0,)}, base="base"),
        Row("second", "RepConvN second", {"model.rep": (1,)}, base="base"),
        Row("third", "RepConvN third", {"model.rep": (2,)}, base="base"),
        Row("first-second", "RepConvN first and second", {"model.rep": (0, 1)}, base="base"),
        Row("second-third", "RepConvN second and third", {"model.rep": (1, 2)}, base="base"),
        Row("all", "RepConvN everywhere", {"model.rep": (0, 1, 2)}, base="base"),
        Row("unplanned", "RepConv everywhere, with identity", {"model.rep_identity": "always"}, base="all"),
    ),
)

YOLOR_CSP = replace(CSP, activation="silu", neck_activation="silu", implicit=True, size=(640, 640))
_SMALLER = "The paper's network is YOLOR-W6, which is not described: these are its units in YOLOR-CSP."
TABLE_5 = Roadmap(
    name="yolov7-table5",
    title="Planned re-parameterised convolution in a residual-based model",
    source="YOLOv7, table 5",
    setting=_COCO,
    counts="biases",
    start=replace(_P5, model=YOLOR_CSP),
    rows=(
        Row("base", "base: dark blocks", note=_SMALLER),
        Row("rep-csp", "RepCSP: RepConv in dark blocks", {"model.unit": "dark_rep"}, note=_SMALLER),
        Row("rcsp", "RCSP: reversed dark blocks", {"model.unit": "reversed"}, base="base", note=_SMALLER),
        Row("rep-rcsp", "RepRCSP: RepConv in reversed ones", {"model.unit": "reversed_rep"}, note=_SMALLER),
    ),
)

_WITHOUT = replace(_E6, model=replace(_E6.model, auxiliary=None), loss=replace(AUXILIARY_LOSS, auxiliary=None))  # type: ignore[type-var]
_WITH = {"model.auxiliary": 1.0}

TABLE_6 = Roadmap(
    name="yolov7-table6",
    title="Label assignment of the auxiliary head",
    source="YOLOv7, table 6",
    setting=f"{_COCO}, 1280x1280",
    counts="biases",
    start=_WITHOUT,
    rows=(
        Row("base", "base (v7-E6)"),
        Row("independent", "independent", {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["independent"]}),
        Row("lead-guided", "lead guided", {"loss.auxiliary.assigner": None, "loss.auxiliary.guide": "lead"}),
        Row(
            "coarse-to-fine",
            "coarse-to-fine lead guided",
            {"loss.auxiliary.assigner": AUXILIARY_SCHEMES["coarse-to-fine"].assigner},
            PublishedNumbers(55.9),
        ),
    ),
)

TABLE_7 = Roadmap(
    name="yolov7-table7",
    title="Constrained auxiliary head",
    source="YOLOv7, table 7",
    setting=f"{_COCO}, 1280x1280",
    counts="biases",
    start=_WITHOUT,
    rows=(
        Row("base", "base (v7-E6)"),
        Row(
            "without-constraint",
            "auxiliary head without constraint",
            {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["coarse-to-fine"]},
        ),
        Row("with-constraint", "with constraint", {"loss.auxiliary.terms": AUXILIARY_SCHEMES["constrained"].terms}),
    ),
)

TABLE_8 = Roadmap(
    name="yolov7-table8",
    title="Partial auxiliary head of E-ELAN",
    source="YOLOv7, table 8",
    setting=f"{_COCO}, 1280x1280",
    counts="biases",
    start=replace(
        _E6E,
        model=replace(_E6E.model, auxiliary=None, partial_auxiliary=False),  # type: ignore[type-var]
        loss=replace(AUXILIARY_LOSS, auxiliary=None),
    ),
    rows=(
        Row("base", "base (v7-E6E)"),
        Row("auxiliary", "auxiliary head", {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["coarse-to-fine"]}),
        Row("partial", "partial auxiliary head", {"model.partial_auxiliary": True}, PublishedNumbers(56.8)),
    ),
)

TABLES = (TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8)
