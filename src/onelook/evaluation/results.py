"""COCO results files: a JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.jsonstream import JsonStream
from onelook.errors import DataError, UserError
from onelook.evaluation.tables import GroundTruth, Results, box_problem, shown, whole_number
from onelook.files import open_replacing

LARGEST_COUNT = 40_000_000
_KEYS = ("image_id", "category_id", "bbox", "score")
_ELSEWHERE = "Name another file, in a folder that you can write to and that has room."
_WRITTEN_AT_ONCE = 20_000


def read_results(path: str | Path, truth: GroundTruth) -> Results:
    """Reads a results file that belongs to a ground truth; a file without detections is legal.

    Memory is 56 bytes a detection. Raises DataError naming the file, the line, the entry and the key.
    """
    where = {"image_id": _rows(truth.image_ids.tolist()), "category_id": _rows(list(truth.category_ids))}
    images, labels, numbers = array("q"), array("q"), array("d")
    with JsonStream(Path(path)) as stream:
        for index, (line, entry) in enumerate(stream.only_list("detections")):
            if index >= LARGEST_COUNT:
                raise DataError(f"{path}: holds more than {LARGEST_COUNT} detections.")
            if problem := _problem(entry, where):
                raise DataError(f"{path}:{line}: detections[{index}]: {problem}.", _remedy(problem))
            images.append(where["image_id"][int(entry["image_id"])])
            labels.append(where["category_id"][int(entry["category_id"])])
            numbers.extend(entry["bbox"])
            numbers.append(entry["score"])
    table = np.frombuffer(numbers, np.float64).reshape(-1, 5) if numbers else np.zeros((0, 5))
    return Results(np.array(images, np.int64), np.array(labels, np.int64), table[:, :4], table[:, 4])


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
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}.", _ELSEWHERE) from error
    return path


def _lines(truth: GroundTruth, results: Results, rows: slice) -> str:
    category_ids = np.array(truth.category_ids, np.int64)
    columns = (
        truth.image_ids[results.images[rows]].tolist(),
        category_ids[results.labels[rows]].tolist(),
        results.boxes[rows].tolist(),
        results.scores[rows].tolist(),
    )
    line = '{"image_id": %d, "category_id": %d, "bbox": [%r, %r, %r, %r], "score": %r}'
    return ",\n".join(line % (image, category, *box, score) for image, category, box, score in zip(*columns))


def _rows(ids: list[int]) -> dict[int, int]:
    return {key: row for row, key in enumerate(ids)}


def _problem(entry: Any, where: dict[str, dict[int, int]]) -> str:
    """What is wrong with an entry, or ''. The usual entry passes in one expression: a file has millions."""
    try:
        box = entry["bbox"]
        x, y, width, height = box
        if (
            type(entry["image_id"]) is int
            and type(entry["category_id"]) is int
            and entry["image_id"] in where["image_id"]
            and entry["category_id"] in where["category_id"]
            and type(entry["score"]) is float
            and -math.inf < entry["score"] < math.inf
            and type(box) is list
            and type(x) is type(y) is type(width) is type(height) is float
            and -1e9 <= x <= 1e9
            and -1e9 <= y <= 1e9
            and 0 <= width <= 1e9
            and 0 <= height <= 1e9
        ):
            return ""
    except (KeyError, TypeError, ValueError):
        pass
    return _explain(entry, where)


def _explain(entry: Any, where: dict[str, dict[int, int]]) -> str:
    """The same, slowly: integers are numbers too, and what is wrong gets a name."""
    if not isinstance(entry, dict):
        return f"must be an object with {', '.join(_KEYS)}, not {shown(entry)}"
    for key in _KEYS:
        if key not in entry:
            return f"the key '{key}' is missing"
    for key, known in where.items():
        if problem := _id_problem(key, entry[key], known):
            return problem
    return box_problem(entry["bbox"]) or _score_problem(entry["score"])


def _id_problem(key: str, value: object, known: dict[int, int]) -> str:
    number = whole_number(value)
    if number is None:
        return f"'{key}' must be a whole number, not {shown(value)}"
    return "" if number in known else f"'{key}' {number} is not in the annotations"


def _score_problem(score: object) -> str:
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return f"'score' must be a number, not {shown(score)}"
    return "" if -1e300 < score < 1e300 else f"'score' is {shown(score)}, which is not finite"


def _remedy(problem: str) -> str:
    if "is not in the annotations" in problem:
        return "Are these the annotations of the images that the detections were made on?"
    return "Correct the entry, or write the results again."
