"""Models by name: variants, class lists, costs, and the bricks that all families share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from onelook.errors import ConfigError
from onelook.layers.conv import ACTIVATIONS, ConvBnAct, ConvStyle, make_activation
from onelook.layers.focus import space_to_depth
from onelook.layers.rep_conv import RepConv
from onelook.networks.build import build
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.detector import Architecture, PixelFormat, Pixels
from onelook.networks.variants import ARCHITECTURE_TYPES, VARIANTS, variant
from onelook.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from onelook.ops.fold import fold_batch_norm, pad_kernel
from onelook.ops.priors import flatten_levels, grid_priors


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_complete_row(name: str) -> None:
    row = variant(name)
    assert row.name == name
    assert isinstance(row.architecture, Architecture)
    assert type(row.architecture).__name__ in ARCHITECTURE_TYPES
    assert hash(row) == hash(variant(name))
    if row.url is not None:  # some files are published where addresses do not name them
        assert row.weights_file is not None and row.url.endswith(row.weights_file)


def test_unknown_model_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'yolox-nano'"):
        variant("yolox_nano")


def test_coco_has_eighty_different_names() -> None:
    assert len(set(COCO_CLASSES)) == len(COCO_CLASSES) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[15], COCO_CLASSES[79]) == ("person", "cat", "toothbrush")
    assert all(name == name.strip() and "  " not in name for name in COCO_CLASSES)


def test_classes_are_a_count_or_names() -> None:
    with torch.device("meta"):
        assert build("yolox-nano").class_names == COCO_CLASSES
        assert build("yolox-nano", classes=3).class_names == ()
        named = build("yolox-nano", classes=["cat", "dog"])
    assert named.class_names == ("cat", "dog")
    assert named.head.num_classes == 2
    assert named.architecture is not None and named.architecture.num_classes == 2


@pytest.mark.parametrize("classes", [0, -1, [], ["cat", "cat"], "cat", 10**9])
def test_invalid_classes_raise(classes: object) -> None:
    with pytest.raises(ConfigError):
        build("yolox-nano", classes=classes)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans(), st.sampled_from(sorted(ACTIVATIONS)))
def test_folded_batch_norm_gives_the_same_output(seed: int, kernel: int, depthwise: bool, activation: str) -> None:
    torch.manual_seed(seed)
    block = ConvBnAct(4, 4, kernel, groups=4 if depthwise else 1, activation=activation).double().eval()
    nn.init.uniform_(block.bn.running_var, 0.01, 3)
    nn.init.normal_(block.bn.running_mean)
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block.deploy()(x), block(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("stride", "groups", "identity"), [(1, 1, True), (1, 2, True), (2, 1, True), (1, 4, False)])
def test_branches_merge_into_one_convolution(stride: int, groups: int, identity: bool) -> None:
    torch.manual_seed(0)
    block = RepConv(4, 4, ConvStyle(), stride=stride, groups=groups, identity=identity).double().eval()
    assert (block.skip is not None) == (identity and stride == 1)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.01, 3)
            nn.init.normal_(norm.running_mean)
            nn.init.normal_(norm.weight)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    merged = block.deploy()
    assert sum(1 for module in merged.modules() if isinstance(module, nn.Conv2d)) == 1
    torch.testing.assert_close(merged(x), block(x), rtol=1e-10, atol=1e-12)


def test_convolution_that_already_has_a_bias_folds_too() -> None:
    conv, norm = nn.Conv2d(2, 3, 3).double(), nn.BatchNorm2d(3).double().eval()
    nn.init.normal_(norm.running_mean)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    weight, bias = fold_batch_norm(conv.weight, conv.bias, norm)
    torch.testing.assert_close(F.conv2d(x, weight, bias), norm(conv(x)))


def test_padded_kernel_is_the_same_convolution() -> None:
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 1, 1)
    torch.testing.assert_close(F.conv2d(x, pad_kernel(weight, 3), padding=1), F.conv2d(x, weight))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("repeats", [1, 4])
def test_order_and_scale_of_pixels_fold_into_the_first_convolution(order: str, repeats: int) -> None:
    pixels = Pixels(PixelFormat(order, divisor=255.0, std=(0.2, 0.3, 0.4))).double()  # type: ignore[arg-type]
    conv = nn.Conv2d(3 * repeats, 5, 3, padding=1).double()
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64) * 255
    see = space_to_depth if repeats == 4 else nn.Identity()
    expected = conv(see(pixels(images)))
    assert pixels.fold_into(conv)
    torch.testing.assert_close(conv(see(images)), expected, rtol=1e-5, atol=1e-6)  # gains of Pixels are float32


def test_space_to_depth_orders_blocks_column_by_column() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert space_to_depth(image).flatten().tolist() == [0, 2, 1, 3]


def test_unknown_activation_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'silu'"):
        make_activation("sillu")


def test_depthwise_style_separates_only_spatial_convolutions() -> None:
    style = ConvStyle("relu", depthwise=True)
    assert isinstance(style.conv(4, 4, 3), ConvBnAct)
    assert sum(isinstance(module, nn.Conv2d) for module in style.spatial(4, 8).modules()) == 2


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4))
def test_box_forms_are_inverses(values: list[float]) -> None:
    box = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box, rtol=0, atol=1e-9)


def test_anchor_priors_go_anchor_by_anchor_and_rows_follow_them() -> None:
    anchors = [[(10.0, 20.0), (30.0, 40.0)], [(50.0, 60.0), (70.0, 80.0)]]
    priors = grid_priors([(2, 3), (1, 1)], [8, 16], anchors=anchors, offset=0.0)
    assert priors.sizes is not None
    assert priors.points[:7].tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0]]
    assert priors.sizes[5].tolist() == [10, 20] and priors.sizes[6].tolist() == [30, 40]
    assert priors.sizes[13].tolist() == [70, 80]
    assert priors.levels.tolist() == [0] * 12 + [1] * 2
    maps = [torch.arange(2.0 * 5 * 6).reshape(1, 10, 2, 3), torch.arange(10.0).reshape(1, 10, 1, 1)]
    rows = flatten_levels(maps, anchors=2)
    assert rows.shape == (1, 14, 5)
    assert rows[0, 7, 3] == maps[0][0, 5 + 3, 0, 1]
    assert rows[0, 13, 4] == maps[1][0, 9, 0, 0]
