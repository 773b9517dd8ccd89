"""The published networks as the reference lists them, layer by layer: the slow obvious way to run one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onelook.ops.boxes import cxcywh_to_xyxy
from shared import reference


@cache
def layers(name: str) -> list[list[Any]]:
    """Rows of the reference's table (described in its "format")."""
    return json.loads((reference("yolov4") / "layers.json").read_text())["models"][name]


def activate(x: Tensor, kind: str) -> Tensor:
    if kind == "mish":
        return x * F.softplus(x).tanh()
    if kind == "leaky":
        return torch.where(x > 0, x, 0.1 * x)
    return x.sigmoid() if kind == "logistic" else x


def run(name: str, tensors: dict[str, Tensor], pixels: Tensor, anchors: list[list[float]]) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (B, N, 85): xyxy pixels, objectness and class probabilities, rows in the file's order."""
    outputs: list[Tensor] = []
    rows = []
    x = pixels
    for _, kind, *entry in layers(name):
        if kind == "conv":
            number, _, _, kernel, stride, groups, norm, activation = entry
            bias = None if norm else tensors[f"conv{number}.bias"]
            x = F.conv2d(x, tensors[f"conv{number}.weight"], bias, stride, kernel // 2, groups=groups)
            if norm:
                state = [tensors[f"bn{number}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
                x = F.batch_norm(x, *state, eps=1e-5)
            x = activate(x, activation)
        elif kind == "maxpool":
            size, stride = entry[:2]
            before = (size - 1) // 2
            x = F.max_pool2d(F.pad(x, (before, size - 1 - before) * 2, value=-torch.inf), size, stride)
        elif kind == "upsample":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif kind == "concat":
            sources, split, part = entry[:3]
            x = torch.cat([outputs[source].chunk(split, 1)[part] for source in sources], 1)
        elif kind == "add":
            source, activation = entry[:2]
            other = outputs[source]
            common = min(x.shape[1], other.shape[1])
            x = torch.cat((x[:, :common] + other[:, :common], x[:, common:]), 1)
            x = activate(x, activation)
        else:
            mask, stride, scale, new_coords = entry
            rows.append(detect(x, [anchors[index] for index in mask], stride, scale, new_coords))
        outputs.append(x)
    return torch.cat(rows, 1)


def detect(x: Tensor, anchors: list[list[float]], stride: int, scale: float, new_coords: int) -> Tensor:
    batch, _, height, width = x.shape
    x = x.reshape(batch, len(anchors), 85, height, width).permute(0, 1, 3, 4, 2)
    probability = x if new_coords else x.sigmoid()
    sizes = x.new_tensor(anchors)[None, :, None, None]
    sides = 4 * x[..., 2:4] ** 2 * sizes if new_coords else x[..., 2:4].exp() * sizes
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1)
    centre = (grid + scale * probability[..., :2] - (scale - 1) / 2) * stride
    boxes = cxcywh_to_xyxy(torch.cat((centre, sides), -1))
    return torch.cat((boxes, probability[..., 4:]), -1).flatten(1, 3)
