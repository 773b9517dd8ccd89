"""The anchor head of YOLOv7 with implicit knowledge, and its auxiliary head."""

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
from onelook.networks.detector import ClassRows, Head, Neck
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid

Anchors = tuple[tuple[tuple[float, float], ...], ...]
"""For every level, finest first, the (width, height) of its anchors in pixels."""

_BOX_AND_OBJECTNESS = 5  # values of an anchor before its classes


class Yolov7Head(Head):
    """One 1x1 convolution for each level; each anchor of a cell has tx, ty, tw, th, objectness and the classes.

    Rows of the predictions are ordered by level, finest first, then anchor, then row-major:
    row = offset of the level + (anchor * H + y) * W + x. `regression` is (B, N, 4) raw tx, ty, tw, th, and
    `priors.sizes` are the anchors in pixels. Decoded by `decode_sigmoid`, with s the sigmoid:

        centre = (2 s(t_xy) - 0.5 + cell) * stride        sides = (2 s(t_wh))^2 * anchor

    In training, `auxiliary` has the same rows for the auxiliary layers, if the neck has outputs for them; they have no
    implicit knowledge. With one class, objectness alone is the score (official code, which then has no class loss).
    anchors: constants that are not in the state: they are part of the architecture.
    """

    def __init__(self, neck: Neck, num_classes: int, anchors: Anchors, *, implicit: bool = True) -> None:
        super().__init__()
        if len(anchors) != len(neck.strides) or len({len(level) for level in anchors}) != 1:
            raise ValueError(f"the neck has {len(neck.strides)} levels; each needs the same number of anchors")
        self.num_classes = num_classes
        self.num_anchors = len(anchors[0])
        self.strides = neck.strides
        # On the CPU also if the model is built on the meta device: these constants need values.
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
        predictions = anchor_predictions(maps, self.strides, tuple(self.anchors), decode_sigmoid)
        return replace(predictions, scored_by_objectness=self.num_classes == 1)

    def _layers(self, channels: Sequence[int]) -> list[nn.Conv2d]:
        outputs = self.num_anchors * (_BOX_AND_OBJECTNESS + self.num_classes)
        return [
            self._with_prior(nn.Conv2d(inputs, outputs, 1), stride) for inputs, stride in zip(channels, self.strides)
        ]

    def _with_prior(self, layer: nn.Conv2d, stride: int) -> nn.Conv2d:
        """Adds to PyTorch's random bias: about 8 objects on each level of a 640 x 640 image, equally likely classes.

        Without it, the first steps would be spent on learning that most priors have no object.
        """
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
