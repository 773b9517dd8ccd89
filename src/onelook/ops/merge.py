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
"""Non-maximum suppression drops a box that overlaps a better one; non-maximum merging makes one box around both."""


def merge_detections(
    views: Sequence[RawDetections], kind: MergeKind, threshold: float, *, agnostic: bool = False
) -> RawDetections:
    """Returns the detections of all views, merged, best first; the order of the views makes no difference.

    views: boxes in pixels of the whole image.  threshold: boxes of one class (`agnostic`: of all) are one object where
    they share more than this part of the smaller box.  A merged detection has score and label of the best. Boxes that
    are not finite are left out.
    """
    boxes, scores, labels = (np.concatenate(column) for column in zip(*views))
    kept = np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(scores))
    kept = kept[_canonical_order(boxes[kept], scores[kept], labels[kept])]
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    groups = [np.arange(len(boxes))] if agnostic else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    keep = np.zeros(len(boxes), bool)
    for rows in groups:
        if kind == "nms":
            keep[rows] = greedy_nms(boxes[rows], threshold, pairwise_overlap_of_smaller)
        else:
            keep[rows], boxes[rows] = merge_non_maximum(boxes[rows], threshold)
    return boxes[keep], scores[keep], labels[keep]


def merge_non_maximum(boxes: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Greedy non-maximum merging of boxes (K, 4), best first: returns a mask (K,) and the boxes (K, 4).

    The best box that is left takes all that share more than `threshold` of the smaller with it, and becomes the box
    around them.
    """
    compared, merged = boxes.astype(np.float64), boxes.copy()
    keep = np.zeros(len(boxes), bool)
    left = np.arange(len(boxes))
    while left.size:
        best, left = left[0], left[1:]
        keep[best] = True
        taken = pairwise_overlap_of_smaller(compared[best : best + 1], compared[left])[0] > threshold
        group = boxes[np.append(left[taken], best)]
        merged[best, :2], merged[best, 2:] = group[:, :2].min(0), group[:, 2:].max(0)
        left = left[~taken]
    return keep, merged


def _canonical_order(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows by descending score, then by label and box: an order that does not depend on the one they come in."""
    return np.lexsort((*boxes.T[::-1], labels, -scores))
