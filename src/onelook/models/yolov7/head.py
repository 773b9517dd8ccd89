"""The anchor head of YOLOv7 with implicit knowledge, and its auxiliary twin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.anchor_predictions import anchor_predictions, decode_sigmoid
from onelook.layers.implicit_knowledge import ImplicitConv
from onelook.layers.training_only import TrainingOnly
from onelook.models.detector import ClassRows, Head, Neck
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid

Anchors = tuple[tuple[tuple[float, float], ...], ...]
"""For every level, finest first, the (width, height) of its anchors in pixels."""

_BOX_AND_OBJECTNESS = 5  # values of an anchor before its classes


class Yolov7Head(Head):
    """One 1x1 convolution a level; three anchors a cell, each with tx, ty, tw, th, objectness and the classes.

    Rows of the predictions: level by level, finest first; inside a level anchor by anchor, then row by row:
    row = offset of the level + (anchor * H + y) * W + x. `regression` is (B, N, 4) raw tx, ty, tw, th, and
    `priors.sizes` are the anchors in pixels. Decoded (`layers.anchors.decode_sigmoid`), with s the logistic function:

        centre = (2 s(t_xy) - 0.5 + cell) * stride        sides = (2 s(t_wh))^2 * anchor

    `auxiliary` is there in training if the neck feeds it: the same rows of the auxiliary layers, which have no implicit
    knowledge. A model of one class scores by objectness alone (official code, which then has no class loss).
    anchors: cannot be learned, and are no part of the state: the architecture says them.
    """

    def __init__(self, neck: Neck, num_classes: int, anchors: Anchors, *, implicit: bool = True) -> None:
        super().__init__()
        if len(anchors) != len(neck.strides) or len({len(level) for level in anchors}) != 1:
            raise ValueError(f"{len(neck.strides)} levels need as many groups of equally many anchors")
        self.num_classes = num_classes
        self.num_anchors = len(anchors[0])
        self.strides = neck.strides
        # Constants have values also where a model of mere shapes is made, on the meta device.
        self.register_buffer("anchors", torch.tensor(anchors, device="cpu"), persistent=False)
        lead = self._layers(neck.channels)
        self.lead = nn.ModuleList(ImplicitConv(layer) if implicit else layer for layer in lead)
        self.auxiliary = TrainingOnly(self._layers(neck.auxiliary_channels))

    anchors: Tensor

    def forward(self, pyramid: Pyramid) -> Predictions:
        count = len(self.lead)
        predictions = self._predictions(self.lead, pyramid[:count])
        if len(pyramid) > count:
            predictions = replace(predictions, auxiliary=self._predictions(self.auxiliary, pyramid[count:]))
        return predictions

    def _predictions(self, layers: Iterable[nn.Module], features: Sequence[Tensor]) -> Predictions:
        maps = [layer(level) for layer, level in zip(layers, features, strict=True)]
        found = anchor_predictions(maps, self.strides, tuple(self.anchors), decode_sigmoid)
        return replace(found, scored_by_objectness=self.num_classes == 1)

    def _layers(self, channels: Sequence[int]) -> list[nn.Conv2d]:
        outputs = self.num_anchors * (_BOX_AND_OBJECTNESS + self.num_classes)
        return [
            self._with_prior(nn.Conv2d(inputs, outputs, 1), stride) for inputs, stride in zip(channels, self.strides)
        ]

    def _with_prior(self, layer: nn.Conv2d, stride: int) -> nn.Conv2d:
        """Raises PyTorch's random bias to about 8 objects a level of a 640 x 640 image, all classes being as likely."""
        assert layer.bias is not None  # made with one
        with torch.no_grad():
            bias = layer.bias.view(self.num_anchors, -1)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, _BOX_AND_OBJECTNESS:] += math.log(0.6 / (self.num_classes - 0.99))
        return layer

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(self.num_anchors, before=_BOX_AND_OBJECTNESS)
        found: dict[str, ClassRows] = {}
        for group in ("lead", "auxiliary"):
            for index, layer in enumerate(getattr(self, group)):
                name = f"{group}.{index}" if isinstance(layer, nn.Conv2d) else f"{group}.{index}.conv"
                found |= {f"{name}.weight": rows, f"{name}.bias": rows}
                if isinstance(layer, ImplicitConv):
                    found[f"{group}.{index}.multiply"] = replace(rows, axis=1)
        return found
