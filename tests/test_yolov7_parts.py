"""YOLOv7's blocks and head are those of the paper's figures, and its scaling is a row of numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from onelook.config import diff
from onelook.layers.anchor_predictions import decode_sigmoid
from onelook.layers.conv import ConvStyle
from onelook.layers.csp import Bottleneck
from onelook.layers.implicit_knowledge import ImplicitConv
from onelook.layers.rep_conv import RepConv, RepResidual
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector
from onelook.networks.flops import count_parameters
from onelook.networks.variants import variant
from onelook.networks.yolov7.architecture import D6, E6, E6E, W6, YOLOV7, X
from onelook.networks.yolov7.elan import Elan, ElanChain
from shared import needs_shared, reference

STYLE = ConvStyle()


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.double().eval()


def deployed(module: nn.Module) -> nn.Module:
    """What deploying a detector makes of one of its parts."""
    from copy import deepcopy

    from onelook.networks.deploy import _deploy_children

    holder = nn.Sequential(deepcopy(module))
    _deploy_children(holder)
    return holder


@pytest.mark.parametrize(
    ("chain", "joined", "skips"),
    [
        (ElanChain(4), (0, 1, 2, 3), ()),
        (ElanChain(4, step=2), (1, 3), ()),
        (ElanChain(6, step=2, rep=(0, 2, 4)), (1, 3, 5), (0, 2, 4)),  # planned: nothing joins what they give
        (ElanChain(6, step=2, rep=(1, 3, 5)), (1, 3, 5), ()),  # joined at once, so without identity
        (ElanChain(6, step=2, rep=(1, 3, 5), identity="always"), (1, 3, 5), (1, 3, 5)),
        (ElanChain(6, step=2, rep=(0, 1), identity="never"), (1, 3, 5), ()),
    ],
)
def test_chain_concatenates_and_reparameterises_the_planned_positions(
    chain: ElanChain, joined: tuple[int, ...], skips: tuple[int, ...]
) -> None:
    elan = Elan(8, 16, 4, 4, chain=chain, style=STYLE)
    assert tuple(place for place in range(chain.depth) if chain.joined(place)) == joined
    rep = {place: link for place, link in enumerate(elan.chain) if isinstance(link, RepConv)}
    assert tuple(rep) == chain.rep
    assert tuple(place for place, link in rep.items() if link.skip is not None) == skips
    randomise(elan)
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(deployed(elan)(x), elan(x), rtol=1e-9, atol=1e-9)


def test_first_convolution_of_a_chain_has_an_identity_only_where_channels_agree() -> None:
    elan = Elan(8, 16, 8, 4, chain=ElanChain(6, step=2, rep=(0, 2)), style=STYLE)
    assert [link.skip is not None for link in elan.chain if isinstance(link, RepConv)] == [False, True]


@pytest.mark.parametrize(("hidden", "has_identity"), [(8, True), (4, False)])
def test_reversed_dark_block_may_have_an_identity_branch(hidden: int, has_identity: bool) -> None:
    block = RepResidual(8, hidden, STYLE)
    assert (block.rep.skip is not None) == has_identity
    randomise(block)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(deployed(block)(x), block(x), rtol=1e-9, atol=1e-9)
    dark = Bottleneck(8, 8, hidden, STYLE)
    assert count_parameters(deployed(block)) == count_parameters(deployed(dark))  # the paper compares equal sizes


def test_implicit_knowledge_folds_and_unfolds() -> None:
    layer = ImplicitConv(nn.Conv2d(5, 7, 1)).double()
    nn.init.normal_(layer.add)
    nn.init.normal_(layer.multiply)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    folded = layer.deploy()
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-10, atol=1e-12)
    again = ImplicitConv(nn.Conv2d(5, 7, 1)).double()
    assert folded.conv.bias is not None
    again.load_state_dict(layer.undeploy(folded.conv.weight.detach(), folded.conv.bias.detach()))
    torch.testing.assert_close(again(x), layer(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("identity", [False, True])
def test_merged_branches_unfold_to_branches(identity: bool) -> None:
    block = RepConv(6, 6, STYLE, identity=identity)
    randomise(block)
    x = torch.randn(2, 6, 5, 6, dtype=torch.float64)
    conv = block.deploy().conv
    assert conv.bias is not None
    again = RepConv(6, 6, STYLE, identity=identity).double().eval()
    again.load_state_dict(block.undeploy(conv.weight.detach(), conv.bias.detach()))
    torch.testing.assert_close(again(x), block(x), rtol=1e-6, atol=1e-7)  # 1 - eps is rounded to float32


def test_compound_scaling_is_depth_and_width() -> None:
    assert {one.path: one.after for one in diff(YOLOV7, X)} == {
        "depth": 6, "width": 1.25, "neck_step": 2, "neck_inner": 1.0, "lead": "conv",
    }  # fmt: skip
    assert {one.path: one.after for one in diff(W6, E6)} == {
        "depth": 6, "width": 1.25, "down": "down_c", "auxiliary": 1.0,
    }  # fmt: skip
    assert {one.path: one.after for one in diff(E6, D6)} == {"depth": 8, "width": 1.5}
    assert {one.path: one.after for one in diff(E6, E6E)} == {"copies": 2, "partial_auxiliary": True}


def narrow(architecture: Any, **changes: Any) -> Detector:
    torch.manual_seed(0)
    detector = replace(architecture, width_multiple=0.0625, num_classes=3, **changes).build()
    assert isinstance(detector, Detector)
    return detector


@pytest.mark.parametrize("partial", [True, False])
def test_partial_auxiliary_head_gives_no_gradient_to_the_first_branch(partial: bool) -> None:
    detector = narrow(E6E, partial_auxiliary=partial)
    predictions = detector(torch.rand(2, 3, 64, 64) * 255)
    assert predictions.auxiliary is not None
    finest = len(predictions.priors.points) - 3 * (16 + 4 + 1)
    predictions.auxiliary.classes[:, :finest].sum().backward()
    last = detector.neck.top_down[-1].branches  # type: ignore[union-attr, index]
    trained = [any(parameter.grad is not None for parameter in branch.parameters()) for branch in last]
    assert trained == [not partial, True]


def test_auxiliary_head_exists_in_training_only() -> None:
    detector = narrow(W6)
    images = torch.rand(2, 3, 64, 64) * 255
    assert len(detector.features(images)) == 8
    assert len(detector.eval().features(images)) == 4
    assert detector(images).auxiliary is None
    names = list(deploy(detector).state_dict())
    assert not any("auxiliary" in name or "multiply" in name or "add" in name for name in names)


@needs_shared
def test_initial_biases_are_the_published_ones() -> None:
    priors = json.loads((reference("yolov7") / "details.json").read_text())["schedules"]["bias_prior"]
    torch.manual_seed(3)
    with_prior = build("yolov7-tiny").head.state_dict()
    torch.manual_seed(3)
    plain = [nn.Conv2d(inputs, 255, 1) for inputs in (128, 256, 512)]
    for level, (layer, stride) in enumerate(zip(plain, (8, 16, 32))):
        bias = with_prior[f"lead.{level}.conv.bias"].view(3, 85)
        assert layer.bias is not None
        limit = layer.weight[0].numel() ** -0.5  # PyTorch's own biases are uniform below this
        assert (bias[:, :4].abs() <= limit).all()
        assert ((bias[:, 4] - priors[str(stride)]["objectness"]).abs() <= limit).all()
        assert ((bias[:, 5:] - priors[str(stride)]["classes_80"]).abs() <= limit).all()
        assert with_prior[f"lead.{level}.add"].std() == pytest.approx(0.02, rel=0.3)
        assert with_prior[f"lead.{level}.multiply"].mean() == pytest.approx(1, abs=0.01)


def test_centres_reach_half_a_cell_beyond_their_own_and_sides_four_anchors() -> None:
    detector = narrow(variant("yolov7-tiny").architecture)
    for raw, reach, sides in ((30.0, 1.0, 4.0), (-30.0, -1.0, 0.0), (0.0, 0.0, 1.0)):
        predictions = detector.head(tuple(torch.zeros(1, c, 2, 3) for c in detector.neck.channels))

        priors = predictions.priors
        boxes = decode_sigmoid(torch.full_like(predictions.regression, raw), priors)[0]
        centres, lengths = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        assert priors.sizes is not None
        torch.testing.assert_close((centres - priors.points) / priors.strides[:, None], torch.full_like(centres, reach))
        torch.testing.assert_close(lengths, priors.sizes * sides, rtol=1e-4, atol=1e-3)
