"""The module that is exported: a detector with plain tensors as inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector


class ExportGraph(nn.Module):
    """The deploy form of a detector as a module from images to boxes and scores.

    forward: (B, 3, H, W) float32 RGB 0..255 -> (B, N, 4) float32 xyxy pixels of the input, (B, N, C) float32 in [0, 1].
    half: weights and features in float16; inputs, outputs and the decoding of boxes stay float32.
    """

    def __init__(self, detector: Detector, *, half: bool = False) -> None:
        super().__init__()
        self.detector = deploy(detector).to("cpu", torch.float16 if half else torch.float32)
        self.dtype = torch.float16 if half else torch.float32
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = self.detector(images.to(self.dtype))
        return predictions.boxes, predictions.scores()
