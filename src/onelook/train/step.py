"""One pass of a training: what DistributedDataParallel and `torch.compile` wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.train.multiscale import rescale
from onelook.types import Targets

if TYPE_CHECKING:
    from onelook.losses.loss import DetectionLoss
    from onelook.models.detector import Detector


class TrainingStep(nn.Module):
    """Images and their objects in, named losses out.

    channels_last: whether images enter in that memory layout; the detector's weights must be in it too.
    """

    def __init__(self, detector: Detector, *, channels_last: bool = False) -> None:
        super().__init__()
        self.detector = detector
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(
        self, images: Tensor, targets: Targets, size: tuple[int, int], loss: DetectionLoss
    ) -> dict[str, Tensor]:
        """(B, 3, H, W) uint8 RGB and the objects in it -> every term's weighted value, float32 scalars.

        size: (height, width) that the batch is resized to first (multi-scale training).
        """
        pixels, targets = rescale(images.float(), targets, size)
        predictions = self.detector(pixels.contiguous(memory_format=self.layout))
        # What the network says may be half precision; costs, coordinates and losses never are.
        with torch.autocast(images.device.type, enabled=False):
            return loss(predictions, targets)
