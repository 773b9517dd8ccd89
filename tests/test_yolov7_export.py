"""Exported YOLOv7 networks are evaluated like the networks that they were made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from networks import Golden, filled_detector
from onelook.data import open_dataset
from onelook.evaluate import evaluate
from onelook.evaluate.frames import framed_batches
from onelook.evaluate.rectangular import square_groups
from onelook.export.onnx import export_onnx
from onelook.models.detector import Detector
from onelook.ops.nms import Nms, with_thresholds
from onelook.predict.backends import OnnxBackend, TorchBackend
from shared import data, needs_shared

CASES = [("yolov7-tiny", (256, 256)), ("yolov7", (256, 256)), ("yolov7-w6", (256, 256))]
IMAGES, OBJECTS = 20, 6


@dataclass
class Found:
    """The first images of a data set whose truth is a part of what a network with random weights finds in them.

    Real annotations would give such a network an AP of zero in every runtime, which proves little.
    """

    dataset: Any
    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names, self.category_ids = self.dataset.names, self.dataset.category_ids
        self.image_ids, self.sizes = self.dataset.image_ids[:IMAGES], self.dataset.sizes[:IMAGES]

    def __len__(self) -> int:
        return IMAGES

    def image(self, row: int) -> np.ndarray:
        return self.dataset.image(row)

    def coco_ground_truth(self) -> dict[str, Any]:
        annotations = [
            {
                "id": row * OBJECTS + place + 1,
                "image_id": int(self.image_ids[row]),
                "category_id": self.category_ids[label],
                # Moved a little, so that the thresholds of COCO differ in what they accept.
                "bbox": [float(box[0] + 2 * place), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            }
            for row, (boxes, labels) in enumerate(zip(self.boxes, self.labels))
            for place, (box, label) in enumerate(zip(boxes, labels.tolist()))
        ]
        return {
            "images": [{"id": int(key), "file_name": f"{key}.jpg"} for key in self.image_ids],
            "categories": [{"id": key, "name": name} for key, name in zip(self.category_ids, self.names)],
            "annotations": annotations,
        }


def labelled(backend: TorchBackend, select: Nms) -> Found:
    truth = Found(open_dataset(data("coco_mini"), split="val"))
    for frames in framed_batches(truth, square_groups(range(IMAGES), backend.size, 1), backend.frame):
        ((boxes, _, labels),) = backend(frames.pixels, select)
        chosen = slice(0, 5 * OBJECTS, 5)
        truth.boxes.append(frames.placements[0].back(boxes[chosen]))
        truth.labels.append(labels[chosen])
    return truth


def detector_of(name: str) -> Detector:
    return filled_detector(name, Golden.load("yolov7", name).arrays)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), CASES)
def test_exported_files_score_like_pytorch(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    detector = detector_of(name)
    reference = TorchBackend(detector, "cpu", size=size)
    select = with_thresholds(reference.evaluating, 0.2, 0.65)
    assert isinstance(select, Nms) and select.multi_label
    truth = labelled(reference, select)
    wanted = evaluate(reference, truth, select).stats
    assert 0.1 < wanted["AP"] < 0.99
    inside = Nms(0.25, 0.45, multi_label=True, limit=300)
    for nms in (None, inside):
        exported = export_onnx(detector, tmp_path / "model.onnx", nms=nms, size=size)
        backend = OnnxBackend(exported.path)
        assert backend.metadata.multi_label
        assert backend.metadata.model == name
        found = evaluate(backend, truth, with_thresholds(backend.evaluating, 0.2, 0.65)).stats
        assert found == pytest.approx(wanted, abs=1e-4)
    assert (tmp_path / "model.onnx").is_file()
