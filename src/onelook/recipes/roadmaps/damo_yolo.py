"""The ablations of the DAMO-YOLO paper (Xu et al. 2022, arXiv 2211.15444), at the scale of S if not stated otherwise.

Latencies are the paper's, on a T4 with TensorRT in FP16. Settings that a table does not give are those of the published
S: its training and its neck. GFLOPs are counted as the paper counts them. At the scale of S these figures agree with
another way than that of all other published models: batch norm counts twice as much (`affine`).

Widths of table 2: three of its rows are 1, 0.75 and 0.5 times 128, 256, 512, the second of which has the cost and the
AP of the published S, whose outputs are 128, 256, 512 and whose fusions are 0.75 times as wide inside. So they are
taken as widths inside (`hidden`). Where all levels are alike, outputs and insides are taken to be that wide.
"""

from __future__ import annotations

from dataclasses import replace

from onelook.assign.align_ota import AlignOta
from onelook.assign.atss import Atss
from onelook.assign.simota import SimOta
from onelook.assign.task_aligned import TaskAligned
from onelook.config import change
from onelook.losses.feature_distillation import Cwd, Mgd, Mimic
from onelook.networks.damo_yolo.mae_nas import MAE_CSP_M, MAE_RESNET_S
from onelook.networks.damo_yolo.rep_gfpn import RepGfpn
from onelook.networks.structure import Stage, Structure
from onelook.networks.variants import variant
from onelook.recipes.damo_yolo import LOSS, default, paper
from onelook.recipes.roadmaps.roadmap import PublishedNumbers, Roadmap, Row
from onelook.training.distillation import Distillation
from onelook.training.recipe import Recipe

_T4 = "COCO, 640x640, T4, TensorRT FP16"
_S, _M, _T = (default(variant(f"damo-yolo-{size}")) for size in "smt")
# The backbone of YOLOX-S, with its 4.21 M parameters: 1, 3, 3 and 1 blocks after the downsampling of each stage.
_CSP_DARKNET = Structure(
    stem=32,
    stages=(Stage(64, 32, 2, 2), Stage(128, 64, 2, 4), Stage(256, 128, 2, 4), Stage(512, 256, 2, 2)),
    csp=True,
    activation="silu",
    csp_activation="silu",
    reparameterised=False,
)
_MAE_RESNET = {
    "model.backbone.stages": MAE_RESNET_S.stages,
    "model.backbone.csp": False,
    "model.backbone.activation": "relu",
    "model.backbone.csp_activation": "relu",
    "model.backbone.reparameterised": True,
}
_CHANGED = "The paper's structure is not published: these are the same stages, connected in the other way."


def _with_neck(recipe: Recipe, **settings: object) -> Recipe:
    model = recipe.model
    return replace(recipe, model=replace(model, neck=replace(model.neck, **settings)))  # type: ignore[attr-defined, type-var]


TABLE_1 = Roadmap(
    name="damo-yolo-table1",
    title="Backbones",
    source="DAMO-YOLO, table 1",
    setting=_T4,
    counts="affine",
    start=replace(_S, model=replace(_S.model, backbone=_CSP_DARKNET)),  # type: ignore[type-var]
    rows=(
        Row("csp-darknet", "CSP-Darknet, S", {}, PublishedNumbers(44.9, latency=3.92)),
        Row("mae-resnet", "MAE-ResNet, S", _MAE_RESNET, PublishedNumbers(45.6, latency=3.83)),
        Row("mae-csp", "MAE-CSP, S", {"model.backbone.csp": True}, PublishedNumbers(45.3, latency=3.79), note=_CHANGED),
        Row(
            "mae-resnet-m",
            "MAE-ResNet, M",
            {},
            PublishedNumbers(48.0, latency=5.64),
            start=replace(_M, model=replace(_M.model, backbone=replace(MAE_CSP_M, csp=False))),  # type: ignore[type-var]
            note=f"{_CHANGED} They cost half as much again, so this row cannot have the paper's latency.",
            counts="merged",
        ),
        Row(
            "mae-csp-m",
            "MAE-CSP, M",
            {"model.backbone.csp": True},
            PublishedNumbers(48.7, latency=5.60),
            counts="merged",
        ),
    ),
)

_EQUAL = (
    "Which channels these are is not printed, nor known from the figures: of 60 readings none has the paper's GFLOPs."
)
TABLE_2 = Roadmap(
    name="damo-yolo-table2",
    title="Depth and width of the neck",
    source="DAMO-YOLO, table 2",
    setting=_T4,
    counts="affine",
    start=replace(_S, model=replace(_S.model, neck=RepGfpn((192, 192, 192), depth=2 / 3))),  # type: ignore[type-var]
    rows=(
        Row("2-192", "depth 2, width 192, 192, 192", {}, PublishedNumbers(44.2, None, 34.9, 3.53), note=_EQUAL),
        Row(
            "2-128",
            "depth 2, width 128, 256, 512",
            {"model.neck.channels": (128, 256, 512)},
            PublishedNumbers(45.1, None, 36.1, 3.72),
        ),
        Row(
            "3-160",
            "depth 3, width 160, 160, 160",
            {"model.neck.depth": 1.0, "model.neck.channels": (160, 160, 160)},
            PublishedNumbers(44.9, None, 38.2, 3.91),
            note=_EQUAL,
        ),
        Row(
            "3-96",
            "depth 3, width 96, 192, 384",
            {"model.neck.channels": (128, 256, 512), "model.neck.hidden": 0.75},
            PublishedNumbers(45.6, None, 37.8, 3.83),
        ),
        Row(
            "4-64",
            "depth 4, width 64, 128, 256",
            {"model.neck.depth": 4 / 3, "model.neck.hidden": 0.5},
            PublishedNumbers(45.3, None, 37.2, 3.85),
            note="0.07 GFLOPs less than printed; which channels have the printed width is not said.",
        ),
    ),
)

