"""Short videos of moving objects, drawn by this program, with exact boxes and identities.

`CLIPS` has objects that cross each other, and objects that are hidden behind a wall for a while.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from onelook.data.synthetic import NAMES
from onelook.data.synthetic_ground import ground
from onelook.data.synthetic_objects import KINDS, render
from onelook.errors import DataError
from onelook.files import new_folder

VISIBLE = 0.25  # least visible share of an object that a data set annotates

Waypoint = tuple[int, float, float]  # frame, x, y


@dataclass(frozen=True)
class Moving:
    """An object with a known path. kind: its class.  extent: longer side in pixels.

    path: (frame, x, y) of its centre in pixels, with straight lines between them; before the first and after the last
    it stands still.
    """

    kind: str
    extent: float
    path: tuple[Waypoint, ...]

    def centre(self, frame: int) -> tuple[float, float]:
        """(x, y) at a frame."""
        frames, xs, ys = zip(*self.path)
        return float(np.interp(frame, frames, xs)), float(np.interp(frame, frames, ys))


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """One frame. image: (H, W, 3) uint8 RGB.

    identities, labels: (M,) int64, identities from 1.  boxes: (M, 4) float32 xyxy pixels of the whole object, hidden
    parts included, clipped to the image.  visible: (M,) share of the object that can be seen, 0..1.
    """

    image: np.ndarray
    identities: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A video: call it for its frames. Later objects are in front of earlier ones, walls in front of all.

    walls: (x1, y1, x2, y2) pixels of grey walls.  size: (height, width).
    """

    objects: tuple[Moving, ...]
    frames: int = 90
    walls: tuple[tuple[int, int, int, int], ...] = ()
    size: tuple[int, int] = (240, 320)
    fps: float = 30.0
    seed: int = 0

    def __call__(self) -> Iterator[ClipFrame]:
        """The frames in order."""
        rng = np.random.default_rng(self.seed)
        scene = ground(rng, *self.size)
        light = np.array([0.5, 0.5, 0.7])
        bodies = [render(KINDS[one.kind], one.extent, light, rng) for one in self.objects]
        for x1, y1, x2, y2 in self.walls:
            scene[y1:y2, x1:x2] = 0.5
        for frame in range(self.frames):
            yield self._frame(frame, scene, bodies)

    def _frame(self, frame: int, scene: np.ndarray, bodies: list[np.ndarray]) -> ClipFrame:
        image, owner = scene.copy(), np.zeros(self.size, np.int64)
        boxes, areas = [], []
        for number, (one, body) in enumerate(zip(self.objects, bodies), 1):
            inside, placed = _placed(body, one.centre(frame), self.size)
            image[inside] += (placed[..., :3] - image[inside]) * placed[..., 3:]
            solid = placed[..., 3] > 0.5
            owner[inside][solid] = number
            areas.append(np.count_nonzero(solid))
            rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
            top, left = inside[0].start, inside[1].start
            box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1) if areas[-1] else None
            boxes.append(box or (0, 0, 0, 0))
        for x1, y1, x2, y2 in self.walls:
            image[y1:y2, x1:x2] = scene[y1:y2, x1:x2]
            owner[y1:y2, x1:x2] = 0
        seen = np.array([np.count_nonzero(owner == number) for number in range(1, len(bodies) + 1)])
        there = np.flatnonzero(np.array(areas) > 0)
        return ClipFrame(
            np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8),
            there + 1,
            np.array([NAMES.index(one.kind) for one in self.objects], np.int64)[there],
            np.array(boxes, np.float32).reshape(-1, 4)[there],
            (seen / np.maximum(areas, 1))[there],
        )


