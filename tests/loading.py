"""A small data set and its batches, for the tests of the loader."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from onelook.augment.yolox import SingleImageAugment
from onelook.data import open_dataset
from onelook.data.loader import Loader
from onelook.data.split import Dataset

STILL = SingleImageAugment(hsv=None, flip=0.0)


def ten_images(root: Path) -> Dataset:
    """Ten 96x64 images whose red value tells their row; cups on the even ones, a fork on row 1 only, row 9 is empty."""
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    images, annotations = [], []
    for row in range(10):
        image = np.full((64, 96, 3), 10, np.uint8)
        image[..., 2] = 20 * row
        cv2.imwrite(str(root / "train" / f"{row}.png"), image)
        images.append({"id": row, "file_name": f"{row}.png", "height": 64, "width": 96})
        kinds = {1: [0, 1], 9: []}.get(row, [0])
        for kind in kinds:
            box = [10.0 + kind, 10.0, 30.0, 40.0]
            entry = {"id": len(annotations) + 1, "image_id": row, "category_id": kind, "bbox": box, "area": 1200.0}
            annotations.append({**entry, "iscrowd": 0})
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "fork"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(whole))
    return open_dataset(root, "train")


def seen(
    loader: Loader, epoch: int, augment: object = STILL, first: int = 0
) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    return [(batch.indices, batch.images.clone()) for batch in loader.epoch(epoch, augment, first)]


def equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other))
