"""Writes suspect annotations for the programs that correct them: FiftyOne (COCO JSON), CVAT and Label Studio.

Each file has the images with suspects, their annotations as they are, and what the model says instead, marked as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from onelook.data.formats.base import Losses
from onelook.data.formats.cvat import cvat_xml, image_xml
from onelook.data.formats.label_studio import rectangle, shapes, task
from onelook.data.split import Dataset
from onelook.errors import UserError, reason_of
from onelook.evaluation.coco import Evaluation, LabelSuspect
from onelook.files import write_text

MARK = "suspect"  # the field of COCO annotations, and the attribute in CVAT

_Suspects = Mapping[int, Sequence[LabelSuspect]]  # by row of the image in the data set


def write_suspects(kind: str, path: Path, dataset: Dataset, evaluation: Evaluation) -> Path:
    """Writes the suspects of an evaluation on a data set and returns the path. kind: "coco", "cvat", "label_studio".

    Raises UserError where the file cannot be written.
    """
    row_of = {int(image_id): row for row, image_id in enumerate(dataset.image_ids)}
    found: dict[int, list[LabelSuspect]] = {}
    for suspect in evaluation.label_suspects():
        found.setdefault(row_of[suspect.image_id], []).append(suspect)
    try:
        write_text(path, _WRITERS[kind](dataset, dict(sorted(found.items()))))
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Name another file.") from error
    return path


def _said(suspect: LabelSuspect) -> str:
    """The mark of a suspect, such as "wrong_label 0.93, annotated as cat"."""
    annotated = "" if suspect.annotated is None else f", annotated as {suspect.annotated}"
    return f"{suspect.kind} {suspect.score:.2f}{annotated}"


def _coco(dataset: Dataset, found: _Suspects) -> str:
    """COCO JSON, which FiftyOne reads as a COCODetectionDataset; suspects have a `score` and the field `suspect`."""
    content = dataset.view(np.array(list(found), np.int64)).coco_ground_truth()
    category_of = dict(zip(dataset.names, dataset.category_ids))
    number = max((one["id"] for one in content["annotations"]), default=0)
    for suspect in (one for suspects in found.values() for one in suspects):
        number += 1
        entry = {"id": number, "image_id": suspect.image_id, "category_id": category_of[suspect.detected]}
        box = {"bbox": list(suspect.box), "area": suspect.box[2] * suspect.box[3], "iscrowd": 0}
        content["annotations"].append({**entry, **box, "score": suspect.score, MARK: _said(suspect)})
    return json.dumps(content, ensure_ascii=False, indent=1)


def _cvat(dataset: Dataset, found: _Suspects) -> str:
    """CVAT XML for images; suspects are boxes of the source "auto" with the attribute `suspect`."""
    losses = Losses()
    images = (
        image_xml(dataset, row, dataset.file_name(row), losses, [_box(suspect) for suspect in suspects])
        for row, suspects in found.items()
    )
    return "".join(cvat_xml(dataset.names, images, attribute=MARK))


def _box(suspect: LabelSuspect) -> str:
    left, top, width, height = suspect.box
    corners = f'xtl="{left!r}" ytl="{top!r}" xbr="{left + width!r}" ybr="{top + height!r}"'
    mark = f'<attribute name="{MARK}">{escape(_said(suspect))}</attribute>'
    return (
        f'    <box label="{escape(suspect.detected)}" source="auto" occluded="0" {corners} z_order="1">{mark}</box>\n'
    )


def _label_studio(dataset: Dataset, found: _Suspects) -> str:
    """Tasks of Label Studio; suspects are their predictions."""
    tasks = []
    for number, (row, suspects) in enumerate(found.items(), 1):
        height, width = dataset.sizes[row].tolist()
        results = [
            {**rectangle(f"p{number}-{place}", one.detected, one.box, (height, width)), "score": one.score}
            for place, one in enumerate(suspects, 1)
        ]
        prediction = {"model_version": "onelook", "score": max(one.score for one in suspects), "result": results}
        said = {MARK: [f"{one.detected}: {_said(one)}" for one in suspects]}
        own = shapes(dataset, row, Losses()) if dataset.labelled[row] else None
        tasks.append(task(number, _below(dataset, row), own, predictions=[prediction], meta=said))
    return json.dumps(tasks, ensure_ascii=False, indent=1)


def _below(dataset: Dataset, row: int) -> str:
    """The path of an image below the data set's folder; its name where it lies elsewhere."""
    place = Path(str(dataset.described_by))
    folder = place if place.is_dir() else place.parent
    path = os.path.relpath(dataset.file(row), folder).replace(os.sep, "/")
    return dataset.file_name(row) if path.startswith("../") else path


_WRITERS: Mapping[str, Callable[[Dataset, _Suspects], str]] = {
    "coco": _coco,
    "cvat": _cvat,
    "label_studio": _label_studio,
}
