"""Implicit knowledge (ImplicitA, ImplicitM): learned constants around a convolution (YOLOR, Wang et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvAct
from onelook.ops.fold import folded_convolution


class ImplicitConv(nn.Module):
    """A 1x1 convolution with implicit knowledge: m * conv(x + a), a and m learned constants (YOLOv7 sec. 4.3).

    add: (1, inputs, 1, 1), initialised from N(0, 0.02).  multiply: (1, outputs, 1, 1), initialised from N(1, 0.02).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.add = _normal(conv.in_channels, 0.0)
        self.multiply = _normal(conv.out_channels, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply * self.conv(x + self.add)

    def deploy(self) -> ConvAct:
        """Returns one equal convolution: `add` changes the bias (b + W a), `multiply` scales kernel and bias."""
        weight, bias = self.conv.weight, self.conv.bias
        if bias is None:
            raise ValueError("implicit knowledge folds into the bias, and this convolution has none")
        if weight.is_meta:
            return ConvAct(folded_convolution(self.conv, weight, bias), nn.Identity())
        gain = self.multiply.double().flatten()
        moved = bias.double() + weight.double().flatten(1) @ self.add.double().flatten()
        kernel = weight.double() * gain[:, None, None, None]
        folded = folded_convolution(self.conv, kernel.to(weight.dtype), (moved * gain).to(bias.dtype))
        return ConvAct(folded, nn.Identity())

    def undeploy(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """Inverse of `deploy`: returns tensors that deploy to `weight` and `bias`; constants 0 and 1 have no effect."""
        return {
            "conv.weight": weight,
            "conv.bias": bias,
            "add": torch.zeros(1, weight.shape[1], 1, 1),
            "multiply": torch.ones(1, weight.shape[0], 1, 1),
        }


def _normal(channels: int, mean: float) -> nn.Parameter:
    values = torch.empty(1, channels, 1, 1)
    # Random numbers on the meta device make torch import its compiler, which takes seconds.
    return nn.Parameter(values if values.is_meta else values.normal_(mean, 0.02))
