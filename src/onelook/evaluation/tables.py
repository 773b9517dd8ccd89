"""Ground truth and detections of a whole data set as flat arrays.

Images and classes are rows of the ground truth's lists, never ids, so any id a data set uses survives: an id only
appears again when a results file is written. Boxes are COCO's here, [x, y, width, height] in pixels, float64, exactly
as the files hold them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.data.coco_file import CocoFile
from onelook.data.index import CROWD
from onelook.data.problems import Problems
from onelook.errors import DataError

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
        if not isinstance(annotations, Mapping):
            raise DataError(f"{source}: COCO annotations are a dictionary, not a {type(annotations).__name__}.")
        return GroundTruth.from_content(CocoFile(source, Problems(), boxes_only=True).read_dictionary(annotations))

    @staticmethod
    def from_content(file: CocoFile) -> GroundTruth:
        """From annotations that have been read; images and classes come in the order of their ids."""
        categories = file.sorted_categories()
        category_ids = [category[0] for category in categories]
        file.report_repeated_ids()
        ids, names = np.array(file.images.ids, np.int64), file.images.names.texts()
        order = np.argsort(ids)
        images, labels = file.references(ids[order], category_ids)
        return GroundTruth(
            ids[order],
            tuple(names[row] for row in order.tolist()),
            _distinct([category[1] for category in categories], category_ids),
            tuple(category_ids),
            images,
            labels,
            np.array(file.objects.boxes, np.float64).reshape(-1, 4),
            np.array(file.objects.areas, np.float64),
            np.frombuffer(bytes(file.objects.flags), np.uint8) & CROWD > 0,
        )

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
    def concatenate(parts: Sequence[Results]) -> Results:
        """Several tables as one, one after another; at least one."""
        return Results(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    @staticmethod
    def join(parts: Sequence[Results]) -> Results:
        """Several tables as one, sorted by image; inside an image the order is kept."""
        whole = Results.concatenate([*parts, Results.empty()])
        order = np.argsort(whole.images, kind="stable")
        return Results(whole.images[order], whole.labels[order], whole.boxes[order], whole.scores[order])

    def above(self, confidence: float) -> Results:
        """The detections with at least this score."""
        kept = self.scores >= confidence
        return Results(self.images[kept], self.labels[kept], self.boxes[kept], self.scores[kept])


def _distinct(names: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
    """Names by which classes can be told apart: one that two classes share is followed by the id."""
    counts = Counter(names)
    return tuple(f"{name} ({number})" if counts[name] > 1 else name for name, number in zip(names, ids))
