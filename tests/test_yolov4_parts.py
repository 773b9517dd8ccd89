"""The bag of specials: blocks equal the reference's, and every setting of a model builds, trains and deploys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onelook.augment.letterbox import Letterbox, resize_image
from onelook.config import change, from_plain, to_plain
from onelook.layers.asff import Asff
from onelook.layers.aspp import Aspp
from onelook.layers.attention import PointwiseAttention, SpatialAttention, SqueezeExcite
from onelook.layers.conv import ConvStyle, make_activation
from onelook.layers.rfb import Rfb
from onelook.layers.sfam import Sfam
from onelook.layers.spp import PlainSpp, SamePaddingMaxPool
from onelook.layers.weighted_sum import PlainSum, WeightedSum
from onelook.losses.yolov4 import DarknetSquares, GaussianBox
from onelook.networks.deploy import deploy
from onelook.networks.variants import ARCHITECTURE_TYPES, variant
from onelook.networks.yolov4.architecture import CSP, LETTERBOX, TINY, Yolov4
from onelook.recipes.yolov4 import default
from shared import needs_shared, reference

SMALL = Yolov4(width=0.125, depth=0.1, num_classes=3, size=(64, 64))


@pytest.fixture(scope="module")
def blocks() -> dict[str, np.ndarray]:
    with np.load(reference("yolov4") / "blocks.npz") as file:
        return dict(file)


@needs_shared
def test_mish_and_its_derivative_are_darknets(blocks: dict[str, np.ndarray]) -> None:
    x = torch.from_numpy(blocks["mish_x"]).double().requires_grad_()
    y = make_activation("mish")(x + 0)
    y.sum().backward()
    assert x.grad is not None
    # Darknet computes in float32 and loses what is below 1e-6.
    np.testing.assert_allclose(y.detach(), blocks["mish_y"], 1e-5, 1e-6)
    np.testing.assert_allclose(x.grad, blocks["mish_gradient"], 1e-5, 1e-6)


@needs_shared
@pytest.mark.parametrize("weights", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_weighted_sums_are_darknets(blocks: dict[str, np.ndarray], weights: str, normalization: Any) -> None:
    join = WeightedSum(2, 4, per_channel=weights == "per_channel", normalization=normalization)
    with torch.no_grad():
        join.weight.copy_(torch.from_numpy(blocks[f"{weights}_weights"]))
        found = join(*(torch.from_numpy(blocks[f"residual_{name}"]) for name in ("input", "same", "second")))
    np.testing.assert_allclose(found, blocks[f"residual_{weights}_{normalization}"], 1e-5, 1e-6)


@needs_shared
@pytest.mark.parametrize(("name", "sources"), [("narrow", ["narrow"]), ("wide", ["wide"]), ("two", ["same", "narrow"])])
def test_sums_of_other_channel_counts_are_darknets(
    blocks: dict[str, np.ndarray], name: str, sources: list[str]
) -> None:
    found = PlainSum()(*(torch.from_numpy(blocks[f"residual_{one}"]) for one in ("input", *sources)))
    np.testing.assert_allclose(found, blocks[f"residual_plain_{name}"], 1e-6)


@needs_shared
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (2, 1), (5, 1), (9, 1), (13, 1)])
def test_pools_are_darknets(blocks: dict[str, np.ndarray], size: int, stride: int) -> None:
    x = torch.from_numpy(blocks["pool_input"])[None]
    np.testing.assert_array_equal(SamePaddingMaxPool(size, stride)(x)[0], blocks[f"pool_{size}_{stride}"])
    if stride == 1 and size % 2:
        np.testing.assert_array_equal(PlainSpp((size,))(x)[0, :2], blocks[f"pool_{size}_1"])


@needs_shared
def test_frames_are_darknets() -> None:
    with np.load(reference("yolov4") / "preprocess.npz") as file:
        arrays = {name: file[name].transpose(1, 2, 0) for name in ("image", "resize", "resize_up")}
        letterboxes = {name: file[name].transpose(1, 2, 0) for name in ("letterbox", "letterbox_tall")}
    image = arrays["image"]
    for name in ("resize", "resize_up"):
        np.testing.assert_allclose(
            resize_image(image, arrays[name].shape[:2], "linear_aligned"), arrays[name], atol=2e-6
        )
    for desired in letterboxes.values():
        # Half a grey is no whole number of 255, so the padding is compared apart.
        found, placement = LETTERBOX(np.asarray(image * 255, np.float32), desired.shape[:2])
        inside = np.zeros(desired.shape[:2], bool)
        left, top = int(placement.left), int(placement.top)
        right, bottom = (
            round(left + placement.scale_x * image.shape[1]),
            round(top + placement.scale_y * image.shape[0]),
        )
        inside[top:bottom, left:right] = True
        np.testing.assert_allclose(found[inside] / 255, desired[inside], atol=2e-6)
        assert np.abs(found[~inside] / 255 - 0.5).max() < 0.002 and (desired[~inside] == 0.5).all()


def test_aligned_resize_keeps_the_corners_and_whole_numbers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    found = resize_image(image, (20, 33), "linear_aligned")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[[0, 0, -1, -1], [0, -1, 0, -1]], image[[0, 0, -1, -1], [0, -1, 0, -1]])
    np.testing.assert_array_equal(resize_image(np.full((1, 1, 3), 7, np.uint8), (3, 2), "linear_aligned"), 7)


@pytest.mark.parametrize("source", [(37, 53), (53, 37), (480, 640), (1, 1000), (64, 64)])
def test_whole_letterbox_maps_boxes_back(source: tuple[int, int]) -> None:
    frame = Letterbox(128, "centre", rounding="whole")
    placement, sides = frame.get_transform(source, (64, 96))
    assert max(sides[0] / 64, sides[1] / 96) == 1
    corners = placement.to_input(np.array([[0.0, 0.0, source[1], source[0]]]))
    np.testing.assert_allclose(corners[0, 2:] - corners[0, :2], sides[::-1])
    np.testing.assert_allclose(placement.to_original(corners), [[0, 0, source[1], source[0]]], atol=1e-9)


STYLE = ConvStyle("leaky_relu")


@pytest.mark.parametrize(
    ("block", "channels"),
    [
        (SpatialAttention(16, STYLE), 16),
        (PointwiseAttention(16, STYLE), 16),
        (SqueezeExcite(16), 16),
        (Aspp(16, STYLE), 64),
        (Rfb(16, STYLE), 16),
        (PlainSpp(), 64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_blocks_keep_the_size_and_get_gradients(block: nn.Module, channels: int) -> None:
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    y = block(x)
    assert y.shape == (2, channels, 6, 5)
    y.sum().backward()
    assert x.grad is not None and all(one.grad is not None for one in block.parameters())


@pytest.mark.parametrize("fusion", [Asff, Sfam])
def test_fusion_keeps_every_level_and_mixes_them(fusion: Any) -> None:
    torch.manual_seed(0)
    block = fusion((4, 8, 16), STYLE).eval()
    pyramid = tuple(torch.randn(1, c, 4 * s, 8 * s, requires_grad=True) for c, s in ((4, 4), (8, 2), (16, 1)))
    fused = block(pyramid)
    assert [level.shape for level in fused] == [level.shape for level in pyramid]
    fused[1].sum().backward()
    assert all(level.grad is not None and bool(level.grad.abs().sum() > 0) for level in pyramid)


def test_attention_is_a_factor_from_0_to_1() -> None:
    x = torch.randn(2, 8, 5, 5)
    for block in (SpatialAttention(8, STYLE), PointwiseAttention(8, STYLE), SqueezeExcite(8)):
        share = block(x) / x
        assert bool((share > 0).all() and (share < 1).all())


SPECIALS: dict[str, dict[str, object]] = {
    "as published": {},
    "no SPP": {"context": ()},
    "ASPP": {"context": ("aspp",)},
    "SPP-RFB": {"context": ("spp", "rfb")},
    "SPP-SAM": {"attention": "pointwise"},
    "SPP-SAM of CBAM": {"attention": "spatial"},
    "SPP-SAM-G": {"attention": "pointwise", "gaussian": True},
    "SPP-ASFF-RFB": {"context": ("spp", "rfb"), "fusion": "asff"},
    "SFAM": {"fusion": "sfam"},
    "BiFPN": {"neck": "bifpn"},
    "MiWRC": {"residual": "per_feature"},
    "MiWRC by channel, softmax": {"residual": "per_channel", "residual_normalization": "softmax"},
    "swish": {"activation": "silu"},
    "re-parameterised units": {"unit": "dark_rep"},
    "reversed units": {"unit": "reversed"},
    "reversed, re-parameterised units": {"unit": "reversed_rep"},
    "YOLOR's implicit knowledge": {"implicit": True},
    "CSP neck with sigmoid coordinates": {"neck": "csp_pan", "coordinates": "sigmoid"},
}


@pytest.mark.parametrize("name", SPECIALS)
def test_every_special_is_one_setting_of_a_model(name: str) -> None:
    """Table 5 of the paper, and what sec. 3.2 names, as settings."""
    torch.manual_seed(0)
    architecture = change(SMALL, SPECIALS[name])
    assert from_plain(to_plain(architecture), ARCHITECTURE_TYPES) == architecture
    detector = architecture.build()
    assert len(set(architecture.official_names().values())) == len(detector.state_dict())
    images = torch.rand(2, 3, 32, 64) * 255
    predictions = detector(images)
    assert predictions.boxes.shape == (2, 3 * (4 * 8 + 2 * 4 + 2), 4)
    assert predictions.classes.shape[2] == 3
    predictions.scores().sum().backward()
    used = [one.grad is not None for key, one in detector.named_parameters()]
    assert all(used)
    with torch.no_grad():
        expected, deployed = detector.eval()(images), deploy(detector)(images)
    torch.testing.assert_close(deployed.scores(), expected.scores(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Yolov4(), {"grid_scales": (1.2,)}),
        (Yolov4(), {"anchors": Yolov4().anchors[:2], "grid_scales": (1.2, 1.1)}),
        (Yolov4(), {"anchors": (((1.0, 2.0),), *Yolov4().anchors[1:])}),
        (Yolov4(), {"anchors": (((0.0, 2.0),),) * 3}),
        (Yolov4(), {"context": ("spp", "aspp")}),
        (Yolov4(), {"neck": "bifpn", "attention": "pointwise"}),
        (Yolov4(), {"width": 0.001}),
        (Yolov4(), {"depth": -1.0}),
        (TINY, {"neck": "pan"}),
        (TINY, {"attention": "pointwise"}),
        (TINY, {"fusion": "asff"}),
        (TINY, {"context": ("rfb",)}),
        (TINY, {"residual": "per_feature"}),
    ],
)
def test_settings_that_fail_or_have_no_effect_raise(model: Yolov4, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(model, **settings)


@pytest.mark.parametrize("box", [DarknetSquares(), GaussianBox()])
def test_box_losses_for_another_box_encoding_raise(box: DarknetSquares | GaussianBox) -> None:
    """Squared errors of raw values mean nothing where the head codes its sides in another way."""
    model = replace(Yolov4(), coordinates="sigmoid", grid_scales=(2.0,) * 3, gaussian=True)
    recipe = default(variant("yolov4"))
    terms = (box, *recipe.loss.terms[1:])  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="exponential sides"):
        replace(recipe, model=model, loss=replace(recipe.loss, terms=terms))


@pytest.mark.parametrize(
    "architecture", [replace(TINY, width=0.25), replace(CSP, width=0.125, depth=0.1)], ids=["tiny", "csp"]
)
def test_any_class_count_changes_only_the_class_rows(architecture: Yolov4) -> None:
    few, many = (replace(architecture, num_classes=count).build() for count in (2, 80))
    rows = few.head.class_rows()
    assert len(rows) == 2 * len(architecture.anchors)
    for name, tensor in few.state_dict().items():
        other = many.state_dict()[name]
        own = rows.get(name.removeprefix("head."))
        if own is None:
            assert tensor.shape == other.shape
        else:
            assert [len(one) for one in (tensor, other)] == [own.anchors * (own.before + c) for c in (2, 80)]


def test_gaussian_scores_shrink_with_uncertainty() -> None:
    detector = replace(SMALL, gaussian=True).build().eval()
    with torch.no_grad():
        found = detector(torch.rand(1, 3, 64, 64) * 255)
    assert found.regression.shape[2] == 8 and found.certainty is not None and found.objectness is not None
    product = found.classes.sigmoid() * (found.objectness.sigmoid() * found.certainty).unsqueeze(-1)
    torch.testing.assert_close(found.scores(), product)
    sigmas = found.regression[..., 1::2].sigmoid()
    torch.testing.assert_close(found.certainty, 1 - sigmas.mean(-1))


def test_tiny_rows_begin_with_the_coarsest_level_as_in_the_published_files() -> None:
    with torch.no_grad():
        priors = replace(TINY, width=0.25).build()(torch.rand(1, 3, 64, 96)).priors
    assert priors.shapes == ((2, 3), (4, 6))
    assert priors.strides[[0, -1]].tolist() == [32, 16] and priors.levels[[0, -1]].tolist() == [0, 1]
    assert priors.sizes is not None and priors.sizes[0].tolist() == [81, 82]


def test_initialisation_is_as_published() -> None:
    detector = SMALL.build()
    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            bound = (2 / module.weight[0].numel()) ** 0.5
            assert float(module.weight.detach().abs().max()) <= bound
            assert module.bias is None or not bool(module.bias.any())
