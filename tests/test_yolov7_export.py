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
IMAGES, DETECTIONS = 20, 20


@dataclass
class Found:
    """The first images of a data set, with their annotations, or with what a network finds in them as their truth.

    Annotations alone prove little of a network with random weights, whose AP is nearly zero in every runtime.
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
        if not self.boxes:
            truth = self.dataset.coco_ground_truth()
            known = set(self.image_ids.tolist())
            return truth | {
                "images": [one for one in truth["images"] if one["id"] in known],
                "annotations": [one for one in truth["annotations"] if one["image_id"] in known],
            }
        annotations = [
            {
                "id": row * 1000 + place + 1,
                "image_id": int(self.image_ids[row]),
                "category_id": self.category_ids[label],
                "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            }
            for row, (boxes, labels) in enumerate(zip(self.boxes, self.labels))
            for place, (box, label) in enumerate(zip(boxes, labels.tolist()))
        ]
        return {
            "images": [{"id": int(key), "file_name": f"{key}.jpg"} for key in self.image_ids],
            "categories": [{"id": key, "name": name} for key, name in zip(self.category_ids, self.names)],
            "annotations": annotations,
        }


def labelled(backend: TorchBackend) -> tuple[Found, float]:
    """What the network finds, and the confidence that it is found with: in a gap between two scores."""
    truth = Found(open_dataset(data("coco_mini"), split="val"))
    select = with_thresholds(backend.evaluating, 0.2, 0.65)
    found = []
    for frames in framed_batches(truth, square_groups(range(IMAGES), backend.size, 1), backend.frame):
        ((boxes, scores, labels),) = backend(frames.pixels, select)
        found.append((frames.placements[0].back(boxes), scores, labels))
    ranked = np.sort(np.concatenate([scores for _, scores, _ in found]))[::-1]
    near = ranked[IMAGES * DETECTIONS : IMAGES * DETECTIONS + 100]
    gap = int((near[:-1] - near[1:]).argmax())
    confidence = float(near[gap : gap + 2].mean())
    for boxes, scores, labels in found:
        truth.boxes.append(boxes[scores > confidence])
        truth.labels.append(labels[scores > confidence])
    return truth, confidence


def detector_of(name: str) -> Detector:
    return filled_detector(name, Golden.load("yolov7", name).arrays)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), CASES)
def test_exported_files_score_like_pytorch(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    detector = detector_of(name)
    reference = TorchBackend(detector, "cpu", size=size)
    annotated = Found(open_dataset(data("coco_mini"), split="val"))
    own, confidence = labelled(reference)
    assert sum(len(labels) for labels in own.labels) >= IMAGES * DETECTIONS
    select = with_thresholds(reference.evaluating, confidence, 0.65)
    assert isinstance(select, Nms) and select.multi_label
    wanted = evaluate(reference, annotated, select).stats
    for nms in (None, Nms(0.25, 0.45, multi_label=True, limit=300)):
        exported = export_onnx(detector, tmp_path / "model.onnx", nms=nms, size=size)
        backend = OnnxBackend(exported.path)
        assert backend.metadata.multi_label
        assert backend.metadata.model == name
        select = with_thresholds(backend.evaluating, confidence, 0.65)
        assert evaluate(backend, annotated, select).stats == pytest.approx(wanted, abs=1e-4)
        # Random weights give hundreds of overlapping boxes whose scores differ by less than float32's rounding: which
        # of them stays is chance, for one detection in a hundred, as it is between batches of 1 and of 8 in PyTorch.
        assert evaluate(backend, own, select).stats["AP50"] > 0.95
