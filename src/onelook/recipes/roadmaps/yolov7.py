"""The ablations of the YOLOv7 paper (Wang, Bochkovskiy and Liao 2022, arXiv 2207.02696).

Table 4's base, a "3-stacked ELAN", is X's: a chain of six convolutions of which every second is joined, in a network of
width 1; its printed AP lies between those of table 3's base and of the twice as deep network. Which convolutions its
figures 6a to 6e replace is not in the text, so the rows here, each a stack or several, have no printed AP but the base.

Table 5 compares residual units in YOLOR-W6, whose layers are not known here, and in YOLOR-CSP, which is YOLOv4-CSP with
SiLU and implicit knowledge (52,923,994 parameters, as in the official code). It is trained as YOLOv7 is.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.networks.variants import variant
from onelook.networks.yolov4.architecture import CSP
from onelook.networks.yolov7.architecture import X
from onelook.recipes.roadmaps.roadmap import PublishedNumbers, Roadmap, Row
from onelook.recipes.yolov7 import AUXILIARY_LOSS, AUXILIARY_SCHEMES, default

_COCO = "COCO, V100"
_X, _E6, _E6E, _P5 = (default(variant(name)) for name in ("yolov7x", "yolov7-e6", "yolov7-e6e", "yolov7"))

TABLE_3 = Roadmap(
    name="yolov7-table3",
    title="Compound scaling of a concatenation-based model",
    source="YOLOv7, table 3",
    setting="COCO, 640x640",
    counts="biases",
    start=replace(_X, model=replace(X, depth=4, width=1.0)),
    rows=(
        Row("base", "base (v7-X light)", {}, PublishedNumbers(51.7, 47.0, 125.5, ap50=70.1, ap75=56.0)),
        # What the paper prints of these two is the training form with batch norm counted, unlike the others.
        Row(
            "width-only",
            "width only (1.25 w)",
            {"model.width_multiple": 1.25},
            PublishedNumbers(52.4, 73.4, 195.5, ap50=70.9, ap75=57.1),
            "base",
            counts="profiler",
        ),
        Row(
            "depth-only",
            "depth only (2.0 d)",
            {"model.depth": 8},
            PublishedNumbers(52.7, 69.3, 187.6, ap50=70.8, ap75=57.3),
            "base",
            counts="profiler",
        ),
        Row(
            "compound",
            "compound (v7-X): 1.5 d of blocks, 1.25 w of transitions",
            {"model.depth": 6, "model.width": 1.25},
            PublishedNumbers(52.9, 71.3, 189.9, ap50=71.1, ap75=57.5),
            "base",
        ),
    ),
)

_FIGURE_6 = "Printed are figures 6a to 6e, which are not in the text: see `onelook roadmap yolov7-table4`."
TABLE_4 = Roadmap(
    name="yolov7-table4",
    title="Planned re-parameterised convolution in a concatenation-based model",
    source="YOLOv7, table 4",
    setting="COCO, 640x640",
    counts="biases",
    start=replace(_X, model=replace(X, depth=6, width=1.0)),
    rows=(
        Row(
            "base",
            "base (3-stacked ELAN)",
            {},
            PublishedNumbers(52.26, ap50=70.41, ap75=56.77, ap_small=35.81, ap_medium=57.00, ap_large=67.59),
        ),
        Row("first", "RepConvN in the first stack", {"model.rep": (0, 1)}, base="base", note=_FIGURE_6),
        Row("second", "RepConvN in the second", {"model.rep": (2, 3)}, base="base", note=_FIGURE_6),
        Row("third", "RepConvN in the third", {"model.rep": (4, 5)}, base="base", note=_FIGURE_6),
        Row("first-second", "first and second", {"model.rep": (0, 1, 2, 3)}, base="base", note=_FIGURE_6),
        Row("second-third", "second and third", {"model.rep": (2, 3, 4, 5)}, base="base", note=_FIGURE_6),
        Row("all", "RepConvN everywhere", {"model.rep": (0, 1, 2, 3, 4, 5)}, base="base", note=_FIGURE_6),
        Row(
            "unplanned",
            "RepConv everywhere, with identity",
            {"model.rep_identity": "always"},
            base="all",
            note=_FIGURE_6,
        ),
    ),
)

YOLOR_CSP = replace(CSP, activation="silu", neck_activation="silu", implicit=True, size=(640, 640))
_W6 = "Printed only for YOLOR-W6, whose layers are not known here: {} AP there, of 54.82 for its base."
TABLE_5 = Roadmap(
    name="yolov7-table5",
    title="Planned re-parameterised convolution in a residual-based model",
    source="YOLOv7, table 5",
    setting=_COCO,
    counts="biases",
    start=replace(_P5, model=YOLOR_CSP),
    rows=(
        Row(
            "base",
            "base (YOLOR-CSP): dark blocks",
            {},
            PublishedNumbers(50.81, ap50=69.47, ap75=55.28, ap_small=33.74, ap_medium=56.01, ap_large=65.38),
        ),
        Row("rep-csp", "RepCSP: RepConv in dark blocks", {"model.unit": "dark_rep"}, note=_W6.format("54.67")),
        Row("rcsp", "RCSP: reversed dark blocks", {"model.unit": "reversed"}, base="base", note=_W6.format("54.36")),
        Row(
            "rep-rcsp",
            "RepRCSP: RepConv in reversed ones",
            {"model.unit": "reversed_rep"},
            PublishedNumbers(50.91, ap50=69.54, ap75=55.55, ap_small=34.44, ap_medium=55.74, ap_large=65.46),
            base="base",
        ),
    ),
)

_WITHOUT = replace(_E6, model=replace(_E6.model, auxiliary=None), loss=replace(AUXILIARY_LOSS, auxiliary=None))  # type: ignore[type-var]
_WITH = {"model.auxiliary": 1.0}


def _ap(ap: float, ap50: float, ap75: float) -> PublishedNumbers:
    return PublishedNumbers(ap, ap50=ap50, ap75=ap75)


TABLE_6 = Roadmap(
    name="yolov7-table6",
    title="Label assignment of the auxiliary head",
    source="YOLOv7, table 6",
    setting=f"{_COCO}, 1280x1280",
    counts="biases",
    start=_WITHOUT,
    rows=(
        Row("base", "base (v7-E6)", {}, _ap(55.6, 73.2, 60.7)),
        Row(
            "independent",
            "independent",
            {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["independent"]},
            _ap(55.8, 73.4, 60.9),
        ),
        Row(
            "lead-guided",
            "lead guided",
            {"loss.auxiliary.assigner": None, "loss.auxiliary.guide": "lead"},
            _ap(55.9, 73.5, 61.0),
        ),
        Row(
            "coarse-to-fine",
            "coarse-to-fine lead guided",
            {"loss.auxiliary.assigner": AUXILIARY_SCHEMES["coarse-to-fine"].assigner},
            _ap(55.9, 73.5, 61.1),
        ),
    ),
)

# The constraint has no formula in the text. Its two rows have the AP, AP50 and AP75 of table 6's last two, and the
# published training is the one with the constraint: so they are taken to be the same trainings.
_SAME = "How the constraint is computed is not printed; the figures are those of table 6's row {}."
TABLE_7 = Roadmap(
    name="yolov7-table7",
    title="Constrained auxiliary head",
    source="YOLOv7, table 7",
    setting=f"{_COCO}, 1280x1280",
    counts="biases",
    start=_WITHOUT,
    rows=(
        Row("base", "base (v7-E6)", {}, _ap(55.6, 73.2, 60.7)),
        Row(
            "without-constraint",
            "auxiliary head without constraint",
            {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["lead-guided"]},
            _ap(55.9, 73.5, 61.0),
            note=_SAME.format("lead-guided"),
        ),
        Row(
            "with-constraint",
            "with constraint",
            {"loss.auxiliary.assigner": AUXILIARY_SCHEMES["coarse-to-fine"].assigner},
            _ap(55.9, 73.5, 61.1),
            note=_SAME.format("coarse-to-fine"),
        ),
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
        Row("base", "base (v7-E6E)", {}, _ap(56.3, 74.0, 61.5)),
        Row(
            "auxiliary",
            "auxiliary head",
            {**_WITH, "loss.auxiliary": AUXILIARY_SCHEMES["coarse-to-fine"]},
            _ap(56.5, 74.0, 61.6),
        ),
        Row("partial", "partial auxiliary head", {"model.partial_auxiliary": True}, _ap(56.8, 74.4, 62.1)),
    ),
)

TABLES = (TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8)
