"""Post-processing: turns a network's boxes and scores into detections, by non-maximum suppression or top-k.

NumPy only. `candidates` also accepts torch tensors and filters them on their device, so that only candidates are copied
to the host. A postprocess is a frozen value (`Nms`, `TopK`); other kinds of suppression are other values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args

import numpy as np

from onelook.errors import UsageError
from onelook.ops.numpy_iou import pairwise_distance_iou, pairwise_iou

RawDetections = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (K, 4) float32 xyxy, scores (K,) float32 descending, labels (K,) int64 of one image."""

Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function of (n, 4) and (m, 4) float64 boxes; returns their overlap (n, m), at most 0 for boxes that do not touch."""

NmsKind = Literal["iou", "diou", "linear", "gaussian"]

_BLOCK = 256  # rows compared at once: their matrix stays in the cache
_SLAB, _PATCH = 64, 16  # rows of a block that are neighbours in x, and of those in y


class Postprocess(Protocol):
    """Selects detections from the decoded boxes and class scores of one image, or of a batch."""

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        """Returns the detections of one image from boxes (N, 4) and scores (N, C)."""
        ...

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        """Returns the detections of each image from boxes (B, N, 4) and scores (B, N, C), NumPy or torch."""
        ...


@dataclass(frozen=True)
class Nms:
    """Greedy non-maximum suppression: removes a box whose IoU with a kept box of higher score is above `iou`.

    confidence: minimum score, inclusive.  iou: maximum allowed IoU, inclusive.  agnostic: whether boxes of different
    classes suppress each other.  multi_label: whether one row may be a detection of every class above `confidence`
    (YOLOv7's evaluation), or only of its best class.  limit: maximum number of detections.  pool: maximum number of
    candidates, those of highest score (YOLOv7 30,000); None is all.  clip: whether the kept boxes are clipped to the
    image, once they are in its pixels (the published evaluations of YOLOv4 and YOLOv7); suppression compares unclipped
    boxes.

    kind: "diou" subtracts (d^2 / c^2) ^ `distance_power` from the IoU, d the distance of the centres and c the diagonal
        of the enclosing box, so that distant boxes are kept (DIoU-NMS, Zheng et al. 2020, with a power of 1;
        Darknet's "greedynms" and "diounms" have 0.6). "linear" and "gaussian" remove no box, but multiply the score of
        a box that overlaps a better one: by 1 - IoU where it is above `iou`, or by exp(-IoU^2 / `sigma`) (soft-NMS,
        Bodla et al. 2017); boxes whose score falls below `confidence` are then dropped.

    Equal scores are ordered by row, then class. Rows with a non-finite box or best score are dropped. Boxes without
    area overlap nothing. IoU is computed in float64.
    """

    confidence: float = 0.25
    iou: float = 0.45
    agnostic: bool = False
    multi_label: bool = False
    limit: int | None = None
    pool: int | None = None
    kind: NmsKind = "iou"
    distance_power: float = 0.6
    sigma: float = 0.5
    clip: bool = False

    def __post_init__(self) -> None:
        _check_fraction("confidence", self.confidence)
        _check_fraction("iou", self.iou)
        _check_count("limit", self.limit)
        _check_count("pool", self.pool)
        if self.kind not in get_args(NmsKind):
            raise UsageError(f"There is no NMS of the kind '{self.kind}'.", f"Known: {', '.join(get_args(NmsKind))}.")
        if self.distance_power <= 0 or self.sigma <= 0:
            raise UsageError("'distance_power' and 'sigma' must be above 0.")

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        return self.batch(boxes[None], scores[None])[0]

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        return [self.suppress(*found) for found in candidates(boxes, scores, self.confidence, self.multi_label)]

    def suppress(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> RawDetections:
        """Returns the kept ones of boxes (K, 4), scores (K,) and labels (K,) given in row order; best first."""
        order = order_by_score(scores)[: self.pool]
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        groups = [np.arange(len(boxes))]
        if not self.agnostic:
            by_class = np.argsort(labels, kind="stable")
            groups = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
        if self.kind in ("linear", "gaussian"):
            return self._soft_nms(boxes, scores, labels, groups)
        keep = np.zeros(len(boxes), bool)
        overlap = partial(pairwise_distance_iou, power=self.distance_power) if self.kind == "diou" else pairwise_iou
        for rows in groups:
            keep[rows] = greedy_nms(boxes[rows], self.iou, overlap)
        chosen = np.flatnonzero(keep)[: self.limit]
        return boxes[chosen], scores[chosen], labels[chosen]

    def _soft_nms(
        self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, groups: list[np.ndarray]
    ) -> RawDetections:
        lowered = np.empty_like(scores)
        for rows in groups:
            lowered[rows] = soft_nms(boxes[rows], scores[rows], self.iou if self.kind == "linear" else None, self.sigma)
        order = order_by_score(lowered)
        chosen = order[lowered[order] >= self.confidence][: self.limit]
        return boxes[chosen], lowered[chosen], labels[chosen]


@dataclass(frozen=True)
class TopK:
    """Keeps the `limit` detections of highest score, without suppression: for heads trained one to one.

    confidence: minimum score, inclusive.  Order, non-finite values and `clip` as in `Nms`.
    """

    limit: int = 300
    confidence: float = 0.0
    multi_label: bool = True
    clip: bool = False

    def __post_init__(self) -> None:
        _check_fraction("confidence", self.confidence)
        _check_count("limit", self.limit)

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        return self.batch(boxes[None], scores[None])[0]

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        found = []
        for image_boxes, image_scores, labels in candidates(boxes, scores, self.confidence, self.multi_label):
            order = order_by_score(image_scores)[: self.limit]
            found.append((image_boxes[order], image_scores[order], labels[order]))
        return found


def clips(postprocess: Postprocess) -> bool:
    """Returns whether boxes are clipped to the image; kinds of postprocessing without that setting do not."""
    return getattr(postprocess, "clip", False) is True


def with_clip(postprocess: Postprocess, clip: bool | None) -> Postprocess:
    """Returns `postprocess` with boxes clipped to the image or not; None keeps its own setting.

    UsageError for a kind without the setting.
    """
    if clip is None or clip == clips(postprocess):
        return postprocess
    if not isinstance(postprocess, Nms | TopK):
        raise UsageError(f"{type(postprocess).__name__} cannot clip boxes.", "Give an Nms or a TopK.")
    return replace(postprocess, clip=clip)


def with_thresholds(
    postprocess: Postprocess, confidence: float, iou: float, agnostic: bool | None = None
) -> Postprocess:
    """Returns `postprocess` with other thresholds, as far as it has them; `agnostic` None keeps its own."""
    if isinstance(postprocess, Nms):
        agnostic = postprocess.agnostic if agnostic is None else agnostic
        return replace(postprocess, confidence=confidence, iou=iou, agnostic=agnostic)
    return replace(postprocess, confidence=confidence) if isinstance(postprocess, TopK) else postprocess


def candidates(boxes: Any, scores: Any, confidence: float, multi_label: bool = False) -> list[RawDetections]:
    """Returns the rows of each image whose best class (`multi_label`: every class) scores at least `confidence`.

    boxes (B, N, 4), scores (B, N, C): NumPy arrays or torch tensors of any float type on any device. Results are in row
    order, not sorted by score; rows with non-finite values are dropped. Without classes (C = 0) there are none.
    """
    if scores.shape[-1] == 0 or scores.shape[-2] == 0:
        return [_empty() for _ in range(len(scores))]
    if hasattr(scores, "detach"):  # torch
        boxes, scores = boxes.detach(), scores.detach()
        if multi_label:
            images, rows, labels = (scores >= confidence).nonzero(as_tuple=True)
            best = scores[images, rows, labels]
        else:
            highest, winners = scores.max(-1)
            images, rows = (highest >= confidence).nonzero(as_tuple=True)
            best, labels = highest[images, rows], winners[images, rows]
        chosen = boxes[images, rows].float().cpu().numpy()
        best, labels, images = best.float().cpu().numpy(), labels.cpu().numpy(), images.cpu().numpy()
    else:
        if multi_label:
            images, rows, labels = (scores >= confidence).nonzero()
            best = scores[images, rows, labels]
        else:
            images, rows = _rows_with_a_score(scores, confidence)
            labels = scores[images, rows].argmax(-1)
            best = scores[images, rows, labels]
        chosen = boxes[images, rows].astype(np.float32)
        best, labels = best.astype(np.float32), labels.astype(np.int64)
    finite = np.isfinite(best) & np.isfinite(chosen).all(-1)
    if not finite.all():
        chosen, best, labels, images = chosen[finite], best[finite], labels[finite], images[finite]
    ends = np.searchsorted(images, np.arange(len(scores) + 1))
    return [(chosen[a:b], best[a:b], labels[a:b]) for a, b in pairwise(ends)]


def _rows_with_a_score(scores: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Images and rows of scores (B, N, C) with a class of at least `confidence`; no maximum of every row is needed."""
    found = np.flatnonzero(scores.reshape(-1) >= confidence) // scores.shape[-1]
    first = np.ones(len(found), bool)
    np.not_equal(found[1:], found[:-1], out=first[1:])
    images, rows = np.divmod(found[first], scores.shape[-2])
    return images, rows


def order_by_score(scores: np.ndarray) -> np.ndarray:
    """Returns the row indices by descending score, equal scores in row order."""
    return np.argsort(-scores, kind="stable")


def soft_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float | None, sigma: float) -> np.ndarray:
    """Returns the scores (K,) of boxes (K, 4) after soft-NMS (Bodla et al. 2017, fig. 2).

    Linear decay above `threshold`, Gaussian decay if that is None. In each of K passes, the best remaining box lowers
    the scores of all other remaining boxes.
    """
    scores = scores.astype(np.float64)
    boxes = boxes.astype(np.float64)
    left = np.arange(len(scores))
    result = np.empty_like(scores)
    while left.size:
        best = left[np.argmax(scores[left])]  # the first of equals
        result[best] = scores[best]
        left = left[left != best]
        iou = pairwise_iou(boxes[best : best + 1], boxes[left])[0]
        scores[left] *= np.exp(-(iou**2) / sigma) if threshold is None else np.where(iou > threshold, 1 - iou, 1.0)
    return result.astype(np.float32)


def greedy_nms(boxes: np.ndarray, threshold: float, overlap: Overlap = pairwise_iou) -> np.ndarray:
    """Returns a mask (K,) of the boxes (K, 4), best first, that greedy NMS keeps; exact, without a K x K matrix."""
    count = len(boxes)
    if count < 2 or threshold >= 1:
        return np.ones(count, bool)
    boxes = boxes.astype(np.float64)
    keep = np.zeros(count, bool)
    kept = np.empty((4, count))  # as columns: comparing one edge of all boxes reads memory in order
    size = 0
    for start in range(0, count, _BLOCK):
        block = boxes[start : start + _BLOCK]
        rows = np.flatnonzero(~_suppressed(block, kept[:, :size], threshold, overlap))
        block = block[rows]
        above = np.triu(overlap(block, block) > threshold, 1)
        alive = np.ones(len(rows), bool)
        for row in np.flatnonzero(above.any(1)):
            if alive[row]:
                alive &= ~above[row]
        end = size + int(alive.sum())
        kept[:, size:end] = block[alive].T
        size = end
        keep[start + rows[alive]] = True
    return keep


def _suppressed(block: np.ndarray, kept: np.ndarray, threshold: float, overlap: Overlap) -> np.ndarray:
    """Returns a mask (n,) of the boxes of a block that overlap one of the kept boxes (4, k) by more than the threshold.

    The block is divided into patches of neighbouring boxes; each is compared only with the kept boxes near it, so that
    many small boxes cost little.
    """
    found = np.zeros(len(block), bool)
    left, top, right, bottom = kept
    if not left.size:
        return found
    by_left = np.argsort(block[:, 0])
    for slab in np.split(by_left, range(_SLAB, len(block), _SLAB)):
        by_top = slab[np.argsort(block[slab, 1])]
        for rows in np.split(by_top, range(_PATCH, len(slab), _PATCH)):
            patch = block[rows]
            near = (left < patch[:, 2].max()) & (right > patch[:, 0].min())
            near &= (top < patch[:, 3].max()) & (bottom > patch[:, 1].min())
            columns = np.flatnonzero(near)
            if columns.size:
                found[rows] = (overlap(patch, kept[:, columns].T) > threshold).any(1)
    return found


def _empty() -> RawDetections:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)


def _check_fraction(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"'{name}' is {value}.", f"Give '{name}' a number from 0 to 1.")


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise UsageError(f"'{name}' is {value}.", f"Give '{name}' a whole number above 0, or None.")
