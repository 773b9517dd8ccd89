"""DAMO-YOLO is the published network: names, shapes, counts, arithmetic, initialisation and outputs."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from networks import Golden, before_v030, filled_detector, goldens, manifest
from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv
from onelook.networks.build import build
from onelook.networks.damo_yolo.architecture import DamoYolo
from onelook.networks.damo_yolo.backbone import SearchedBackbone
from onelook.networks.damo_yolo.mae_nas import MAE_RESNET_T, MOBILE_NS
from onelook.networks.damo_yolo.rep_gfpn import MERGES, RepGfpn, multiple_of_8
from onelook.networks.damo_yolo.zero_head import ZeroHead
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.structure import BlockKind, Stage, Structure
from onelook.networks.variants import variant
from onelook.types import Predictions
from shared import needs_shared

MODELS = [name for name, entry in manifest("damo_yolo").items() if "tensors" in entry]
GOLDENS = [
    pytest.param(name, marks=pytest.mark.slow if name in ("M", "L", "S") else ()) for name in goldens("damo_yolo")
]


def ours(name: str) -> str:
    return f"damo-yolo-{name.lower()}"


@cache
def _structure(name: str) -> Detector:
    with torch.device("meta"):
        return build(ours(name))


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_a_bijection_with_the_official_ones(name: str) -> None:
    detector = _structure(name)
    assert detector.architecture is not None
    names = detector.architecture.official_names()
    assert set(names) == set(detector.state_dict())
    assert len(set(names.values())) == len(names)
    found = {names[key]: list(tensor.shape) for key, tensor in detector.state_dict().items()}
    assert found == manifest("damo_yolo")[name]["tensors"]


def _merge(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, RepConv):
            setattr(module, name, child.deploy())
        else:
            _merge(child)


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_arithmetic_are_the_published_ones(name: str) -> None:
    detector, entry = _structure(name), manifest("damo_yolo")[name]
    merged = copy.deepcopy(detector)
    _merge(merged)
    assert count_parameters(detector) == entry["parameters"]
    assert count_parameters(merged) == entry["reparam_parameters"]
    assert count_parameters(deploy(detector)) == entry["deploy_parameters"]
    size = tuple(entry["gflops_size"])
    assert variant(ours(name)).architecture.size == size
    assert count_gflops(detector, size) == pytest.approx(entry["gflops"], abs=1e-4)  # as many digits as it has


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_the_published_one(name: str) -> None:
    norms = [module for module in _structure(name).modules() if isinstance(module, nn.BatchNorm2d)]
    entry = manifest("damo_yolo")[name]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(entry["bn_eps"], entry["bn_momentum"])}


@dataclass(frozen=True)
class Run:
    """One golden model run in all four ways: (form, dtype) -> its pyramid and predictions."""

    name: str
    golden: Golden
    outputs: dict[tuple[str, torch.dtype], tuple[tuple[torch.Tensor, ...], Predictions]]


@pytest.fixture(scope="module", params=GOLDENS)
def run(request: pytest.FixtureRequest) -> Run:
    golden = Golden.load("damo_yolo", request.param)
    constants = manifest("damo_yolo")[request.param]["constants"]
    known = golden.arrays | {name: np.asarray(values, np.float32) for name, values in constants.items()}
    detector = filled_detector(ours(request.param), known)
    outputs = {}
    for dtype in (torch.float32, torch.float64):
        detector.to(dtype)  # so that the second deploy form is folded in float64
        for form, network in (("training", detector), ("deploy", deploy(detector))):
            with torch.no_grad():
                features = network.features(torch.from_numpy(golden.image).to(dtype))
                outputs[form, dtype] = features, network.head(features)
    return Run(request.param, golden, outputs)


def _official(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """Our predictions of one image as official rows: corners, class scores."""
    return torch.cat((predictions.boxes, predictions.scores()), -1)[0, rows].numpy()


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", ["training", "deploy"])
def test_outputs_are_the_official_ones_up_to_their_own_rounding(run: Run, form: str, dtype: torch.dtype) -> None:
    """The stored outputs are float32, so that even float64 is only as near as the noise recorded beside them."""
    features, predictions = run.outputs[form, dtype]
    arrays, noise = run.golden.arrays, manifest("damo_yolo")[run.name]["rounding"]
    # float32 against float32 is two samples of the noise; other kernels and thread counts reach twice as far.
    factor = 1.1 if dtype == torch.float64 else 2.5
    found = _official(predictions, arrays["rows"])
    expected = arrays["predictions"]
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], 0, factor * noise["float32_vs_float64_scores"])
    np.testing.assert_allclose(found[:, :4], expected[:, :4], 0, factor * noise["float32_vs_float64_boxes"])
    for level, feature in enumerate(features):
        sample = feature.reshape(-1)[arrays[f"feature_{level}_index"]]
        atol = factor * noise["float32_vs_float64_neck"]
        np.testing.assert_allclose(sample, arrays[f"feature_{level}_sample"], 0, atol)
        wide = feature.double()
        assert wide.mean().item() == pytest.approx(arrays[f"feature_{level}_mean"].item(), abs=atol)
        assert wide.std(correction=0).item() == pytest.approx(arrays[f"feature_{level}_std"].item(), abs=atol)


@needs_shared
def test_deploy_form_equals_training_form(run: Run) -> None:
    training, deployed = (run.outputs[form, torch.float64][1] for form in ("training", "deploy"))
    torch.testing.assert_close(deployed.boxes, training.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(deployed.scores(), training.scores(), rtol=1e-6, atol=1e-12)


TINY = Structure(
    8,
    (Stage(8, 8, 2, 1), Stage(8, 4, 2, 2), Stage(16, 8, 2, 1), Stage(16, 8, 1, 2), Stage(24, 8, 2, 1)),
)


def tiny(num_classes: int = 3, **changes: Any) -> DamoYolo:
    architecture = DamoYolo(TINY, RepGfpn((8, 16, 24), depth=0.34), ZeroHead(bins=8), num_classes, size=(64, 64))
    return replace(architecture, **changes)


def _built(architecture: DamoYolo) -> Detector:
    torch.manual_seed(0)
    return architecture.build()


def _randomise_statistics(detector: nn.Module) -> None:
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)


def _check_forms(architecture: DamoYolo) -> None:
    """Both forms agree, every parameter gets a gradient, and official names are one to one."""
    detector = _built(architecture)
    predictions = detector.train()(torch.rand(2, 3, 64, 96) * 255)
    (predictions.regression.sum() + predictions.classes.sum()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []
    _randomise_statistics(detector)
    detector.double().eval()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64) * 255
    with torch.no_grad():
        before, after = detector(images), deploy(detector)(images)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after.scores(), before.scores(), rtol=1e-6, atol=1e-12)
    names = architecture.official_names()
    assert set(names) == set(detector.state_dict()) and len(set(names.values())) == len(names)


@pytest.mark.parametrize("block", ["k1kx", "kxkx", "k1kxk1", "k1dwk1"])
@pytest.mark.parametrize("reparameterised", [True, False])
def test_every_block_makes_a_backbone(block: BlockKind, reparameterised: bool) -> None:
    stages = tuple(replace(stage, block=block) for stage in TINY.stages)
    # A stage of stride 1 that changes channels, which no published network has.
    stages = (*stages[:3], replace(stages[3], outputs=24), stages[4])
    _check_forms(tiny(backbone=replace(TINY, stages=stages, reparameterised=reparameterised)))


@pytest.mark.parametrize("block", ["k1kx", "kxkx", "k1kxk1"])
def test_every_block_with_a_shortcut_makes_a_csp_backbone(block: BlockKind) -> None:
    stages = tuple(replace(stage, block=block) for stage in TINY.stages)
    backbone = replace(TINY, stages=stages, csp=True, activation="silu")
    _check_forms(tiny(backbone=backbone))
    built = SearchedBackbone(backbone, ConvStyle())
    assert (built.channels, built.strides) == ((8, 16, 24), (8, 16, 32))


@pytest.mark.parametrize("focus", [True, False])
@pytest.mark.parametrize("spp", [True, False])
def test_stem_and_pooling_are_settings(focus: bool, spp: bool) -> None:
    _check_forms(tiny(backbone=replace(TINY, focus=focus, spp=spp)))


@pytest.mark.parametrize("fusion", ["conv", "csp", "csp_rep", "csp_rep_elan"])
def test_fusion_styles_of_table_4(fusion: Any) -> None:
    _check_forms(tiny(neck=RepGfpn((8, 16, 24), depth=0.67, hidden=0.75, fusion=fusion)))


@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("depthwise", [True, False])
def test_queen_fusion_links_of_table_3(down: bool, up: bool, depthwise: bool) -> None:
    neck = RepGfpn((8, 16, 24), depth=0.34, extra_down=down, extra_up=up, depthwise=depthwise)
    _check_forms(tiny(neck=neck))
    detector = _built(tiny(neck=neck))
    links = sum(len(sources) for sources in detector.neck.sources.values())  # type: ignore[union-attr]
    # Own and chain of p4, p3, n4, n5; with extra links down, p5 merges (2) and p4, n5 have one more; with extra links
    # up, p4, p3 and n4 have one more and n3 merges (2); with both, n4 takes p3 beside n3.
    assert links == 8 + 4 * down + 5 * up + (down and up)


@pytest.mark.parametrize(("neck_depth", "head_depth"), [(1.0, 0), (0.5, 1), (0.33, 2), (0.0, 3)])
def test_neck_against_head_of_table_5(neck_depth: float, head_depth: int) -> None:
    architecture = tiny(neck=RepGfpn((8, 16, 24), depth=neck_depth), head=ZeroHead(bins=8, depth=head_depth))
    _check_forms(architecture)


def test_neck_is_the_published_table_of_merges() -> None:
    sources = dict(_built(tiny()).neck.sources)  # type: ignore[arg-type]
    assert sources == {
        "p5": ("c5", "c4"),
        "p4": ("c4", "c3", "p5"),
        "p3": ("c3", "p4"),
        "n4": ("p4", "p3"),
        "n5": ("p5", "p4", "n4"),
    }
    assert [merge.node for merge in MERGES if merge.node != "n3"] == list(sources)


@pytest.mark.parametrize(("width", "rounded"), [(1, 8), (20, 24), (60, 64), (84, 88), (12, 16), (11, 16), (99.1, 104)])
def test_widths_are_rounded_to_multiples_of_8(width: float, rounded: int) -> None:
    assert multiple_of_8(width) == rounded


def test_priors_are_cell_corners_and_boxes_are_expected_distances() -> None:
    predictions = _built(tiny())(torch.rand(2, 3, 64, 96) * 255)
    priors = predictions.priors
    assert priors.shapes == ((8, 12), (4, 6), (2, 3))
    assert priors.points[:2].tolist() == [[0, 0], [8, 0]] and priors.points[-1].tolist() == [64, 32]
    assert predictions.classes.shape == (2, 126, 3) and predictions.objectness is None
    assert predictions.regression.shape == (2, 126, 4 * 8)
    bins = predictions.regression.unflatten(-1, (4, 8)).softmax(-1)
    distances = (bins * torch.arange(8.0)).sum(-1) * priors.strides[:, None]
    corners = torch.cat((priors.points - distances[..., :2], priors.points + distances[..., 2:]), -1)
    torch.testing.assert_close(predictions.boxes, corners)


def test_half_precision_features_are_decoded_in_float32() -> None:
    detector = _built(tiny()).eval().half()
    with torch.no_grad():
        predictions = detector(torch.rand(1, 3, 64, 64).half())
    assert predictions.boxes.dtype == predictions.classes.dtype == torch.float32


def test_initialisation_is_as_published() -> None:
    torch.manual_seed(0)
    detector = build("damo-yolo-ns", classes=7)
    for name, tensor in detector.head.named_parameters():
        if name.endswith("classes.bias"):
            torch.testing.assert_close(tensor, torch.full_like(tensor, -math.log(99)))
        elif name.endswith("boxes.bias"):
            assert not tensor.any()
        elif name.endswith("scale"):
            assert tensor.item() == 1 and tensor.shape == ()
        else:
            assert tensor.std().item() == pytest.approx(0.01, rel=0.15)
    depthwise = [m for m in detector.backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert torch.cat([conv.weight.flatten() for conv in depthwise]).std().item() == pytest.approx(1.0, rel=0.05)
    shifts = [m.bias for m in detector.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.all(shift == 1e-4) for shift in shifts)
    assert not any(m.bias.any() for m in detector.neck.modules() if isinstance(m, nn.BatchNorm2d))


def test_old_weights_have_an_unused_class() -> None:
    architecture = before_v030(tiny())
    detector = _built(architecture)
    images = torch.rand(1, 3, 64, 64) * 255
    assert detector.train()(images).classes.shape[-1] == 4
    assert detector.eval()(images).scores().shape[-1] == 3
    assert deploy(detector)(images).scores().shape[-1] == 3
    framed, placement = architecture.frame(np.full((50, 100, 3), 255, np.uint8), (64, 64))
    assert framed[:32].all() and not framed[32:].any() and (placement.scale_x, placement.left) == (0.64, 0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Stage, {"outputs": 0, "bottleneck": 8, "stride": 1, "depth": 1}),
        (Stage, {"outputs": 8, "bottleneck": 8, "stride": 3, "depth": 1}),
        (Stage, {"outputs": 8, "bottleneck": 8, "stride": 1, "depth": 10**9}),
        (Structure, {"stem": 8, "stages": TINY.stages[:3]}),
        (Structure, {"stem": 8, "stages": MOBILE_NS.stages, "csp": True}),
        (RepGfpn, {"channels": (8, 8, 8), "depth": 1e9}),
        (ZeroHead, {"bins": 1}),
        (ZeroHead, {"kernel": 2}),
    ],
)
def test_invalid_settings_raise(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        kind(**settings)


def test_published_structures_are_values() -> None:
    assert hash(variant("damo-yolo-t").architecture) == hash(DamoYolo(MAE_RESNET_T, RepGfpn((64, 128, 256))))
