"""What an evaluation compares, as flat arrays: the annotated objects and the detections of a whole data set.

Images and classes are rows of the ground truth's lists, never ids, so any id a data set uses survives: an id only
appears again when a results file is written. Boxes are COCO's here, [x, y, width, height] in pixels, float64, exactly
as the files hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGEST = 1e9  # pixels; beyond any image, and far below where an area stops being a finite number


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated objects of a data set.

    image_ids: (I,) int64 ascending: equal scores are ranked by image id, so the order counts.  files: I names for
    people.  names, category_ids: one entry a class, by label.  images: (M,) row of the image.  labels: (M,).
    boxes: (M, 4).  areas: (M,) square pixels, which decide small, medium and large (in COCO, of the mask).
    crowds: (M,) bool.
    """

    image_ids: np.ndarray
    files: tuple[str, ...]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray

    @staticmethod
    def from_coco(annotations: Mapping[str, Any], source: str = "the annotations") -> GroundTruth:
        """From a COCO instances dictionary; classes come in the order of their ids.

        A missing `area` is the box's, a missing `iscrowd` 0. Raises DataError naming `source` and the id of what is
        wrong: a missing key, an id that is no whole number or occurs twice, a reference to nothing, an unusable box.
        """
        from onelook.evaluation.annotations import ground_truth

        return ground_truth(annotations, source)

    def rows_of_images(self, image_ids: np.ndarray) -> np.ndarray:
        """(K,) ids -> (K,) rows of `image_ids`, -1 where an id is unknown."""
        if len(self.image_ids) == 0:
            return np.full(len(image_ids), -1, np.int64)
        rows = np.searchsorted(self.image_ids, image_ids).clip(max=len(self.image_ids) - 1)
        return np.where(self.image_ids[rows] == image_ids, rows, -1)


@dataclass(frozen=True, eq=False)
class Results:
    """The detections of a data set, in the order of their file or of the images; ties in score keep that order.

    images: (K,) row of the ground truth's images.  labels: (K,) int64.  boxes: (K, 4).  scores: (K,) float64.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def empty() -> Results:
        """No detections."""
        none = np.zeros(0, np.int64)
        return Results(none, none, np.zeros((0, 4)), np.zeros(0))

    @staticmethod
    def join(parts: Sequence[Results]) -> Results:
        """Several tables as one, sorted by image; inside an image the order is kept."""
        parts = [*parts, Results.empty()]
        images = np.concatenate([part.images for part in parts])
        order = np.argsort(images, kind="stable")
        return Results(
            images[order],
            np.concatenate([part.labels for part in parts])[order],
            np.concatenate([part.boxes for part in parts])[order],
            np.concatenate([part.scores for part in parts])[order],
        )

    def above(self, confidence: float) -> Results:
        """The detections with at least this score."""
        kept = self.scores >= confidence
        return Results(self.images[kept], self.labels[kept], self.boxes[kept], self.scores[kept])


def shown(value: object) -> str:
    """A value from a file as an error message may show it: one short line of printable characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole_number(value: object) -> int | None:
    """The int that a JSON number stands for (7 or 7.0), None for anything else; what int64 cannot hold is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def box_problem(box: object) -> str:
    """What is wrong with a COCO box, or ''."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return f"'bbox' must be a list of 4 numbers [x, y, width, height], not {shown(box)}"
    for name, value in zip(("x", "y", "width", "height"), box):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"'bbox' must hold 4 numbers, but its {name} is {shown(value)}"
        if not -LARGEST <= value <= LARGEST:
            return f"'bbox' has {name} {shown(value)}, which is not a finite number of pixels below {LARGEST:.0e}"
    if box[2] < 0 or box[3] < 0:
        return f"'bbox' has a negative size: width {shown(box[2])}, height {shown(box[3])}"
    return ""
