"""The forward pass of a training step with its losses: the module that DistributedDataParallel wraps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.training.distillation import TERM_NAME
from onelook.training.multiscale import resize_batch
from onelook.types import Targets

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.training.distillation import Distiller
    from onelook.training.recipe import AnyLoss


class TrainingStep(nn.Module):
    """The detector with its loss: images and targets in, named losses out.

    channels_last: whether images are converted to that memory layout, in which the detector's weights must be too.
    distiller: the teacher for knowledge distillation, or None.
    """

    def __init__(self, detector: Detector, *, channels_last: bool = False, distiller: Distiller | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.distiller = distiller
        self.align = None if distiller is None else distiller.align
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(
        self,
        images: Tensor,
        targets: Targets,
        size: tuple[int, int],
        loss: AnyLoss,
        distillation_weight: float = 0.0,
    ) -> dict[str, Tensor]:
        """The weighted loss terms of a batch, float32 scalars by name; images (B, 3, H, W) uint8 RGB.

        size: (height, width) that the batch is resized to first (multi-scale training).  distillation_weight: weight of
        the distillation term; at 0 the teacher is not run.
        """
        pixels, targets = resize_batch(images.float(), targets, size)
        pixels = pixels.contiguous(memory_format=self.layout)
        distiller = self.distiller
        if distiller is None:
            predictions = self.detector(pixels)
        else:
            features = self.detector.features(pixels)
            # Gradients are measured by a second backward pass through the head, which a compiled one does not allow.
            head = self.detector.head.forward if distiller.measures else self.detector.head
            predictions = head(features)
            learnt = distiller.targets(pixels) if distillation_weight else None
        # The network may run in half precision; costs, coordinates and losses are always float32.
        with torch.autocast(images.device.type, enabled=False):
            losses = loss(predictions, targets)
            if distiller is not None:
                task = torch.stack(list(losses.values())).sum()
                term = distiller.loss(task, features, predictions, learnt)
                losses[TERM_NAME] = distillation_weight * term if distillation_weight else term
        return losses
