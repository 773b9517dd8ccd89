"""One pass of a training: what DistributedDataParallel and `torch.compile` wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.training.distill import TERM_NAME
from onelook.training.multiscale import resize_batch
from onelook.types import Targets

if TYPE_CHECKING:
    from onelook.models.detector import Detector
    from onelook.training.distill import Distiller
    from onelook.training.recipe import AnyLoss


class TrainingStep(nn.Module):
    """Images and their objects in, named losses out.

    channels_last: whether images enter in that memory layout; the detector's weights must be in it too.  teaching: the
    teacher whose features are learnt as well, None for none.
    """

    def __init__(self, detector: Detector, *, channels_last: bool = False, teaching: Distiller | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.teaching = teaching
        self.align = None if teaching is None else teaching.align
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(
        self,
        images: Tensor,
        targets: Targets,
        size: tuple[int, int],
        loss: AnyLoss,
        teaching: float = 0.0,
    ) -> dict[str, Tensor]:
        """(B, 3, H, W) uint8 RGB and the objects in it -> every term's weighted value, float32 scalars.

        size: (height, width) that the batch is resized to first (multi-scale training).  teaching: weight of the
        teacher's term; at 0 the teacher does not look.
        """
        pixels, targets = resize_batch(images.float(), targets, size)
        pixels = pixels.contiguous(memory_format=self.layout)
        if self.teaching is None:
            predictions = self.detector(pixels)
        else:
            features = self.detector.features(pixels)
            predictions = self.detector.head(features)
            wanted = self.teaching.features(pixels) if teaching else None
        # What the network says may be half precision; costs, coordinates and losses never are.
        with torch.autocast(images.device.type, enabled=False):
            losses = loss(predictions, targets)
            if self.align is not None:
                losses[TERM_NAME] = self.align.rest() if wanted is None else teaching * self.align(features, wanted)
        return losses
