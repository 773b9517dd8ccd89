"""A network as the reference's manifest lists it, layer by layer: the slow and obvious way to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


def head_inputs(
    layers: list[dict[str, Any]], state: dict[str, Tensor], image: Tensor, activation: Activation, eps: float
) -> list[Tensor]:
    """What the last layer of the list is given, for the tensors of `state` under official names."""
    outputs: list[Tensor] = []
    for layer in layers:
        inputs = [image if source == -1 else outputs[source] for source in layer["from"]]
        if layer is layers[-1]:
            return inputs
        outputs.append(_Layer(layer, state, activation, eps).run(inputs))
    raise AssertionError("a list of layers ends in a head")


class _Layer:
    def __init__(self, layer: dict[str, Any], state: dict[str, Tensor], activation: Activation, eps: float) -> None:
        self.layer, self.state, self.activation, self.eps = layer, state, activation, eps
        self.prefix = f"model.{layer['index']}"

    def run(self, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        match self.layer["module"]:
            case "Conv":
                return self.conv("", x, self.layer["step"])
            case "Concat":
                return torch.cat(inputs, 1)
            case "Shortcut":
                return inputs[0] + inputs[1]
            case "MP":
                return F.max_pool2d(x, 2, 2)
            case "SP":
                return F.max_pool2d(x, self.layer["kernel"], 1, self.layer["kernel"] // 2)
            case "Upsample":
                return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            case "ReOrg":
                return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)
            case "DownC":
                strided = self.conv("cv2.", self.conv("cv1.", x), 2)
                return torch.cat((strided, self.conv("cv3.", F.max_pool2d(x, 2, 2))), 1)
            case "SPPCSPC":
                a = self.conv("cv4.", self.conv("cv3.", self.conv("cv1.", x)))
                pools = [F.max_pool2d(a, size, 1, size // 2) for size in (5, 9, 13)]
                b = self.conv("cv6.", self.conv("cv5.", torch.cat([a, *pools], 1)))
                return self.conv("cv7.", torch.cat((b, self.conv("cv2.", x)), 1))
            case "RepConv":
                branches = [self.folded(f"rbr_{kind}.0", f"rbr_{kind}.1", x, 1) for kind in ("dense", "1x1")]
                return self.activation(branches[0] + branches[1])
            case other:
                raise AssertionError(f"unknown layer {other}")

    def conv(self, part: str, x: Tensor, step: int = 1) -> Tensor:
        return self.activation(self.folded(f"{part}conv", f"{part}bn", x, step))

    def folded(self, conv: str, norm: str, x: Tensor, step: int) -> Tensor:
        weight = self.state[f"{self.prefix}.{conv}.weight"]
        y = F.conv2d(x, weight, None, step, weight.shape[-1] // 2)
        kinds = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, shift = (self.state[f"{self.prefix}.{norm}.{kind}"] for kind in kinds)
        return F.batch_norm(y, mean, var, gain, shift, False, 0.0, self.eps)