TABLE_3 = Roadmap(
    name="damo-yolo-table3",
    title="Links of the queen fusion",
    source="DAMO-YOLO, table 3",
    setting=_T4,
    counts="affine",
    start=_with_neck(_S, extra_down=False, extra_up=False),
    rows=(
        Row("none", "no extra links", {}, PublishedNumbers(44.2, None, 33.3, 3.62)),
        Row(
            "up",
            "extra upsampling",
            {"model.neck.extra_up": True},
            PublishedNumbers(44.5, None, 37.7, 4.19),
            "none",
        ),
        Row(
            "down",
            "extra downsampling",
            {"model.neck.extra_down": True},
            PublishedNumbers(45.6, None, 37.8, 3.83),
            "none",
        ),
        Row(
            "both",
            "both",
            {"model.neck.extra_up": True},
            PublishedNumbers(45.9, None, 42.8, 4.58),
            "down",
        ),
    ),
)

TABLE_4 = Roadmap(
    name="damo-yolo-table4",
    title="Fusion blocks of the neck",
    source="DAMO-YOLO, table 4",
    setting=_T4,
    counts="affine",
    start=_with_neck(_S, fusion="conv"),
    rows=(
        Row("conv", "Conv", {}, PublishedNumbers(40.2, None, 44.3, 3.64)),
        Row("csp", "CSP", {"model.neck.fusion": "csp"}, PublishedNumbers(44.4, None, 36.7, 3.72)),
        Row(
            "rep",
            "CSP + reparameterisation",
            {"model.neck.fusion": "csp_rep"},
            PublishedNumbers(45.0, None, 36.7, 3.72),
        ),
        Row(
            "elan",
            "CSP + reparameterisation + ELAN",
            {"model.neck.fusion": "csp_rep_elan"},
            PublishedNumbers(45.6, None, 37.8, 3.83),
        ),
    ),
)


def _depths(neck: float, head: int) -> dict[str, object]:
    return {"model.neck.depth": neck, "model.head.depth": head}


# The paper prints no cost but the latency, which all rows share: so a layer of the head is one 3x3 convolution of each
# level for both tasks (5.7 GFLOPs, where a layer of the neck has 4.1). Two separate ones would add 11.3 GFLOPs a layer.
_SHARED = "How the paper's heads are built is not printed: one 3x3 convolution a layer, shared by both tasks."
TABLE_5 = Roadmap(
    name="damo-yolo-table5",
    title="ZeroHead: a deep neck against a deep head",
    source="DAMO-YOLO, table 5",
    setting=_T4,
    counts="affine",
    start=_S,
    rows=(
        Row("zero-head", "neck 1.0, head 0", {}, PublishedNumbers(45.6, latency=3.83)),
        Row("one", "neck 0.5, head 1", _depths(0.5, 1), PublishedNumbers(44.9, latency=3.79), note=_SHARED),
        Row("two", "neck 0.33, head 2", _depths(0.33, 2), PublishedNumbers(43.7, latency=3.85), note=_SHARED),
        Row("three", "neck 0, head 3", _depths(0.0, 3), PublishedNumbers(41.2, latency=3.87), note=_SHARED),
    ),
)

TABLE_6 = Roadmap(
    name="damo-yolo-table6",
    title="Label assignment",
    source="DAMO-YOLO, table 6",
    setting=_T4,
    counts="affine",
    start=replace(_S, loss=replace(LOSS, assigner=Atss())),
    rows=(
        Row("atss", "ATSS", {}, PublishedNumbers(43.1)),
        Row("simota", "SimOTA", {"loss.assigner": SimOta()}, PublishedNumbers(44.2)),
        Row("tood", "TOOD", {"loss.assigner": TaskAligned()}, PublishedNumbers(45.4)),
        Row("align-ota", "AlignOTA", {"loss.assigner": AlignOta()}, PublishedNumbers(45.6)),
    ),
)

# The published schedule has its lowest rate in 16 of 300 epochs, which are 2 of 36; the warm-up of 5 epochs stays.
_SHORT = change(_T, {"schedule.flat_epochs": 2.0}).schedule
TABLE_7 = Roadmap(
    name="damo-yolo-table7",
    title="Ways of distillation",
    source="DAMO-YOLO, table 7",
    setting=f"{_T4}, 36 epochs",
    counts="merged",
    start=replace(_T, epochs=36, closing=None, schedule=_SHORT),
    rows=(
        Row("student", "student alone", {}, PublishedNumbers(38.2)),
        Row("mimicking", "Mimicking", {"distillation": Distillation(Mimic())}, PublishedNumbers(40.2), "student"),
        Row("mgd", "MGD", {"distillation": Distillation(Mgd())}, PublishedNumbers(39.6), "student"),
        Row("cwd", "CWD", {"distillation": Distillation(Cwd())}, PublishedNumbers(40.7), "student"),
    ),
)

# Trained as the paper says (sec. 2.4), with a teacher of choice: the paper names neither student nor teacher.
FIGURE_3 = Roadmap(
    name="damo-yolo-figure3",
    title="Weights of the distillation loss",
    source="DAMO-YOLO, figure 3",
    setting=_T4,
    counts="affine",
    start=paper(variant("damo-yolo-s")),
    rows=(
        Row("weight-0.5", "weight 0.5, chosen"),
        Row("weight-2", "weight 2", {"distillation.weight": 2.0}, base="weight-0.5"),
        Row("weight-10", "weight 10", {"distillation.weight": 10.0}, base="weight-0.5"),
    ),
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, FIGURE_3)
