"""Merges the detections of several views of one image, such as tiles that overlap. NumPy only.

A border of a view cuts objects, and the box of a part has a low IoU with that of the whole object. So boxes are
compared by their intersection as a share of the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from onelook.ops.nms import RawDetections, greedy_nms
from onelook.ops.numpy_iou import pairwise_overlap_of_smaller

MergeKind = Literal["nms", "nmm"]
"""Non-maximum suppression drops a box that overlaps a better one; non-maximum merging makes one box around both, where
both are parts of an object that borders have cut."""

_PART_RANK = 0.5  # by which the score of a cut box counts in the order: of a large object, parts may score higher
_LEAST_PART = 0.5  # score of a part, in scores of the best one: weaker boxes are often larger than the object


def merge_detections(
    views: Sequence[RawDetections],
    kind: MergeKind,
    threshold: float,
    *,
    cut: Sequence[np.ndarray] | None = None,
    agnostic: bool = False,
) -> RawDetections:
    """Returns the detections of all views, merged, best first; the order of the views makes no difference.

    views: boxes in pixels of the whole image.  threshold: boxes of one class (`agnostic`: of all) are one object where
    they share more than this part of the smaller box.  cut: (K,) bool of each view, the boxes that its border has cut;
    None is all.

    Boxes are best by score, with those that are cut at half of it, so that parts do not suppress the whole. A merged
    detection has score and label of the best. Boxes that are not finite are left out.
    """
    boxes, scores, labels = (np.concatenate(column) for column in zip(*views))
    parts = np.ones(len(boxes), bool) if cut is None else np.concatenate(cut)
    kept = np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(scores))
    # Whole objects come before parts of them; the rest of the order is for that it does not depend on the views' one.
    ranks = np.where(parts, _PART_RANK, 1) * scores
    kept = kept[np.lexsort((parts[kept], *boxes[kept].T[::-1], labels[kept], -scores[kept], -ranks[kept]))]
    boxes, scores, labels, parts = boxes[kept], scores[kept], labels[kept], parts[kept]
    groups = [np.arange(len(boxes))] if agnostic else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    keep = np.zeros(len(boxes), bool)
    for rows in groups:
        if kind == "nms":
            keep[rows] = greedy_nms(boxes[rows], threshold, pairwise_overlap_of_smaller)
        else:
            keep[rows], boxes[rows] = merge_non_maximum(boxes[rows], scores[rows], parts[rows], threshold)
    best = np.flatnonzero(keep)
    best = best[np.argsort(-scores[best], kind="stable")]
    return boxes[best], scores[best], labels[best]


def merge_non_maximum(
    boxes: np.ndarray, scores: np.ndarray, cut: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy non-maximum merging of boxes (K, 4), best first: returns a mask (K,) and the boxes (K, 4).

    The best box that is left takes all that share more than `threshold` of the smaller with it. Where it is `cut`, it
    becomes the box around itself and those of them that are cut, too, and have at least half of its score.
    """
    compared, merged = boxes.astype(np.float64), boxes.copy()
    keep = np.zeros(len(boxes), bool)
    left = np.arange(len(boxes))
    while left.size:
        best, left = left[0], left[1:]
        keep[best] = True
        taken = pairwise_overlap_of_smaller(compared[best : best + 1], compared[left])[0] > threshold
        parts = left[taken & cut[left] & cut[best] & (scores[left] >= _LEAST_PART * scores[best])]
        group = boxes[np.append(parts, best)]
        merged[best, :2], merged[best, 2:] = group[:, :2].min(0), group[:, 2:].max(0)
        left = left[~taken]
    return keep, merged
