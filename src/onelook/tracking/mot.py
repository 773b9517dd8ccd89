"""MOT text: the tracks of a video as the MOTChallenge benchmarks write them, one line for each box.

    frame, identity, left, top, width, height, confidence, class, visibility      (annotations)
    frame, identity, left, top, width, height, confidence, -1, -1, -1             (results)

Frames and identities count from 1. An annotation of confidence 0 is not evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelook.errors import DataError, reason_of
from onelook.types import Detections

LARGEST_FRAME = 10_000_000
_REMEDY = "Each line is: frame, identity, left, top, width, height, confidence, and further numbers."


@dataclass(frozen=True, eq=False)
class Tracks:
    """The boxes of one video, ordered by frame.

    frames, identities: (N,) int64.  boxes: (N, 4) float64 xyxy pixels.
    """

    frames: np.ndarray
    identities: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def read_mot(path: Path, *, annotations: bool = False) -> Tracks:
    """Reads a file of MOT text. annotations: leave out what has confidence 0.

    Raises DataError that names the file and the line: of what is no number, and of an identity twice in a frame.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is no text"
        raise DataError(f"'{path}' cannot be read: {reason}.", "Give a file of MOT text.") from error
    rows: list[tuple[float, ...]] = []
    seen: set[tuple[int, int]] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        values = _numbers(line, f"{path}:{number}")
        if annotations and values[6] == 0:
            continue
        key = int(values[0]), int(values[1])
        if key in seen:
            raise DataError(
                f"{path}:{number}: the identity {key[1]} is in frame {key[0]} twice.", "Remove one of them."
            )
        seen.add(key)
        rows.append(values)
    table = np.array([row[:6] for row in rows]).reshape(-1, 6)
    table = table[np.argsort(table[:, 0], kind="stable")]
    corners = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], 1)
    return Tracks(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), corners)


def _numbers(line: str, where: str) -> tuple[float, ...]:
    """Frame, identity, left, top, width, height, confidence of a line."""
    parts = line.replace(",", " ").split()
    try:
        values = tuple(float(part) for part in parts[:7])
    except ValueError as error:
        raise DataError(f"{where}: '{line[:60]}' is not a line of numbers.", _REMEDY) from error
    if len(values) < 6 or not all(map(math.isfinite, values)):
        raise DataError(f"{where}: '{line[:60]}' has no six finite numbers.", _REMEDY)
    whole = values[0].is_integer() and values[1].is_integer() and 1 <= values[0] <= LARGEST_FRAME
    if not whole or abs(values[1]) > 1e15:
        raise DataError(f"{where}: the frame {values[0]:g} or the identity {values[1]:g} is not usable.", _REMEDY)
    if values[4] < 0 or values[5] < 0:
        raise DataError(f"{where}: the box has a negative size.", _REMEDY)
    return values if len(values) == 7 else (*values, 1.0)


def mot_lines(frame: int, found: Detections) -> str:
    """The lines of one frame's detections, which have tracks. frame: from 0."""
    assert found.tracks is not None
    lines = []
    for identity, (x1, y1, x2, y2), score in zip(found.tracks.tolist(), found.boxes.tolist(), found.scores.tolist()):
        box = ",".join(f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"{frame + 1},{identity},{box},{score:.4f},-1,-1,-1\n")
    return "".join(lines)
