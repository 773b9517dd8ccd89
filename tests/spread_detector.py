"""A small detector whose scores spread over 0..1, as a trained one's, and images with its own detections as objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from onelook.exporting.verify import verification_images
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.variants import VARIANTS
from onelook.networks.yolov4.architecture import Yolov4
from onelook.networks.yolox.architecture import Yolox
from onelook.ops.nms import Nms

NAMES = ("cat", "dog", "köw")


def spread_detector(size: tuple[int, int]) -> Detector:
    """A small network whose features stay small."""
    torch.manual_seed(0)
    made = build(Yolox(depth=0.33, width=0.125, size=size), classes=list(NAMES))
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics become those of the one batch below
    with torch.no_grad():
        made(torch.from_numpy(verification_images(size)))
        for name, parameter in made.named_parameters():
            if name.endswith(("classes.bias", "objectness.bias")):
                parameter.fill_(0.5)
            elif name.endswith(("classes.weight", "objectness.weight")):
                parameter.mul_(3)
    return made.eval()


def fresh_detector(size: tuple[int, int]) -> Detector:
    """A freshly initialised network: the normalised features of `spread_detector` amplify the rounding of float16."""
    torch.manual_seed(0)
    return build(Yolox(depth=0.33, width=0.125, size=size)).eval()


def shallow_detector(size: tuple[int, int]) -> Detector:
    """The same with few layers, whose outputs move little when features are rounded; boxes are inside the image."""
    torch.manual_seed(0)
    tiny = VARIANTS["yolov4-tiny"].architecture
    assert isinstance(tiny, Yolov4)
    anchors = tuple(((10.0, 10.0), (14.0, 10.0), (10.0, 14.0)) for _ in tiny.anchors)
    made = build(replace(tiny, width=1 / 8, num_classes=3, size=size, anchors=anchors), classes=list(NAMES))
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        made(torch.from_numpy(verification_images(size)))
        for name, parameter in made.named_parameters():
            if name.startswith("head."):
                parameter.mul_(4 if parameter.dim() > 1 else 0)
                parameter.view(3, 8, -1)[:, :4].mul_(0.05)  # of each anchor: centre and sides, then the scores
    return made.eval()


def own_data(detector: Detector, folder: Path, size: tuple[int, int], images: dict[str, tuple[int, int]]) -> Path:
    """A COCO data set whose objects are the detector's detections. images: first and last + 1 of each split."""
    everything = verification_images(size, max(last for _, last in images.values()))
    with torch.no_grad():
        predictions = detector(torch.from_numpy(everything))
    found = Nms(0.01, 0.65, limit=100).batch(predictions.boxes.numpy(), predictions.scores().numpy())
    (folder / "annotations").mkdir(parents=True)
    for split, (first, last) in images.items():
        (folder / split).mkdir()
        document: dict[str, list[dict[str, object]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)],
        }
        for row in range(first, last):
            name = f"{row:03}.png"
            cv2.imwrite(str(folder / split / name), everything[row].transpose(1, 2, 0)[..., ::-1].astype(np.uint8))
            document["images"].append({"id": row + 1, "file_name": name, "height": size[0], "width": size[1]})
            for box, _, label in zip(*found[row]):
                left, top = (max(float(value), 0.0) for value in box[:2])
                width, height = min(float(box[2]), size[1]) - left, min(float(box[3]), size[0]) - top
                if min(width, height) < 1:
                    continue
                number = len(document["annotations"]) + 1
                document["annotations"].append(
                    {
                        "id": number,
                        "image_id": row + 1,
                        "category_id": int(label) + 1,
                        "bbox": [left, top, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
