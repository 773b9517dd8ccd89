"""Draws the images of a data set that have problems, and a few others, with their boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from onelook.data.boxes import xywh_to_xyxy
from onelook.data.formats.base import ReadSplit
from onelook.data.index import CROWD
from onelook.data.problem_places import ImageProblems, Place, place_problems
from onelook.data.problems import Problem
from onelook.draw import Colour, add_caption, draw_detections, enlarge_small_image, write_image
from onelook.errors import ImageError
from onelook.files import new_folder, write_text
from onelook.reporter import Reporter

MOST_IMAGES = 1000  # with problems; of more, as many of each kind of problem
SAMPLE = 16  # images of each split without problems
LIST = "problems.txt"
_LONGEST_SIDE = 1600  # pixels
_MARGIN = 0.5  # of the image's side, at most, around it for boxes that reach beyond it
_LINES = 8  # of text below an image
_FAULTY: Colour = (225, 29, 46)
_OTHERS: Colour = (46, 160, 67)
_GREY = (225, 228, 232)


@dataclass(frozen=True)
class DrawnProblems:
    """Images that were drawn.

    folder: where they are, with a list of all problems.  with_problems, without: how many images.  left_out: how many
    images with problems were not drawn, because there are too many, or because they cannot be read.
    """

    folder: Path
    with_problems: int
    without: int
    left_out: int


def draw_problems(
    read: Sequence[ReadSplit], problems: Sequence[Problem], folder: Path, reporter: Reporter
) -> DrawnProblems:
    """Draws the images with problems and a sample of the others into a new folder.

    Faulty boxes are red, others green; below the image stands what is wrong. A box that reaches beyond its image is
    drawn in a margin around it. `problems.txt` lists every problem with the drawing that shows it, if one does.
    """
    placed = place_problems(read, problems)
    chosen = _chosen(placed.by_image)
    samples = [place for number, part in enumerate(read) for place in _sample(number, part, placed.by_image)]
    shown: dict[Place, str] = {}
    with new_folder(folder) as work, reporter.progress("Drawing images") as progress:
        for count, place in enumerate([*chosen, *samples], 1):
            name = _draw(read, place, placed.by_image.get(place), work)
            if name is not None:
                shown[place] = name
            progress(count, len(chosen) + len(samples))
        write_text(work / LIST, "".join(_listed(problems, placed.by_image, shown)), durable=False)
    drawn = sum(place in shown for place in chosen)
    return DrawnProblems(folder, drawn, len(shown) - drawn, len(placed.by_image) - drawn)


def _chosen(by_image: dict[Place, ImageProblems]) -> list[Place]:
    """The images to draw, in order: all with problems; of too many, the first ones of each kind of problem in turn."""
    if len(by_image) <= MOST_IMAGES:
        return sorted(by_image)
    of_kind: dict[str, list[Place]] = {}
    for place, found in by_image.items():
        for code in found.codes:
            of_kind.setdefault(code, []).append(place)
    chosen: dict[Place, None] = {}
    for turn in range(max(map(len, of_kind.values()))):
        for code in sorted(of_kind):
            if turn < len(of_kind[code]) and len(chosen) < MOST_IMAGES:
                chosen[of_kind[code][turn]] = None
    return sorted(chosen)


def _sample(number: int, part: ReadSplit, by_image: dict[Place, ImageProblems]) -> list[Place]:
    """Images of a split without problems, at equal distances."""
    rows = [row for row in range(len(part.index)) if (number, row) not in by_image]
    wanted = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).round().astype(int)
    return [(number, rows[row]) for row in wanted.tolist()]


def _draw(read: Sequence[ReadSplit], place: Place, found: ImageProblems | None, work: Path) -> str | None:
    """Draws one image and returns the name of the file in the folder; None where the image cannot be read."""
    from onelook.data.images import decode_image

    part, row = read[place[0]], place[1]
    try:
        image = decode_image(part.image_file(row))
    except ImageError:
        return None
    start, stop = part.index.object_offsets[row : row + 2].tolist()
    boxes = xywh_to_xyxy(part.index.boxes[start:stop]).astype(np.float64)
    faulty = np.array([thing in found.things if found else False for thing in range(start, stop)], bool)
    labels = part.index.labels[start:stop]
    crowds = (part.index.object_flags[start:stop] & CROWD) > 0
    names = [part.names[label] + (" (crowd)" if crowd else "") for label, crowd in zip(labels.tolist(), crowds)]
    image, boxes = _fitted(image, boxes, faulty)
    for which, colour in ((~faulty, _OTHERS), (faulty, _FAULTY)):
        chosen = np.flatnonzero(which)
        own = [names[thing] for thing in chosen.tolist()]
        image = draw_detections(image, boxes[chosen], None, labels[chosen], own, colour=colour)
    lines = [part.index.name(row)]
    if found is not None:
        kept = found.problems[:_LINES]
        lines += [f"{problem.severity} [{problem.code}] {problem.message}" for problem in kept]
        lines += [f"and {len(found.problems) - _LINES} more"] if len(found.problems) > _LINES else []
    name = f"{'problems' if found else 'sample'}/{_plain(part.split)}/{row:06d}-{_plain(Path(lines[0]).stem)}.jpg"
    write_image(work / name, add_caption(image, lines))
    return name


def _fitted(image: np.ndarray, boxes: np.ndarray, faulty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image in a size that is easily seen, with a margin where faulty boxes reach beyond it; and its boxes."""
    image, factor = enlarge_small_image(image)
    boxes = boxes * factor
    longest = max(image.shape[:2])
    if longest > _LONGEST_SIDE:
        scale = _LONGEST_SIDE / longest
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        boxes = boxes * (np.array([width, height, width, height]) / np.array([image.shape[1], image.shape[0]] * 2))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    corners = boxes[faulty & np.isfinite(boxes).all(axis=1)]
    if not len(corners):
        return image, boxes
    least, most = corners.min(axis=0), corners.max(axis=0)
    beyond = (-least[0], -least[1], most[2] - width, most[3] - height)
    limits = (width, height, width, height)
    left, top, right, bottom = (
        int(min(max(over + 4, 0), _MARGIN * side)) if over > 0 else 0 for over, side in zip(beyond, limits)
    )
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_GREY)
    return image, boxes + np.array([left, top, left, top])


def _plain(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", text)[:80] or "_"


def _listed(problems: Sequence[Problem], by_image: dict[Place, ImageProblems], shown: dict[Place, str]) -> list[str]:
    """A line for each problem: the problem, and the drawing that shows it."""
    drawing: dict[int, str] = {}
    for place, found in by_image.items():
        if place in shown:
            for problem in found.problems:
                drawing.setdefault(id(problem), shown[place])
    return [f"{problem} [{drawing.get(id(problem), 'not drawn')}]\n" for problem in problems]
