"""A synthetic data set: objects on different kinds of ground, drawn and labelled by this program.

It needs no download, and is the same on every machine for the same seed, up to the rounding of OpenCV. It is as varied
as photographs: objects of all sizes and directions, lit from any side, partly hidden, among clutter without labels, and
images without objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from onelook.data.synthetic_ground import ground
from onelook.data.synthetic_objects import CLUTTER, KINDS, noise, render
from onelook.errors import DataError
from onelook.files import new_folder
from onelook.types import Sample

NAMES: tuple[str, ...] = tuple(KINDS)
SPLITS: Mapping[str, int] = {"train": 600, "val": 120}

_TRIES = 12  # places tried for an object before it is left out


@dataclass(frozen=True)
class Scenes:
    """The images of a synthetic data set: `scenes(split, index)` is one of them, always the same.

    size: (height, width) pixels.  objects: fewest and most labelled objects.  extent: smallest and largest longer side
    of an object, in shorter sides of the image.  difficulty: 0..1, the amount of clutter, occlusion, noise and uneven
    light.  empty: share of images without a labelled object.  classes: how many of `NAMES`, from the first.  longer:
    how many times each labelled object is stretched, so that it is long and thin.
    """

    size: tuple[int, int] = (256, 256)
    objects: tuple[int, int] = (2, 7)
    extent: tuple[float, float] = (0.1, 0.5)
    difficulty: float = 0.5
    empty: float = 0.05
    classes: int = len(NAMES)
    seed: int = 0
    longer: float = 1.0

    def __post_init__(self) -> None:
        if not 32 <= min(self.size) <= max(self.size) <= 4096:
            raise ValueError(f"sides are 32 to 4096 pixels, not {self.size}")
        if not 0 < self.objects[0] <= self.objects[1] <= 100:
            raise ValueError(f"objects are 1 to 100, fewest first, not {self.objects}")
        if not 0 < self.extent[0] <= self.extent[1] <= 1:
            raise ValueError(f"extents are above 0 to 1, smallest first, not {self.extent}")
        for name, share in (("difficulty", self.difficulty), ("empty", self.empty)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is 0 to 1, not {share}")
        if not 1 <= self.longer <= 20:
            raise ValueError(f"longer is 1 to 20, not {self.longer}")
        if not 1 <= self.classes <= len(NAMES):
            raise ValueError(f"classes are 1 to {len(NAMES)}, not {self.classes}")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names by label."""
        return NAMES[: self.classes]

    def __call__(self, split: str, index: int) -> Sample:
        """One image with boxes around the visible part of each object, labels, and outlines of the visible parts."""
        rng = np.random.default_rng((self.seed, *split.encode(), index))
        height, width = self.size
        angle, steep = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.8)
        across = np.sqrt(1 - steep**2)
        light = np.array([across * np.cos(angle), across * np.sin(angle), steep])
        scene = _Scene(ground(rng, height, width), light)
        shorter = min(self.size)
        for _ in range(int(rng.integers(0, 2 + round(10 * self.difficulty)))):
            clutter = CLUTTER[int(rng.integers(len(CLUTTER)))]
            extent = shorter * rng.uniform(0.06, 0.3)
            scene.add(render(clutter, extent, light, rng), extent, rng, hide=1.0)
        if rng.random() >= self.empty:
            count = int(rng.integers(self.objects[0], self.objects[1] + 1))
            # Sizes are uniform on a logarithmic scale; larger objects are drawn first, below the others.
            smallest, largest = (float(np.log(extent)) for extent in self.extent)
            extents = np.sort(np.exp(rng.uniform(smallest, largest, count)))[::-1]
            for extent in extents * shorter:
                label = int(rng.integers(self.classes))
                body = render(KINDS[NAMES[label]], extent, light, rng, self.longer)
                scene.add(body, extent, rng, hide=0.1 + 0.4 * self.difficulty, label=label)
        image = _photograph(scene.image, rng, self.difficulty)
        return scene.sample(image)


