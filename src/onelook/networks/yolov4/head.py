"""The head of YOLOv4: YOLOv3's with scaled centres ("eliminate grid sensitivity", sec. 4.3), or Gaussian YOLO's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.anchor_predictions import anchor_predictions, decode_sigmoid
from onelook.layers.conv import ConvStyle
from onelook.layers.implicit_knowledge import ImplicitConv
from onelook.networks.detector import ClassRows, Head, Neck
from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.types import Predictions, Priors

if TYPE_CHECKING:
    from onelook.types import Pyramid

Coordinates = Literal["exponential", "sigmoid"]
Anchors = tuple[tuple[tuple[float, float], ...], ...]


class PredictionLevel(nn.Module):
    """Prediction layers of one level: a 3x3 to twice the channels (with `expand`), then a 1x1 to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, *, expand: bool, implicit: bool = False) -> None:
        super().__init__()
        self.expand = style.conv(inputs, 2 * inputs, 3) if expand else nn.Identity()
        predict = nn.Conv2d(2 * inputs if expand else inputs, outputs, 1)
        self.predict = ImplicitConv(predict) if implicit else predict

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(self.expand(x))


class Yolov4Head(Head):
    """Predicts boxes, objectness and classes for the anchors of every level.

    anchors: (width, height) in pixels of the network's input, for every level, finest first.  grid_scales: s of every
    level: centres are s sigmoid(t) - (s - 1) / 2 cells from the cell's corner, so that they reach beyond the cell.
    coordinates: "exponential": sides are exp(t) anchors, unbounded; "sigmoid" bounds centre and sides, and scales are
    2 (Darknet's `new_coords`).  coarse_first: rows start with the coarsest level (as in the files of the tiny models).
    gaussian: every box value has an uncertainty (Gaussian YOLO, Choi et al. 2019, sec. 3): an anchor's first eight raw
    values are mean and uncertainty of x, y, width and height; scores are multiplied by 1 - the mean uncertainty.
    implicit: whether the prediction layers have implicit knowledge (YOLOR).
    """

    def __init__(
        self,
        neck: Neck,
        anchors: Anchors,
        grid_scales: Sequence[float],
        num_classes: int,
        style: ConvStyle,
        *,
        expand: bool = True,
        coordinates: Coordinates = "exponential",
        coarse_first: bool = False,
        gaussian: bool = False,
        implicit: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.coordinates = coordinates
        self.gaussian = gaussian
        self.box_values = 8 if gaussian else 4
        outputs = self.box_values + 1 + num_classes
        self.levels = nn.ModuleList(
            PredictionLevel(inputs, len(own) * outputs, style, expand=expand, implicit=implicit)
            for inputs, own in zip(neck.channels, anchors, strict=True)
        )
        self.order = tuple(range(len(anchors)))[:: -1 if coarse_first else 1]
        self.strides = tuple(neck.strides[level] for level in self.order)
        self._anchors = tuple(f"anchors_{level}" for level in self.order)
        for level, own in enumerate(anchors):
            self.register_buffer(f"anchors_{level}", torch.tensor(own, dtype=torch.float32), persistent=False)
        scales = torch.tensor([grid_scales[level] for level in self.order])
        self.register_buffer("grid_scales", scales, persistent=False)

    grid_scales: Tensor

    def forward(self, pyramid: Pyramid) -> Predictions:
        maps = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]
        maps = [maps[level] for level in self.order]
        anchors = [getattr(self, name) for name in self._anchors]
        predictions = anchor_predictions(maps, self.strides, anchors, self.decode, box_values=self.box_values)
        if not self.gaussian:
            return predictions
        return replace(predictions, certainty=1 - predictions.regression[..., 1::2].sigmoid().mean(-1))

    def decode(self, regression: Tensor, priors: Priors) -> Tensor:
        """Decodes raw values (B, N, 4), or alternating means and uncertainties (B, N, 8), to (B, N, 4) xyxy pixels.

        Exponential sides are unbounded and may overflow to infinity.
        """
        means = regression[..., ::2] if self.gaussian else regression
        if self.coordinates == "sigmoid":
            return decode_sigmoid(means, priors)
        return decode_exponential(means, priors, self.grid_scales.to(means.dtype)[priors.levels])

    def class_rows(self) -> dict[str, ClassRows]:
        rows: dict[str, ClassRows] = {}
        for index, level in enumerate(self.levels):
            own = ClassRows(anchors=len(getattr(self, f"anchors_{index}")), before=self.box_values + 1)
            name = f"levels.{index}.predict"
            if isinstance(level.predict, ImplicitConv):
                rows[f"{name}.multiply"] = replace(own, axis=1)
                name = f"{name}.conv"
            rows |= {f"{name}.{kind}": own for kind in ("weight", "bias")}
        return rows


def decode_exponential(regression: Tensor, priors: Priors, scales: Tensor) -> Tensor:
    """Decodes boxes as YOLOv2 (Redmon & Farhadi 2017, fig. 3) with scaled centres: (B, N, 4) to xyxy pixels.

        centre = cell's corner + (s sigmoid(t_xy) - (s - 1) / 2) * stride        sides = exp(t_wh) * anchor

    scales: (N,), s of every row; 1 is YOLOv3. The cell's centre is half a stride from its corner.
    """
    assert priors.sizes is not None  # anchor_predictions sets them
    reach = (scales * priors.strides)[:, None]
    centres = priors.points + (regression[..., :2].sigmoid() - 0.5) * reach
    return cxcywh_to_xyxy(torch.cat((centres, regression[..., 2:4].exp() * priors.sizes), -1))
