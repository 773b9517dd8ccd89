"""Convolution, batch norm and activation: the basic block of all families, and its settings.

`ConvStyle` holds the settings of a network's convolutions; blocks take it instead of separate arguments for activation,
epsilon and momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from onelook.errors import ConfigError, did_you_mean
from onelook.ops.fold import fold_batch_norm, folded_convolution

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": partial(nn.SiLU, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, 0.1, inplace=True),  # slope 0.1 in all Darknet-like networks, not 0.01
    "mish": partial(nn.Mish, inplace=True),  # x tanh(ln(1 + e^x)), Misra 2019
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def make_activation(name: str) -> nn.Module:
    """Returns a new activation module; ConfigError for a name that is not in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"There is no activation '{name}'.{did_you_mean(name, ACTIVATIONS)}", f"Known: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]()


class ConvAct(nn.Module):
    """A convolution with bias and its activation: the deployed form of `ConvBnAct`."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


def identity_norm_tensors(norm: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """Returns tensors, in float32, with which `norm` only adds `bias`."""
    return {
        "weight": torch.ones(bias.shape),
        "bias": bias,
        "running_mean": torch.zeros(bias.shape),
        "running_var": torch.full(bias.shape, 1 - norm.eps),
        "num_batches_tracked": torch.tensor(0),
    }


class ConvBnAct(nn.Module):
    """Convolution without bias, batch norm, activation. Odd kernels keep the size at stride 1, with any `dilation`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        activation: str = "silu",
        eps: float = 1e-3,
        momentum: float = 0.03,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps, momentum=momentum)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)))

    def deploy(self) -> ConvAct:
        """Returns the block with the batch norm folded into the convolution, equal in evaluation."""
        weight, bias = fold_batch_norm(self.conv.weight, self.conv.bias, self.bn)
        return ConvAct(folded_convolution(self.conv, weight, bias), self.activation)

    def undeploy(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """Inverse of `deploy`: returns tensors of this block, in float32, that deploy to `weight` and `bias`.

        The batch norm only adds the bias: with gain 1, mean 0 and variance 1 - eps, `gain / sqrt(variance + eps)` is 1,
        so that outputs agree to the last bit. All of it can be trained.
        """
        return {
            "conv.weight": weight,
            **{f"bn.{name}": value for name, value in identity_norm_tensors(self.bn, bias).items()},
        }


class DepthwiseSeparable(nn.Module):
    """Depthwise separable convolution: k x k on each channel, then 1x1 (MobileNets, Howard et al. 2017, sec. 3.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, style: ConvStyle) -> None:
        super().__init__()
        self.depthwise = style.conv(inputs, inputs, kernel, stride, groups=inputs)
        self.pointwise = style.conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


@dataclass(frozen=True)
class ConvStyle:
    """Settings of a network's convolutions, and the functions that make them.

    activation: a name of `ACTIVATIONS`.  depthwise: whether spatial convolutions are depthwise separable.
    eps, momentum: of batch norm.
    """

    activation: str = "silu"
    depthwise: bool = False
    eps: float = 1e-3
    momentum: float = 0.03

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        activation: str | None = None,
    ) -> ConvBnAct:
        """Makes a full convolution, also if `depthwise` is set; `activation` replaces the style's."""
        return ConvBnAct(
            inputs,
            outputs,
            kernel,
            stride,
            groups=groups,
            dilation=dilation,
            activation=activation or self.activation,
            eps=self.eps,
            momentum=self.momentum,
        )

    def spatial(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
        """Makes a convolution, depthwise separable if `depthwise` is set."""
        if self.depthwise:
            return DepthwiseSeparable(inputs, outputs, kernel, stride, self)
        return self.conv(inputs, outputs, kernel, stride)