class _Scene:
    """An image while it is drawn. `owner` has the number of the labelled object that each pixel shows, -1 for none."""

    def __init__(self, image: np.ndarray, light: np.ndarray) -> None:
        self.image = image
        self.light = light
        self.owner = np.full(image.shape[:2], -1, np.int16)
        self.labels: list[int] = []
        self.areas: list[int] = []  # visible pixels of each object with nothing above it

    def add(self, body: np.ndarray, extent: float, rng: Generator, hide: float, label: int | None = None) -> None:
        """Draws an object where it hides at most `hide` of any other and is itself at least 70 % in the image.

        body: (h, w, 4) colours and coverage, of `render` for this extent.
        """
        high, wide = body.shape[:2]
        height, width = self.image.shape[:2]
        seen = np.array([np.count_nonzero(self.owner == number) for number in range(len(self.labels))])
        solid = body[..., 3] > 0.5
        for _ in range(_TRIES):
            top = int(rng.integers(-high // 5, max(height - high + high // 5, -high // 5 + 1)))
            left = int(rng.integers(-wide // 5, max(width - wide + wide // 5, -wide // 5 + 1)))
            inside = (slice(max(top, 0), min(top + high, height)), slice(max(left, 0), min(left + wide, width)))
            within = (
                slice(inside[0].start - top, inside[0].stop - top),
                slice(inside[1].start - left, inside[1].stop - left),
            )
            shown = solid[within]
            if np.count_nonzero(shown) < max(9, 0.7 * np.count_nonzero(solid)):
                continue
            covered = np.bincount(self.owner[inside][shown] + 1, minlength=len(self.labels) + 1)[1:]
            if any(
                seen[number] - covered[number] < (1 - hide) * self.areas[number] for number in range(len(self.labels))
            ):
                continue
            self._shadow(body[..., 3], top, left, extent)
            part = body[within]
            self.image[inside] += (part[..., :3] - self.image[inside]) * part[..., 3:]
            if label is not None:
                self.owner[inside][shown] = len(self.labels)
                self.labels.append(label)
                self.areas.append(int(np.count_nonzero(shown)))
            return

    def _shadow(self, coverage: np.ndarray, top: int, left: int, extent: float) -> None:
        """Darkens the ground beside an object, away from the light."""
        shift = 0.09 * extent * self.light[:2] / self.light[2]
        soft = max(0.6, 0.05 * extent)
        margin = int(np.ceil(3 * soft + np.abs(shift).max())) + 1
        padded = cv2.copyMakeBorder(coverage, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
        move = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32)
        moved = cv2.warpAffine(padded, move, (padded.shape[1], padded.shape[0]))
        shade = 1 - 0.5 * cv2.GaussianBlur(moved, (0, 0), soft)
        top, left = top - margin, left - margin
        height, width = self.image.shape[:2]
        rows = slice(max(top, 0), min(top + shade.shape[0], height))
        columns = slice(max(left, 0), min(left + shade.shape[1], width))
        self.image[rows, columns] *= shade[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, None
        ]

    def sample(self, image: np.ndarray) -> Sample:
        """The finished image with boxes and outlines of the visible part of each object."""
        boxes, polygons = [], []
        for number in range(len(self.labels)):
            visible = self.owner == number
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            found, _ = cv2.findContours(visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_KCOS)
            # A contour runs through pixel centres; outlines are in the coordinates of pixel corners.
            outlines = [contour[:, 0].astype(np.float32) + 0.5 for contour in found if len(contour) >= 3]
            polygons.append(tuple(outlines))
        return Sample(
            image,
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(self.labels, np.int64),
            tuple(polygons),
        )


def _photograph(scene: np.ndarray, rng: Generator, difficulty: float) -> np.ndarray:
    """(H, W, 3) uint8: the scene under uneven light, with the blur and noise of a camera."""
    height, width = scene.shape[:2]
    uneven = 1 + (0.1 + 0.15 * difficulty) * noise(rng, height, width, 1.5, 1)
    tint = 1 + 0.08 * rng.uniform(-1, 1, 3)
    exposure = np.exp(rng.uniform(-0.35, 0.2) * (0.5 + difficulty))
    image = scene * uneven[..., None] * (tint * exposure).astype(np.float32)
    if rng.random() < 0.6 * difficulty:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0))
    grain = rng.standard_normal((height, width, 1)).astype(np.float32)
    image = image + 0.012 * (0.5 + 2 * difficulty * rng.random()) * grain
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


# Two kinds of data that are hard for a detector of few hundred images: many objects of a few cells each, and objects
# whose boxes are mostly background, or far from square.
HARD: Mapping[str, Scenes] = MappingProxyType(
    {
        "many small": Scenes((160, 160), (6, 20), (0.06, 0.15), 0.2, classes=3),
        "long and thin": Scenes((256, 256), (2, 8), (0.15, 0.5), 0.2, classes=3, longer=5.0),
    }
)


def write_synthetic(folder: str | Path, scenes: Scenes | None = None, splits: Mapping[str, int] = SPLITS) -> Path:
    """Writes a synthetic data set as COCO (`annotations/instances_{split}.json` beside `{split}/`); returns its folder.

    splits: images a split. A folder that already holds exactly this data set is left as it is. Raises DataError for a
    folder with any other content.
    """
    folder, scenes = Path(folder), scenes or Scenes()
    made_by = {"scenes": asdict(scenes), "splits": dict(splits)}
    description = folder / "synthetic.json"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if description.is_file() and _same(description, made_by):
            return folder
        raise DataError(f"'{folder}' already holds something else.", "Name a folder that is new or empty.")
    with new_folder(folder) as work:
        (work / "annotations").mkdir()
        for split, count in splits.items():
            _write_split(work, scenes, split, count)
        (work / description.name).write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")
    return folder


def _same(description: Path, made_by: dict[str, Any]) -> bool:
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
        found["scenes"] = {"longer": 1.0, **found["scenes"]}  # folders drawn before there was this setting
        return bool(found == json.loads(json.dumps(made_by)))
    except (ValueError, KeyError, TypeError):
        return False


def _write_split(folder: Path, scenes: Scenes, split: str, count: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir()
    for index in range(count):
        sample = scenes(split, index)
        height, width = sample.image.shape[:2]
        name = f"{index:06d}.jpg"
        encoded, content = cv2.imencode(".jpg", sample.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not encoded:
            raise DataError(f"OpenCV could not encode '{name}' as JPEG.")
        (folder / split / name).write_bytes(content.tobytes())
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for box, label, outlines in zip(sample.boxes.tolist(), sample.labels.tolist(), sample.polygons or ()):
            left, top, right, bottom = box
            width, height = right - left, bottom - top
            outlined = sum(cv2.contourArea(outline) for outline in outlines)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": float(outlined) or width * height,
                    "segmentation": [outline.ravel().tolist() for outline in outlines],
                    "iscrowd": 0,
                }
            )
    document = {
        "info": {"description": "Made-up scenes, drawn by Onelook"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(scenes.names)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")