def _placed(
    body: np.ndarray, centre: tuple[float, float], size: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of an image that a body covers, and the body there, moved by a fraction of a pixel."""
    high, wide = body.shape[0] + 2, body.shape[1] + 2
    corner = np.array(centre) - (wide / 2, high / 2)
    left, top = np.floor(corner).astype(int).tolist()
    move = np.array([[1, 0, 1 + corner[0] - left], [0, 1, 1 + corner[1] - top]], np.float32)
    placed = cv2.warpAffine(body, move, (wide, high), flags=cv2.INTER_LINEAR)
    rows = slice(min(max(top, 0), size[0]), min(max(top + high, 0), size[0]))
    columns = slice(min(max(left, 0), size[1]), min(max(left + wide, 0), size[1]))
    return (rows, columns), placed[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _line(start: tuple[float, float], end: tuple[float, float], frames: int = 90) -> tuple[Waypoint, ...]:
    return ((0, *start), (frames - 1, *end))


_FIRST, _SECOND, _THIRD = NAMES[0], NAMES[1], NAMES[2]

CLIPS: Mapping[str, Clip] = MappingProxyType(
    {
        "crossing": Clip(
            (
                Moving(_FIRST, 44, _line((40, 60), (280, 180))),
                Moving(_FIRST, 44, _line((280, 60), (40, 180))),
                Moving(_SECOND, 52, _line((60, 210), (260, 210))),
                Moving(_THIRD, 40, _line((290, 24), (190, 24))),
            ),
            seed=1,
        ),
        "hidden": Clip(
            (
                Moving(_FIRST, 46, _line((30, 70), (290, 70))),
                Moving(_SECOND, 46, _line((290, 170), (30, 170))),
                Moving(_THIRD, 40, _line((40, 215), (90, 215))),
            ),
            walls=((135, 30, 185, 240),),
            seed=2,
        ),
        "apart": Clip(
            tuple(Moving(_FIRST, 36, _line((30, 30 + 60 * row), (290, 30 + 60 * row))) for row in range(4)),
            seed=3,
        ),
    }
)
"""Objects that cross each other; that pass behind a wall; and that stay apart."""


def demo_clip(names: Sequence[str] = NAMES[:3], seed: int = 0) -> Clip:
    """Eight seconds of five objects that cross each other and pass behind a wall; their kinds are `names`, in turn."""
    first, second, third, fourth, fifth = (names[number % len(names)] for number in range(5))
    objects = (
        Moving(first, 66, ((0, 50, 80), (119, 430, 110), (239, 50, 90))),
        Moving(second, 70, ((0, 430, 150), (119, 50, 130), (239, 430, 145))),
        Moving(third, 74, ((0, 60, 300), (120, 240, 285), (239, 420, 250))),
        Moving(fourth, 66, ((0, 420, 318), (120, 240, 324), (239, 60, 250))),
        Moving(fifth, 64, ((0, 140, 220), (80, 140, 310), (160, 330, 310), (239, 330, 220))),
    )
    return Clip(objects, frames=240, walls=((202, 20, 278, 195),), size=(360, 480), seed=seed)


def write_clips(folder: str | Path, clips: Mapping[str, Clip] = CLIPS) -> Path:
    """Writes clips as a data set of video frames, as videos, and their tracks as MOT text; returns the folder.

    The data set is COCO (`annotations/instances_val.json` beside `val/CLIP/000000.jpg`), whose images have `sid` and
    `fid` and whose objects `track`; objects that can hardly be seen are left out. `videos/CLIP.mp4` are the videos,
    `tracks/CLIP.txt` the identities of all objects. Raises DataError for a folder that holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"'{folder}' already holds something else.", "Name a folder that is new or empty.")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with new_folder(folder) as work:
        for name in ("annotations", "videos", "tracks"):
            (work / name).mkdir()
        for number, named in enumerate(clips.items()):
            (work / "val" / named[0]).mkdir(parents=True)
            _write_clip(work, number, named, images, annotations)
        used = {one.kind for clip in clips.values() for one in clip.objects}
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES) if name in used]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (work / "annotations/instances_val.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _write_clip(
    folder: Path, number: int, named: tuple[str, Clip], images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    """Writes the files of one clip, and adds its images and objects to the lists."""
    name, clip = named
    height, width = clip.size
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(folder / "videos" / f"{name}.mp4"), codec, clip.fps, (width, height))
    lines: list[str] = []
    for index, frame in enumerate(clip()):
        file = f"{name}/{index:06d}.jpg"
        pixels = frame.image[..., ::-1]
        video.write(np.ascontiguousarray(pixels))
        encoded, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not encoded:
            raise DataError(f"OpenCV could not encode '{file}' as JPEG.")
        (folder / "val" / file).write_bytes(content.tobytes())
        image_id = len(images) + 1
        place = {"sid": number, "fid": index}
        images.append({"id": image_id, "file_name": file, "width": width, "height": height, **place})
        rows = zip(frame.identities.tolist(), frame.labels.tolist(), frame.boxes.tolist(), frame.visible.tolist())
        for identity, label, (x1, y1, x2, y2), visible in rows:
            box = [x1, y1, x2 - x1, y2 - y1]
            shape = ",".join(f"{value:g}" for value in box)
            lines.append(f"{index + 1},{identity},{shape},{int(visible >= VISIBLE)},{label + 1},{visible:.3f}\n")
            if visible >= VISIBLE:
                entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
                annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0, "track": identity})
    video.release()
    (folder / "tracks" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
