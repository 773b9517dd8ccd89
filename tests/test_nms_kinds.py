"""Other ways of suppressing: by distance too (as Darknet), and by lowering scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.api.bench import NoPostprocess
from onelook.errors import ExportError, UsageError
from onelook.exporting.nms import append_nms
from onelook.networks.variants import variant
from onelook.ops.nms import (
    Nms,
    NmsKind,
    clips,
    greedy_nms,
    pairwise_distance_iou,
    pairwise_iou,
    soft_nms,
    with_clip,
)
from onelook.predict.runtime import PostprocessKind, postprocess_of_kind, postprocess_steps_of
from shared import needs_shared, reference


@pytest.fixture(scope="module")
def darknet() -> dict[str, np.ndarray]:
    with np.load(reference("yolov4") / "nms.npz") as file:
        arrays = dict(file)
    centre, half = arrays["boxes"][:, :2], arrays["boxes"][:, 2:] / 2
    return arrays | {"xyxy": np.concatenate((centre - half, centre + half), 1)}


@needs_shared
@pytest.mark.parametrize("threshold", [0.45, 0.6])
@pytest.mark.parametrize("name", ["default", "greedynms", "diounms"])
def test_kept_boxes_are_darknets(darknet: dict[str, np.ndarray], name: str, threshold: float) -> None:
    kind: Any = "iou" if name == "default" else "diou"
    postprocess = Nms(1e-6, threshold, multi_label=True, kind=kind)
    boxes, scores, labels = postprocess(darknet["xyxy"], darknet["probabilities"])
    kept = np.zeros_like(darknet["probabilities"])
    for box, score, label in zip(boxes, scores, labels):
        row = np.flatnonzero((darknet["xyxy"] == box).all(1) & (darknet["probabilities"][:, label] == score))
        kept[row, label] = score
    np.testing.assert_array_equal(kept, darknet[f"{name}_{round(threshold * 100):02d}".replace("_60", "_6")])


@needs_shared
@pytest.mark.parametrize("threshold", [0.45, 0.6])
def test_kept_boxes_by_objectness_are_darknets(darknet: dict[str, np.ndarray], threshold: float) -> None:
    order = np.argsort(-darknet["objectness"], kind="stable")
    kept = np.zeros(len(order), bool)
    kept[order] = greedy_nms(darknet["xyxy"][order], threshold)
    expected = darknet["objectness_45" if threshold == 0.45 else "objectness_6"]
    np.testing.assert_array_equal(np.where(kept[:, None], darknet["probabilities"], 0), expected)


def scattered(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(1, 40, (count, 2))), 1)
    return boxes.astype(np.float32), rng.uniform(0.05, 1, (count, 2)).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 25), st.sampled_from([0.3, 0.5, 0.7]))
def test_diou_nms_equals_the_plain_loop(seed: int, count: int, threshold: float) -> None:
    boxes, scores = scattered(seed, count)
    found = Nms(0.1, threshold, kind="diou").suppress(boxes, scores[:, 0], np.zeros(count, np.int64))
    left = np.argsort(-scores[:, 0], kind="stable").tolist()
    expected = []
    while left:
        best = left.pop(0)
        expected.append(best)
        pair = pairwise_distance_iou(boxes[[best]].astype(float), boxes[left].astype(float), 0.6)
        left = [row for row, overlap in zip(left, pair[0]) if overlap <= threshold]
    np.testing.assert_array_equal(found[1], scores[expected, 0])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 25))
def test_diou_nms_keeps_more_than_iou_nms(seed: int, count: int) -> None:
    boxes, _ = scattered(seed, count)
    plain, distant = pairwise_iou(boxes, boxes), pairwise_distance_iou(boxes, boxes)
    assert (distant <= plain).all()
    np.testing.assert_allclose(np.diag(distant), 1, rtol=1e-5)
    assert (distant[plain == 0] <= 0).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 20), st.sampled_from([None, 0.4]))
def test_soft_nms_lowers_scores_and_keeps_all_boxes(seed: int, count: int, threshold: float | None) -> None:
    boxes, scores = scattered(seed, count)
    lowered = soft_nms(boxes, scores[:, 0], threshold, 0.5)
    assert (lowered <= scores[:, 0] + 1e-6).all() and (lowered > 0).all()
    if count:
        assert lowered[scores[:, 0].argmax()] == scores[:, 0].max()
    apart = np.array([[100.0 * i, 0, 100 * i + 50, 50] for i in range(count)], np.float32).reshape(-1, 4)
    np.testing.assert_allclose(soft_nms(apart, scores[:, 0], threshold, 0.5), scores[:, 0], rtol=1e-6)


def test_soft_nms_scores_are_those_of_the_paper() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [100, 0, 110, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    labels = np.zeros(3, np.int64)
    _, linear, _ = Nms(0.1, 0.3, kind="linear").suppress(boxes, scores, labels)
    np.testing.assert_allclose(linear, [0.9, 0.7, 0.4])
    _, gaussian, _ = Nms(0.1, 0.3, kind="gaussian").suppress(boxes, scores, labels)
    np.testing.assert_allclose(gaussian, [0.9, 0.7, 0.8 * np.exp(-0.25 / 0.5)], rtol=1e-6)
    assert len(Nms(0.45, 0.3, kind="linear").suppress(boxes, scores, labels)[1]) == 2
    others = np.array([0, 1, 0])
    assert len(Nms(0.45, 0.3, kind="linear").suppress(boxes, scores, others)[1]) == 3


def test_unknown_or_unsuitable_kinds_raise() -> None:
    with pytest.raises(UsageError, match="no NMS of the kind 'hard'"):
        Nms(kind="hard")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="above 0"):
        Nms(sigma=0)
    with pytest.raises(ExportError, match="cannot be of the kind 'diou'"):
        append_nms(None, Nms(kind="diou"), 1, 1)  # type: ignore[arg-type]


def test_another_kind_keeps_the_multi_label_setting() -> None:
    natural = Nms(multi_label=True)
    kinds: dict[str, NmsKind] = {"nms": "iou", "diou": "diou", "soft": "gaussian"}
    for name, kind in kinds.items():
        assert postprocess_of_kind(name, natural) == replace(natural, kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "clip"), [("yolov4-tiny", True), ("yolov7-tiny", True), ("yolox-nano", False), ("damo-yolo-ns", False)]
)
def test_evaluation_clips_boxes_where_the_family_s_published_one_does(name: str, clip: bool) -> None:
    detecting, evaluating = postprocess_steps_of(variant(name).architecture)
    assert clips(evaluating) is clip and not clips(detecting)
    for kind in get_args(PostprocessKind):
        assert clips(postprocess_of_kind(kind, evaluating)) is clip
    assert clips(with_clip(evaluating, not clip)) is not clip
    assert with_clip(evaluating, None) is evaluating


def test_an_own_kind_of_postprocessing_is_not_made_to_clip() -> None:
    with pytest.raises(UsageError, match="NoPostprocess cannot clip boxes"):
        with_clip(NoPostprocess(), True)
