"""Overlaps and terms: their bounds, their gradients, and what they ask of a head."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_losses import level_priors
from onelook.assign.simota import SimOta
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.ops.gather import gather_rows, pack
from onelook.ops.iou import box_iou, pairwise_iou
from onelook.types import Targets
from random_scenes import decode, random_scene

coordinate = st.floats(-50, 50, allow_nan=False, width=32)
side = st.floats(0.5, 80, allow_nan=False, width=32)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, side, side)
LOSS = DetectionLoss(SimOta(), (BoxIou(), Objectness(), Classes(), RawL1()))


def overlap(a, b):
    """IoU of two boxes in plain numbers."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = w * h
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@settings(max_examples=100, deadline=None)
@given(a=boxes, b=boxes)
def test_the_overlaps_are_ordered_bounded_and_symmetric(a, b):
    first, second = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    iou, giou, diou, ciou = (float(box_iou(first, second, kind)) for kind in ("iou", "giou", "diou", "ciou"))
    assert iou == pytest.approx(overlap(a, b), abs=1e-9)
    assert 0 <= iou <= 1 + 1e-9
    assert -1 <= giou <= iou + 1e-9
    assert ciou <= diou + 1e-9 and diou <= iou + 1e-9
    for kind, value in (("iou", iou), ("giou", giou), ("diou", diou), ("ciou", ciou)):
        assert float(box_iou(second, first, kind)) == pytest.approx(value, abs=1e-6)
        assert float(box_iou(first, first, kind)) == pytest.approx(1.0)


def test_overlaps_of_known_boxes():
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 5.0])
    hull, union, diagonal = 15.0, 11.0, 9.0 + 25.0
    iou, distance = 1 / 11, 1.0 + 4.0
    aspect = 4 / math.pi**2 * (math.atan(2 / 4) - math.atan(1.0)) ** 2
    assert float(box_iou(a, b)) == pytest.approx(iou)
    assert float(box_iou(a, b, "giou")) == pytest.approx(iou - (hull - union) / hull)
    assert float(box_iou(a, b, "diou")) == pytest.approx(iou - distance / diagonal)
    expected = iou - distance / diagonal - aspect**2 / (1 - iou + aspect)
    assert float(box_iou(a, b, "ciou")) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_overlap_gradients_are_finite_where_boxes_are_equal_apart_or_empty(kind):
    first = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1], [0, 0, 5, 0]], dtype=torch.float32).requires_grad_()
    second = torch.tensor([[0, 0, 2, 2], [9, 9, 11, 11], [1, 1, 1, 1], [0, 0, 5, 2]], dtype=torch.float32)
    box_iou(first, second, kind).sum().backward()
    assert first.grad.isfinite().all()


def test_pairwise_overlap_is_the_elementwise_one():
    one, two = torch.rand(2, 3, 4).cumsum(-1), torch.rand(2, 5, 4).cumsum(-1)
    table = pairwise_iou(one, two)
    assert table.shape == (2, 3, 5)
    torch.testing.assert_close(table, box_iou(one.unsqueeze(2), two.unsqueeze(1)))


@settings(max_examples=50, deadline=None)
@given(mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
def test_packing_moves_true_columns_to_the_front(mask):
    index, real = pack(torch.tensor(mask), 6)
    for row, places, valid in zip(mask, index, real):
        assert places[valid].tolist() == [column for column, true in enumerate(row) if true]
        assert valid.tolist() == sorted(valid.tolist(), reverse=True)


def test_gathered_rows_keep_their_trailing_axes():
    values = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    torch.testing.assert_close(gather_rows(values, index), torch.stack([values[0][[4, 0]], values[1][[1, 1]]]))


def test_losses_are_float32_scalars_and_their_gradient_reaches_every_raw_value():
    priors = level_priors(64, 64)
    raw = torch.randn(2, len(priors.points), 8).bfloat16().requires_grad_()
    _, targets = random_scene(6, 2, 4, classes=3, size=(64, 64))
    decoded = decode(raw.float(), priors)
    predictions = replace(decoded, classes=raw[..., 5:], objectness=raw[..., 4], regression=raw[..., :4])
    losses = LOSS(predictions, targets)
    assert list(losses) == ["box", "objectness", "classes", "l1"]
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert raw.grad.isfinite().all() and (raw.grad[..., 4] != 0).all()


@pytest.mark.parametrize("objects", [0, 3])
def test_a_batch_without_objects_trains_only_objectness(objects):
    priors = level_priors(64, 64)
    raw = torch.randn(2, len(priors.points), 8, requires_grad=True)
    empty = Targets(torch.zeros(2, objects, 4), torch.zeros(2, objects).long(), torch.zeros(2, objects).bool())
    losses = LOSS(decode(raw, priors), empty)
    assert [name for name, value in losses.items() if value.item() != 0] == ["objectness"]
    sum(losses.values()).backward()
    assert raw.grad.isfinite().all() and not raw.grad[..., :4].any() and not raw.grad[..., 5:].any()


def test_a_non_finite_unmatched_prediction_does_not_spoil_the_loss():
    priors = level_priors(64, 64)
    predictions = decode(torch.randn(1, len(priors.points), 8), priors)
    boxes = predictions.boxes.clone()
    boxes[0, 0] = torch.inf  # row 0 is what padded pairs point at
    predictions = replace(predictions, boxes=boxes.requires_grad_())
    targets = Targets(torch.tensor([[[40.0, 40, 60, 60]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
    loss = DetectionLoss(SimOta(radius=1.5, inside_box=False), (BoxIou(), Objectness(), Classes(), RawL1()))
    sum(loss(predictions, targets).values()).backward()
    assert boxes.grad.isfinite().all() and boxes.grad.any()


def test_a_loss_lists_what_it_needs_of_a_head():
    assert LOSS.needs() == {"objectness": "Objectness", "cell offsets": "RawL1"}
    assert DetectionLoss(SimOta(), (BoxIou(),)).with_terms(RawL1()).terms == (BoxIou(), RawL1())
