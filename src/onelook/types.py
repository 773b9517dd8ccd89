"""The data types that the parts of the library exchange (the shape letters are the same everywhere).

B images, N priors, M objects, P pairs, C classes, K detections, R raw regression values a prior. Boxes are xyxy in
pixels. All types are frozen: a part returns a new value and does not change its input. Images, samples and detections
are NumPy arrays (no torch is needed to detect with an exported model); a network's inputs and outputs are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from onelook.errors import UserError, missing_package

if TYPE_CHECKING:
    import pandas
    import polars
    import supervision
    from torch import Tensor

    Pyramid = tuple[Tensor, ...]  # feature maps (B, channels, H / stride, W / stride), finest first

UNDEFINED = -1.0  # value of a metric without any object to compute it from, as in COCO's own tool
NOTHING = "\N{EN DASH}"  # in tables: undefined, or unknown


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated image: what data sets return and augmentations change.

    image: (H, W, 3) uint8 RGB.  boxes: (M, 4) float32 xyxy pixels of this image.  labels: (M,) int64.
    polygons: None where the data has no masks, else one entry per object: a tuple of (V, 2) float32 polygons in pixels,
    empty for an object without any.  shares: None in detection; (M,) float32 in classification, where the "objects"
    are the classes of the whole image: the part of the image that shows each class, with sum 1.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    polygons: tuple[tuple[np.ndarray, ...], ...] | None = None
    shares: np.ndarray | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"<Sample: image of {height} x {width} pixels, {len(self.labels)} objects>"


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of a batch, padded to the largest number of objects; boxes in pixels of the network input.

    boxes: (B, M, 4) float.  labels: (B, M) int64.  valid: (B, M) bool; invalid rows are padding and hold zeros.
    shares: (B, M) float, see `Sample`; None in detection.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    shares: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> Targets:
        """The same targets on another device (`Tensor.to` arguments that do not change the dtype)."""
        shares = None if self.shares is None else self.shares.to(*args, **kwargs)
        boxes, labels, valid = (value.to(*args, **kwargs) for value in (self.boxes, self.labels, self.valid))
        return Targets(boxes, labels, valid, shares)


@dataclass(frozen=True, eq=False)
class Priors:
    """The anchor points or anchor boxes of all predictions, one a row: level by level, in the family's order.

    Levels go from the finest to the coarsest, except where official files have another order (YOLOv4-tiny).

    points: (N, 2) x, y in pixels of the network input: the centre of the cell (its corner in DAMO-YOLO).
    strides: (N,) pixels.  sizes: (N, 2) anchor width and height in pixels, None for anchor-free heads.
    levels: (N,) int64, 0 for the level of the first rows.  shapes: (height, width) of every level's grid, in the order
    of rows and as Python numbers, so that they can be read without waiting for the device; () where not given.
    """

    points: Tensor
    strides: Tensor
    levels: Tensor
    sizes: Tensor | None = None
    shapes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Predictions:
    """The output of every head, the same in training and in evaluation.

    boxes: (B, N, 4) decoded, xyxy pixels of the network input.  classes: (B, N, C) logits.
    objectness: (B, N) logits, None where the head has none.  regression: (B, N, R) raw regression values in the layout
    of the head (R = 4, or 4 * bins for distributions).  auxiliary: the same of an auxiliary head, only in training.
    scored_by_objectness: whether objectness alone is the score, as in models with a single class.
    unique: (B, N) logits that a prior is the only one to detect its object, from heads that need no NMS, else None.
    certainty: (B, N) in [0, 1], a factor on all scores of a prior, None where the head does not predict one.
    """

    boxes: Tensor
    classes: Tensor
    objectness: Tensor | None
    regression: Tensor
    priors: Priors
    auxiliary: Predictions | None = None
    scored_by_objectness: bool = False
    unique: Tensor | None = None
    certainty: Tensor | None = None

    def scores(self) -> Tensor:
        """(B, N, C) final class scores in [0, 1]: class probability, times objectness, uniqueness, certainty."""
        if self.scored_by_objectness and self.objectness is not None:
            return self.objectness.sigmoid().unsqueeze(-1).expand_as(self.classes)
        scores = self.classes.sigmoid()
        for factor in (self.objectness, self.unique):
            if factor is not None:
                scores = scores * factor.sigmoid().unsqueeze(-1)
        return scores if self.certainty is None else scores * self.certainty.unsqueeze(-1)


@dataclass(frozen=True, eq=False)
class Matches:
    """The pairs (prior, object) that are trained together, as a padded list. Fixed shapes avoid waiting for the device.

    priors, objects: (B, P) int64 row of the prior and of the object.  quality: (B, P) in [0, 1], the soft class target.
    valid: (B, P) bool; the rest is padding that indexes row 0.  ignored: (B, N) bool priors that are neither positive
    nor negative, None where the assigner has no such priors. A prior may have several objects where the paper allows it
    (YOLOv4).
    objectness: (B, N) the objectness target of every prior, None where that is 1 with an object and 0 without.
    """

    priors: Tensor
    objects: Tensor
    quality: Tensor
    valid: Tensor
    ignored: Tensor | None = None
    objectness: Tensor | None = None


def text_repr(value: object) -> str:
    """A short `__repr__` of a result, as a notebook shows it: the type, and the text of `str(value)`."""
    name, text = type(value).__name__, str(value)
    return f"<{name}>\n{text}" if "\n" in text else f"<{name}: {text}>"


_SHOWN = 8  # detections in a repr: an image may have hundreds


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    boxes: (K, 4) float32 xyxy pixels of the original image (unclipped).  scores: (K,) float32 descending.  labels: (K,)
    int64 index into `class_names`.  class_names: of the model, by label; () where unknown.  image: (H, W, 3) uint8 RGB,
    the image itself, where it was kept.  source: the file it came from.  category_ids: the data set's own ids by label,
    for `to_coco`.  frame: number of the frame in a video, from 0.  size: (height, width) of the image, also where it
    was not kept.  read_image: reads the image again where it was not kept, for `save`.  tracks: (K,) int64 identities
    of the objects in their video, from 1; None without tracking.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    image: np.ndarray | None = field(default=None, repr=False)
    source: str | None = None
    category_ids: tuple[int, ...] | None = field(default=None, repr=False)
    frame: int | None = None
    size: tuple[int, int] | None = None
    read_image: Callable[[], np.ndarray] | None = field(default=None, repr=False)
    tracks: np.ndarray | None = None

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names[:_SHOWN], self.scores.tolist()))
        more = ", ..." if len(self) > _SHOWN else ""
        return f"Detections({len(self)}{': ' if len(self) else ''}{found}{more})"

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | np.ndarray) -> Detections:
        """The detections at an index, slice, mask or list of rows; a single index returns one detection."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        tracks = None if self.tracks is None else self.tracks[rows]
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows], tracks=tracks)

    @staticmethod
    def empty(class_names: tuple[str, ...] = ()) -> Detections:
        """No detections."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), class_names)

    @property
    def names(self) -> list[str]:
        """The class name of every detection; the label's number where the model has no names."""
        known = self.class_names
        return [known[label] if label < len(known) else str(label) for label in self.labels.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """One image's entry of `detections.json`: source, size, and each detection's box, score, label and name.

        With tracking also its track.
        """
        known = self.image.shape[:2] if self.image is not None else self.size
        height, width = (None, None) if known is None else known
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names)
        found = [{"box": box, "score": score, "label": label, "name": name} for box, score, label, name in rows]
        for entry, track in zip(found, [] if self.tracks is None else self.tracks.tolist()):
            entry["track"] = track
        return {"source": self.source, "frame": self.frame, "width": width, "height": height, "detections": found}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO results file; bbox is [x, y, width, height], category ids the data set's, else labels."""
        ids = self.category_ids
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        return [
            {
                "image_id": image_id,
                "category_id": label if ids is None else ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in rows
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each detection, best first (needs the `pandas` extra).

        The columns have the names of `detections.csv`: x1, y1, x2, y2 in pixels of the original image and score
        (float32), label (int64), name. Without detections it has the columns and no row.
        """
        try:
            import pandas
        except ImportError as error:
            raise missing_package("pandas", "to_pandas()") from error
        table = pandas.DataFrame(self.boxes.astype(np.float32), columns=["x1", "y1", "x2", "y2"])
        return table.assign(
            score=self.scores.astype(np.float32),
            label=self.labels.astype(np.int64),
            name=np.array(self.names, dtype=object),
        )

    def to_polars(self) -> polars.DataFrame:
        """The same table as `to_pandas`, of Polars (needs the `polars` extra)."""
        try:
            import polars
        except ImportError as error:
            raise missing_package("polars", "to_polars()") from error
        columns = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.astype(np.float32).reshape(-1, 4).T))
        columns |= {"score": self.scores.astype(np.float32), "label": self.labels.astype(np.int64)}
        return polars.DataFrame(columns).with_columns(polars.Series("name", self.names, polars.String))

    def to_supervision(self) -> supervision.Detections:
        """Converts to a `supervision.Detections` (needs the `supervision` extra)."""
        try:
            import supervision
        except ImportError as error:
            raise missing_package("supervision", "to_supervision()") from error
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            tracker_id=self.tracks,
            data={"class_name": np.array(self.names, dtype=object)},
        )

    def plot(self, image: np.ndarray | None = None, *, bgr: bool = False) -> np.ndarray:
        """Draws boxes, names and scores on a copy of the image; returns it: (H, W, 3) uint8 RGB, for a notebook.

        image: (H, W, 3) uint8 to draw on instead of the detections' own; UserError where there is neither.  bgr:
        whether `image` is, and the result shall be, in OpenCV's order of colours, as `cv2.imshow` shows it.
        """
        from onelook.draw import draw_detections

        canvas = self._own_image("there is nothing to plot") if image is None else image
        if canvas.ndim != 3 or canvas.shape[2] != 3 or canvas.dtype != np.uint8:
            raise UserError(
                f"An image to draw on is (H, W, 3) uint8, not {canvas.shape} {canvas.dtype}.", "Convert it to RGB."
            )
        canvas = canvas[..., ::-1] if bgr and image is not None else canvas
        drawn = draw_detections(canvas, self.boxes, self.scores, self.labels, self.names)
        return np.ascontiguousarray(drawn[..., ::-1]) if bgr else drawn

    def save(self, path: str | Path) -> Path:
        """Draws the detections on their image and writes it; returns the path. Needs the image, or its file.

        An image of less than 256 pixels is enlarged by a whole factor, so that its labels can be read.
        """
        from onelook.draw import draw_detections, enlarge_small_image, write_image

        canvas, factor = enlarge_small_image(self._own_image(f"'{path}' was not written"))
        return write_image(path, draw_detections(canvas, self.boxes * factor, self.scores, self.labels, self.names))

    def _own_image(self, consequence: str) -> np.ndarray:
        """The image that the objects were found in, read again where it was not kept."""
        image = self.read_image() if self.image is None and self.read_image is not None else self.image
        if image is None:
            raise UserError(f"These detections hold no image to draw on, so {consequence}.")
        return image


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
