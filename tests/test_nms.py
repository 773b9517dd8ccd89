"""Greedy suppression against the textbook loop, and what becomes of ties, odd values and torch tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counting import num_calls
from onelook.errors import ConfigError
from onelook.ops.nms import Nms, TopK, candidates, greedy_nms
from onelook.ops.numpy_iou import pairwise_iou


def textbook_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (a, b)]
    union = areas[0] + areas[1] - shared
    return shared / union if union > 0 else 0.0


def textbook_nms(boxes, scores, nms):
    """The definition, one pair at a time."""
    rows = []
    for row, values in enumerate(scores.tolist()):
        classes = range(len(values)) if nms.multi_label else [int(np.argmax(values))]
        usable = np.isfinite(boxes[row]).all()
        rows += [(-values[c], row, c) for c in classes if usable and values[c] >= np.float32(nms.confidence)]
    rows = [row for row in sorted(rows) if np.isfinite(row[0])][: nms.pool]
    kept = []
    for score, row, label in rows:
        rivals = [other for other in kept if nms.agnostic or other[2] == label]
        box = boxes[row].astype(np.float64).tolist()
        if all(textbook_iou(boxes[other[1]].astype(np.float64).tolist(), box) <= nms.iou for other in rivals):
            kept.append((score, row, label))
    kept = kept[: nms.limit]
    return [row for _, row, _ in kept], [label for _, _, label in kept], [-score for score, _, _ in kept]


@st.composite
def situations(draw):
    """A few boxes on a coarse grid (so that ties and equal overlaps are common) with coarse scores."""
    count, classes = draw(st.integers(0, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner, size = rng.integers(0, 12, (count, 2)), rng.integers(-1, 9, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    scores = (rng.integers(0, 8, (count, classes)) / 7).astype(np.float32)
    if draw(st.booleans()):
        odd = rng.random((count, 4)) < 0.03
        boxes[odd] = rng.choice([np.nan, np.inf, -np.inf, 3e38], odd.sum())
        odd = rng.random((count, classes)) < 0.03
        scores[odd] = rng.choice([np.nan, np.inf], odd.sum())
    nms = Nms(
        confidence=draw(st.sampled_from([0.0, 0.3, 1.0])),
        iou=draw(st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])),
        agnostic=draw(st.booleans()),
        multi_label=draw(st.booleans()),
        limit=draw(st.sampled_from([None, 1, 5])),
        pool=draw(st.sampled_from([None, 3, 20])),
    )
    return boxes, scores, nms


@given(situations())
@settings(max_examples=300, deadline=None)
def test_nms_equals_the_plain_reference(situation):
    boxes, scores, nms = situation
    rows, labels, values = textbook_nms(boxes, scores, nms)
    found_boxes, found_scores, found_labels = nms(boxes, scores)
    np.testing.assert_array_equal(found_boxes, boxes[rows])
    assert found_labels.tolist() == labels
    np.testing.assert_array_equal(found_scores, np.array(values, np.float32))
    assert (found_boxes.dtype, found_scores.dtype, found_labels.dtype) == (np.float32, np.float32, np.int64)


@given(situations())
@settings(max_examples=100, deadline=None)
def test_torch_tensors_give_the_same_as_arrays(situation):
    boxes, scores, nms = situation
    for array, tensor in zip(nms(boxes, scores), nms(torch.from_numpy(boxes), torch.from_numpy(scores))):
        np.testing.assert_array_equal(array, tensor)


def many(count, side, seed=0):
    rng = np.random.default_rng(seed)
    centre, size = rng.random((count, 2)) * 640, rng.random((count, 2)) * side + 2
    return np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32)


@pytest.mark.parametrize("side", [4, 60, 400])  # mostly apart, mixed, mostly overlapping
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_blocks_and_patches_do_not_change_the_result(side, threshold):
    boxes = many(1500, side)
    above = pairwise_iou(boxes.astype(np.float64), boxes.astype(np.float64)) > threshold
    keep = np.ones(len(boxes), bool)
    for row in range(len(boxes)):
        if keep[row]:
            keep[row + 1 :] &= ~above[row, row + 1 :]
    np.testing.assert_array_equal(greedy_nms(boxes, threshold), keep)


def test_thirty_thousand_candidates_need_no_loop_over_pairs():
    boxes = many(8400, 100)
    rng = np.random.default_rng(1)
    scores = (rng.random((8400, 80)) * (rng.random((8400, 80)) < 30000 / 8400 / 80)).astype(np.float32)
    found = []
    assert num_calls(lambda: found.append(Nms(0.001, 0.65, multi_label=True)(boxes, scores))) < 100_000
    assert len(found[0][0]) > 20000
    assert num_calls(lambda: greedy_nms(many(30000, 40), 0.65)) < 1_000_000  # of one class: 9e8 pairs


def test_equal_scores_are_ordered_by_row_then_class():
    boxes = np.array([[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]], np.float32)
    scores = np.array([[0.5, 0.5], [0.5, 0.9], [0.5, 0.5]], np.float32)
    found = Nms(0.1, multi_label=True)(boxes, scores)
    assert list(zip(found[0][:, 0].tolist(), found[2].tolist())) == [(5, 1), (0, 0), (0, 1), (5, 0), (9, 0), (9, 1)]


def test_an_overlap_equal_to_the_threshold_is_kept():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], np.float32)  # IoU 0.5
    scores = np.array([[0.9], [0.8]], np.float32)
    assert len(Nms(0.1, 0.5)(boxes, scores)[0]) == 2
    assert len(Nms(0.1, 0.499)(boxes, scores)[0]) == 1


def test_no_boxes_give_no_detections():
    for shape in [(0, 3), (5, 0), (5, 3)]:
        found = Nms()(np.zeros((shape[0], 4), np.float32), np.zeros(shape, np.float32))
        assert [part.shape for part in found] == [(0, 4), (0,), (0,)]


def test_a_batch_equals_its_images():
    rng = np.random.default_rng(3)
    boxes = np.stack([many(300, 80, seed) for seed in range(4)])
    scores = rng.random((4, 300, 5)).astype(np.float32) * np.array([1, 0, 1, 0.5], np.float32)[:, None, None]
    nms = Nms(0.4, 0.5)
    for whole, single in zip(nms.batch(boxes, scores), map(nms, boxes, scores)):
        for a, b in zip(whole, single):
            np.testing.assert_array_equal(a, b)


def test_half_precision_tensors_give_float32():
    boxes, scores = torch.rand(1, 9, 4).half(), torch.rand(1, 9, 3).half()
    ((found, values, labels),) = candidates(boxes, scores, 0.0)
    assert (found.dtype, values.dtype, labels.dtype, len(found)) == (np.float32, np.float32, np.int64, 9)


def test_top_k_takes_the_best_pairs_without_suppression():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    scores = np.array([[0.2, 0.9], [0.9, 0.1]], np.float32)
    found = TopK(3)(boxes, scores)
    assert found[1].tolist() == pytest.approx([0.9, 0.9, 0.2])
    assert found[2].tolist() == [1, 0, 0]
    assert len(TopK(3, confidence=0.5)(boxes, scores)[0]) == 2


@pytest.mark.parametrize(
    "wrong", [{"confidence": 1.5}, {"iou": -0.1}, {"iou": float("nan")}, {"limit": 0}, {"pool": -1}]
)
def test_settings_out_of_range_raise(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Nms(**wrong)
