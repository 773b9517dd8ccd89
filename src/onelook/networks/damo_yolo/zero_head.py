"""ZeroHead (DAMO-YOLO sec. 2.3): one layer for each task after the neck, and boxes as distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.networks.detector import ClassRows, Head, Neck
from onelook.ops.boxes import distances_to_xyxy
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import flatten_levels, grid_priors
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid

PRIOR_PROBABILITY = 0.01  # of a class at a prior, before any training (RetinaNet, sec. 4.1)


@dataclass(frozen=True)
class ZeroHead:
    """Settings of ZeroHead.

    bins: number of values in the distribution of the distance to a side, 0 to bins - 1 strides; objects can have at
    most 2 * (bins - 1) strides of the coarsest level.  depth: number of 3x3 convolutions that both tasks share, before
    their layers (table 5; published is none).  kernel: of the tasks' layers.  spare_class: one class output more than
    classes, which is trained as absent and not returned (weights before v0.3.0).
    """

    bins: int = 17
    depth: int = 0
    kernel: int = 3
    spare_class: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= 256 or not 0 <= self.depth <= 64 or self.kernel not in (1, 3, 5, 7):
            raise ValueError("a head has 2 to 256 bins, a depth of 0 to 64 and a kernel of 1, 3, 5 or 7")

    def build(self, neck: Neck, num_classes: int, style: ConvStyle) -> DistributionHead:
        """Builds the head for a neck."""
        return DistributionHead(self, neck, num_classes, style)


class DistributionHead(Head):
    """Head of one `DistributionLevel` for each level of the neck; nothing is shared between levels.

    Priors are the top-left corners of cells (official behaviour: no half-cell offset). `regression` holds the
    distributions' logits side by side: left, top, right, bottom, each of `bins`.
    """

    project: Tensor

    def __init__(self, form: ZeroHead, neck: Neck, num_classes: int, style: ConvStyle) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.spare = int(form.spare_class)
        self.bins = form.bins
        self.strides = neck.strides
        outputs = num_classes + self.spare
        self.levels = nn.ModuleList(DistributionLevel(inputs, outputs, form, style) for inputs in neck.channels)
        self.register_buffer("project", torch.arange(form.bins, dtype=torch.float32))  # in official weights too

    def forward(self, pyramid: Pyramid) -> Predictions:
        levels = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]
        # Softmax and distances of hundreds of pixels need more than half precision.
        classes, regression = (at_least_float32(flatten_levels(maps)) for maps in zip(*levels))
        shapes = [(features.shape[2], features.shape[3]) for features in pyramid]
        priors = grid_priors(shapes, self.strides, offset=0.0, dtype=classes.dtype, device=classes.device)
        distances = expected_distances(regression, self.project) * priors.strides[:, None]
        boxes = distances_to_xyxy(priors.points, distances)
        if self.spare and not self.training:
            classes = classes[..., : self.num_classes]
        return Predictions(boxes, classes, None, regression, priors)

    def class_rows(self) -> dict[str, ClassRows]:
        names = (f"levels.{index}.classes" for index in range(len(self.levels)))
        return {f"{name}.{kind}": ClassRows(after=self.spare) for name in names for kind in ("weight", "bias")}


class DistributionLevel(nn.Module):
    """One level: a convolution for the classes and one for the distributions, which is scaled by a learned factor."""

    def __init__(self, inputs: int, num_classes: int, form: ZeroHead, style: ConvStyle) -> None:
        super().__init__()
        style = replace(style, depthwise=False)
        self.tower = nn.Sequential(*(style.conv(inputs, inputs, 3) for _ in range(form.depth)))
        pad = form.kernel // 2
        self.classes = nn.Conv2d(inputs, num_classes, form.kernel, padding=pad)
        self.boxes = nn.Conv2d(inputs, 4 * form.bins, form.kernel, padding=pad)
        self.scale = nn.Parameter(torch.tensor(1.0))
        absent = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for layer, bias in ((self.classes, absent), (self.boxes, 0.0)):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            assert layer.bias is not None  # the layers above have one
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns class logits (B, C, H, W) and distribution logits (B, 4 * bins, H, W) for (B, inputs, H, W)."""
        x = self.tower(x)
        return self.classes(x), self.boxes(x) * self.scale


def expected_distances(logits: Tensor, values: Tensor) -> Tensor:
    """Returns the mean (..., 4) of every distribution, for logits (..., 4 * bins) and values (bins,)."""
    # A matrix of one column: OpenCV's DNN module reads no product with a vector.
    return (logits.unflatten(-1, (4, -1)).softmax(-1) @ values.to(logits.dtype)[:, None]).squeeze(-1)
