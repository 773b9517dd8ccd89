"""What an exported file scores on real images, beside the network that it was made of: for the tests of the families.

Annotations alone prove little of a network with random weights, whose AP is nearly zero in every runtime. So what the
network itself finds in the images is a second truth, by which its own AP is 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import open_dataset
from onelook.evaluation import evaluate
from onelook.evaluation.frames import resized_batches
from onelook.evaluation.rectangular import square_groups
from onelook.exported import ExportedMetadata
from onelook.exporting.onnx import export_onnx
from onelook.networks.detector import Detector
from onelook.ops.nms import Nms, with_clip, with_thresholds
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.runtimes.torch import TorchRuntime
from shared import data

IMAGES = 20
DETECTIONS = 20  # an image, on average, of those that a network finds
LIMIT = 300  # detections an image, of the suppression inside a file and of every other


@dataclass
class Images:
    """The first images of a data set, with their annotations, or with `boxes` and `labels` of every image as truth."""

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


def annotated() -> Images:
    """The first images of COCO's sample with their annotations."""
    return Images(open_dataset(data("coco_mini"), split="val"))


def findings(backend: TorchRuntime, least: float, iou: float) -> tuple[Images, float]:
    """The images with what the network finds, and the confidence that it is found with: in a gap between two scores.

    least: a score below the confidence, so that not every pair of a row and a class is a candidate.
    """
    truth = annotated()
    postprocess = limited(backend, least, iou)
    found = []
    for frames in resized_batches(truth, square_groups(range(IMAGES), backend.size, 1), backend.frame):
        ((boxes, scores, labels),) = backend(frames.pixels, postprocess)
        found.append((frames.placements[0].to_original(boxes), scores, labels))
    ranked = np.sort(np.concatenate([scores for _, scores, _ in found]))[::-1]
    near = ranked[IMAGES * DETECTIONS : IMAGES * DETECTIONS + 100]
    gap = int((near[:-1] - near[1:]).argmax())
    confidence = float(near[gap : gap + 2].mean())
    for boxes, scores, labels in found:
        truth.boxes.append(boxes[scores > confidence])
        truth.labels.append(labels[scores > confidence])
    return truth, confidence


def limited(backend: TorchRuntime | OnnxRuntime, confidence: float, iou: float) -> Nms:
    """The suppression that a model is evaluated with, of at most `LIMIT` detections.

    Boxes stay unclipped, as those that become annotations: an untrained network's lie far beyond the image.
    """
    postprocess = with_thresholds(with_clip(backend.evaluating, False), confidence, iou)
    assert isinstance(postprocess, Nms)
    return replace(postprocess, limit=LIMIT)


@dataclass(frozen=True)
class Scores:
    """COCO's numbers of one exported file.

    metadata: what the file says of itself.  wanted, reached: of PyTorch and of the file by the annotations, with the
    least score that gives about `DETECTIONS` an image.  own_wanted, own: the same by what PyTorch finds, `found` boxes;
    PyTorch's AP is 1 there.
    """

    metadata: ExportedMetadata
    wanted: dict[str, float]
    reached: dict[str, float]
    own_wanted: dict[str, float]
    own: dict[str, float]
    found: int


def scores_of_exports(
    detector: Detector, folder: Path, size: tuple[int, int], *, least: float = 0.2, iou: float = 0.65
) -> Iterator[Scores]:
    """Writes two ONNX files, without and with NMS, and evaluates each.

    least: as in `findings`.  iou: of the suppression, outside or inside.
    """
    reference = TorchRuntime(detector, "cpu", size=size)
    truth, (own, confidence) = annotated(), findings(reference, least, iou)
    postprocess = limited(reference, confidence, iou)
    wanted, own_wanted = evaluate(reference, truth, postprocess).stats, evaluate(reference, own, postprocess).stats
    inside = Nms(0.25, 0.45, multi_label=postprocess.multi_label, limit=LIMIT)
    for number, nms in enumerate((None, inside)):
        path = export_onnx(detector, folder / f"model-{number}.onnx", nms=nms, size=size).path
        backend = OnnxRuntime(path)
        postprocess = limited(backend, confidence, iou)
        reached, again = evaluate(backend, truth, postprocess).stats, evaluate(backend, own, postprocess).stats
        yield Scores(backend.metadata, wanted, reached, own_wanted, again, sum(map(len, own.labels)))
