"""COCO results files: a JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onelook.data.jsonstream import JsonStream, Single, UnusualError
from onelook.errors import DataError, UserError, reason_of
from onelook.evaluation.tables import LARGEST, GroundTruth, Results
from onelook.files import open_replacing

LARGEST_COUNT = 40_000_000
LARGEST_SCORE = 1e300
_KEYS = ("image_id", "category_id", "bbox", "score")
_ELSEWHERE = "Name another file, in a folder that you can write to and that has room."
_WRITTEN_AT_ONCE = 20_000


class Detection(msgspec.Struct, gc=False):
    """An ordinary entry of a results file; further fields are ignored."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


_DETECTIONS = msgspec.json.Decoder(list[Detection])


def read_results(path: str | Path, truth: GroundTruth) -> Results:
    """Reads a results file that belongs to a ground truth; a file without detections is legal.

    Memory is 56 bytes a detection. Raises DataError naming the file, the line, the entry and the key.
    """
    known = {"image_id": _rows(truth.image_ids.tolist()), "category_id": _rows(truth.category_ids)}
    images, labels, boxes, scores = array("q"), array("q"), array("d"), array("d")
    with JsonStream(Path(path)) as stream:
        for part in stream.only_list("detections", lambda text: _detections(text, known)):
            if isinstance(part, Single):
                if problem := _problem(part.element, known):
                    raise DataError(f"{path}:{part.line}: detections[{len(images)}]: {problem}.", _remedy(problem))
                entry = part.element
                plain = Detection(int(entry["image_id"]), int(entry["category_id"]), entry["bbox"], entry["score"])
                found = _table([plain], known)
            else:
                found = part.found
            images.frombytes(found.images.view(np.uint8).data)
            labels.frombytes(found.labels.view(np.uint8).data)
            boxes.frombytes(found.boxes.ravel().view(np.uint8).data)
            scores.frombytes(found.scores.view(np.uint8).data)
            if len(images) > LARGEST_COUNT:
                raise DataError(f"{path}: holds more than {LARGEST_COUNT} detections.")
    if not images:
        return Results.empty()
    rows, classes = np.frombuffer(images, np.int64), np.frombuffer(labels, np.int64)
    return Results(rows, classes, np.frombuffer(boxes).reshape(-1, 4), np.frombuffer(scores))


def _detections(text: str, known: Mapping[str, Mapping[int, int]]) -> Results:
    """The detections of a JSON list; raises UnusualError or a decoder's error where one is wrong or unusual."""
    found = _table(_DETECTIONS.decode(text), known)
    plain = (
        np.abs(found.boxes).max() <= LARGEST
        and found.boxes[:, 2:].min() >= 0
        and np.abs(found.scores).max() < LARGEST_SCORE
    )
    if not plain:
        raise UnusualError
    return found


def _table(entries: Sequence[Detection], known: Mapping[str, Mapping[int, int]]) -> Results:
    count = len(entries)
    rows, labels = known["image_id"], known["category_id"]
    try:
        images = np.fromiter([rows[entry.image_id] for entry in entries], np.int64, count)
        classes = np.fromiter([labels[entry.category_id] for entry in entries], np.int64, count)
    except KeyError:
        raise UnusualError from None
    boxes = np.fromiter(chain.from_iterable([entry.bbox for entry in entries]), np.float64, 4 * count)
    scores = np.fromiter([entry.score for entry in entries], np.float64, count)
    return Results(images, classes, boxes.reshape(-1, 4), scores)


def _rows(ids: Sequence[int]) -> dict[int, int]:
    return {number: row for row, number in enumerate(ids)}


def write_results(path: str | Path, truth: GroundTruth, results: Results) -> Path:
    """Writes a results file with the data set's own ids; reading it back gives the same numbers exactly.

    The file appears whole or not at all.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"'{path}' cannot be written: it is not a regular file.", _ELSEWHERE)
    try:
        with open_replacing(path) as file:
            file.write("[")
            for start in range(0, len(results), _WRITTEN_AT_ONCE):
                file.write(",\n" if start else "\n")
                file.write(_lines(truth, results, slice(start, start + _WRITTEN_AT_ONCE)))
            file.write("\n]\n")
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", _ELSEWHERE) from error
    return path


def _lines(truth: GroundTruth, results: Results, rows: slice) -> str:
    from onelook.predict.writers.coco import results_lines  # with OpenCV, which reading does without

    category_ids = np.array(truth.category_ids, np.int64)
    columns = (
        truth.image_ids[results.images[rows]].tolist(),
        category_ids[results.labels[rows]].tolist(),
        results.boxes[rows].tolist(),
        results.scores[rows].tolist(),
    )
    return results_lines(zip(*columns))


def _problem(entry: Any, known: Mapping[str, Mapping[int, int]]) -> str:
    """What is wrong with an entry, or ''."""
    if not isinstance(entry, dict):
        return f"must be an object with {', '.join(_KEYS)}, not {_shown(entry)}"
    for key in _KEYS:
        if key not in entry:
            return f"the key '{key}' is missing"
    for key, ids in known.items():
        if problem := _id_problem(key, entry[key], ids):
            return problem
    return _box_problem(entry["bbox"]) or _score_problem(entry["score"])


def _id_problem(key: str, value: object, known: Mapping[int, int]) -> str:
    number = _whole_number(value)
    if number is None:
        return f"'{key}' must be a whole number, not {_shown(value)}"
    return "" if number in known else f"'{key}' {number} is not in the annotations"


def _score_problem(score: object) -> str:
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return f"'score' must be a number, not {_shown(score)}"
    return "" if -LARGEST_SCORE < score < LARGEST_SCORE else f"'score' is {_shown(score)}, which is not finite"


def _remedy(problem: str) -> str:
    if "is not in the annotations" in problem:
        return "Are these the annotations of the images that the detections were made on?"
    return "Correct the entry, or write the results again."


def _shown(value: object) -> str:
    """A value from a file as an error message may show it: one short line of printable characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole_number(value: object) -> int | None:
    """The int that a JSON number stands for (7 or 7.0), None for anything else; what int64 cannot hold is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _box_problem(box: object) -> str:
    """What is wrong with a COCO box, or ''."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return f"'bbox' must be a list of 4 numbers [x, y, width, height], not {_shown(box)}"
    for name, value in zip(("x", "y", "width", "height"), box):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"'bbox' must hold 4 numbers, but its {name} is {_shown(value)}"
        if not -LARGEST <= value <= LARGEST:
            return f"'bbox' has {name} {_shown(value)}, which is not a finite number of pixels below {LARGEST:.0e}"
    if box[2] < 0 or box[3] < 0:
        return f"'bbox' has a negative size: width {_shown(box[2])}, height {_shown(box[3])}"
    return ""
