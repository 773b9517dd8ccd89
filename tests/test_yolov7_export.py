"""Exported YOLOv7 networks are evaluated like the networks that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks import filled_detector
from onelook.data import open_dataset
from onelook.evaluation import evaluate
from onelook.evaluation.frames import resized_batches
from onelook.evaluation.rectangular import square_groups
from onelook.exporting.onnx import export_onnx
from onelook.networks.detector import Detector
from onelook.networks.variants import variant
from onelook.networks.yolov7.head import ImplicitConv
from onelook.ops.nms import Nms, clips, with_clip, with_thresholds
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.runtimes.torch import TorchRuntime
from shared import data, needs_shared

SIZE = (256, 256)
LOOKED_AT, IMAGES, DETECTIONS = 40, 20, 5
LOGIT_NOISE, BOX_NOISE = 2e-3, 0.05  # several times what float32 rounds away


@dataclass(frozen=True)
class Images:
    """Some images of a data set, with these objects: boxes (M, 4) and labels (M,) of each.

    The set's own annotations prove nothing of a network with random weights, whose AP is zero in every runtime.
    """

    dataset: Any
    rows: list[int]
    objects: list[tuple[np.ndarray, np.ndarray]]

    @property
    def names(self) -> tuple[str, ...]:
        return self.dataset.names

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self.dataset.category_ids

    @property
    def image_ids(self) -> np.ndarray:
        return self.dataset.image_ids[self.rows]

    @property
    def sizes(self) -> np.ndarray:
        return self.dataset.sizes[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, row: int) -> np.ndarray:
        return self.dataset.image(self.rows[row])

    def coco_ground_truth(self) -> dict[str, Any]:
        annotations = [
            {
                "id": row * 1000 + place + 1,
                "image_id": int(self.image_ids[row]),
                "category_id": self.category_ids[label],
                "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            }
            for row, (boxes, labels) in enumerate(self.objects)
            for place, (box, label) in enumerate(zip(boxes, labels.tolist()))
        ]
        return {
            "images": [{"id": int(key), "file_name": f"{key}.jpg"} for key in self.image_ids],
            "categories": [{"id": key, "name": name} for key, name in zip(self.category_ids, self.names)],
            "annotations": annotations,
        }


def tensor_of(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W) float."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def detector_of(name: str, pixels: Tensor) -> Detector:
    """Filled by names, with statistics as the reference's rule makes them, of real images (B, 3, H, W).

    Those of the golden files are of noise. What the head says is brought to a spread of 1 on every level: logits that
    are far from 0 make boxes without area, which match nothing, and scores that are all 1.
    """
    detector = filled_detector(name)

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_var, norm.running_mean = variance, mean - variance.sqrt()

    def tame(layer: ImplicitConv, _: tuple[Tensor, ...], output: Tensor) -> None:
        layer.multiply.data /= output.std()

    hooks = [
        part.register_forward_pre_hook(measure)  # type: ignore[arg-type]
        for part in detector.modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    hooks += [part.register_forward_hook(tame) for part in detector.modules() if isinstance(part, ImplicitConv)]  # type: ignore[arg-type]
    with torch.no_grad():
        detector(pixels)
    for hook in hooks:
        hook.remove()
    return detector


def is_beyond_rounding(postprocess: Nms, boxes: np.ndarray, scores: np.ndarray) -> bool:
    """Whether what is found stays the same however the last digits come out."""
    rng = np.random.default_rng(0)
    wanted, _, labels = postprocess(boxes, scores)
    for _ in range(5):
        moved = boxes + rng.uniform(-BOX_NOISE, BOX_NOISE, boxes.shape).astype(np.float32)
        noise = rng.uniform(-LOGIT_NOISE, LOGIT_NOISE, scores.shape).astype(np.float32)
        noisy = scores + scores * (1 - scores) * noise
        found, _, found_labels = postprocess(moved, noisy)
        if len(found) != len(wanted):
            return False
        apart = np.abs(wanted[:, None] - found[None]).max(2) + 1e6 * (labels[:, None] != found_labels[None])
        if len(found) and max(apart.min(0).max(), apart.min(1).max()) > 2 * BOX_NOISE:
            return False
    return True


def findings(backend: TorchRuntime, dataset: Any) -> tuple[Images, Nms]:
    """Images whose findings do not hang on rounding, with these as their objects, and what finds them."""
    raw, places = [], []
    for frames in resized_batches(dataset, square_groups(range(LOOKED_AT), backend.size, 1), backend.frame):
        with torch.no_grad():
            found = backend.detector(tensor_of(frames.pixels))
        raw.append((found.boxes[0].numpy(), found.scores()[0].numpy()))
        places.append(frames.placements[0])
    ranked = np.sort(np.concatenate([np.sort(scores, axis=None)[-1000:] for _, scores in raw]))[::-1]
    for start in range(100, len(ranked), 100):
        # A confidence in the widest gap of some scores, low enough for some detections an image.
        near = ranked[start : start + 100]
        gap = int((near[:-1] - near[1:]).argmax())
        # What is found becomes the annotations, unclipped: an untrained network's boxes lie far beyond the image.
        unclipped = with_clip(backend.evaluating, False)
        postprocess = with_thresholds(unclipped, float(near[gap : gap + 2].mean()), 0.65)
        assert isinstance(postprocess, Nms) and postprocess.multi_label
        if sum(len(postprocess(*one)[0]) for one in raw) >= LOOKED_AT * DETECTIONS:
            break
    rows = [row for row, one in enumerate(raw) if is_beyond_rounding(postprocess, *one)][:IMAGES]
    objects = []
    for row in rows:
        boxes, _, labels = postprocess(*raw[row])
        objects.append((places[row].to_original(boxes), labels))
    return Images(dataset, rows, objects), postprocess


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7", "yolov7-w6"])
def test_exported_files_score_like_pytorch(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    dataset = open_dataset(data("coco_mini"), split="val")
    (some,) = resized_batches(dataset, square_groups(range(4), SIZE, 4), variant(name).architecture.frame)
    detector = detector_of(name, tensor_of(some.pixels))
    reference = TorchRuntime(detector, "cpu", size=SIZE)
    images, postprocess = findings(reference, dataset)
    assert len(images) == IMAGES and sum(len(labels) for _, labels in images.objects) > 2 * IMAGES
    wanted = evaluate(reference, images, postprocess).stats
    assert wanted["AP"] > 0.99
    for nms in (None, Nms(0.25, 0.45, multi_label=True, limit=300)):
        exported = export_onnx(detector, tmp_path / "model.onnx", nms=nms, size=SIZE)
        backend = OnnxRuntime(exported.path)
        assert backend.metadata.multi_label and backend.metadata.model == name
        assert clips(backend.evaluating) and not clips(backend.postprocess)
        again = with_thresholds(with_clip(backend.evaluating, False), postprocess.confidence, postprocess.iou)
        assert evaluate(backend, images, again).stats == pytest.approx(wanted, abs=1e-4)
