"""Test-time augmentation (TTA): joins a detector's predictions for several copies of an image."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from onelook.networks.detector import Detector


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Runs a detector on scaled and mirrored copies of the images and maps the boxes back (YOLOv7's evaluation).

    copies: scale, and whether left and right are swapped.  fill: grey value, in 0..1, of the padding of a scaled copy,
    right and bottom, to a multiple of the largest stride. A box is divided by the nominal scale, as published: the
    copy's sides are rounded, so that boxes may be off by up to a pixel.
    """

    __test__ = False  # pytest would collect it because of its name

    copies: tuple[tuple[float, bool], ...] = ((1.0, False), (0.83, True), (0.67, False))
    fill: float = 0.447

    def __call__(self, detector: Detector, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns boxes (B, N, 4) xyxy pixels and scores (B, N, C) of all copies; images: (B, 3, H, W) RGB 0..255."""
        stride = max(detector.neck.strides)
        boxes, scores = [], []
        for scale, mirrored in self.copies:
            predictions = detector(self.copy(images, scale, mirrored, stride))
            found = predictions.boxes / scale
            if mirrored:
                left, top, right, bottom = found.unbind(-1)
                found = torch.stack((images.shape[3] - right, top, images.shape[3] - left, bottom), -1)
            boxes.append(found)
            scores.append(predictions.scores())
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def copy(self, images: Tensor, scale: float, mirrored: bool, stride: int) -> Tensor:
        """Returns one scaled and mirrored copy of the images."""
        if mirrored:
            images = images.flip(3)
        if scale == 1:
            return images
        height, width = images.shape[2:]
        sides = int(height * scale), int(width * scale)
        scaled = F.interpolate(images, size=sides, mode="bilinear", align_corners=False)
        bottom, right = (ceil(side * scale / stride) * stride - now for side, now in zip((height, width), sides))
        return F.pad(scaled, (0, right, 0, bottom), value=self.fill * 255)
