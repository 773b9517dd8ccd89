"""Convolutions that train with several branches and run as one (RepVGG, Ding et al. 2021, sec. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvAct, ConvBnAct, ConvStyle, make_activation, identity_norm_tensors
from onelook.ops.fold import fold_batch_norm, folded_convolution, pad_kernel


class RepConv(nn.Module):
    """A k x k and a 1x1 convolution of the same input, each with batch norm, summed and then activated.

    activation: None for the style's.  identity: a third branch, batch norm alone, where channels agree and the stride
    is 1; DAMO-YOLO never has it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: ConvStyle,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        identity: bool = False,
    ) -> None:
        super().__init__()

        def branch(size: int) -> ConvBnAct:
            return ConvBnAct(
                inputs,
                outputs,
                size,
                stride,
                groups=groups,
                activation="identity",
                eps=style.eps,
                momentum=style.momentum,
            )

        self.spatial = branch(kernel)
        self.point = branch(1)
        self.skip: nn.BatchNorm2d | None = None
        if identity and inputs == outputs and stride == 1:
            self.skip = nn.BatchNorm2d(inputs, eps=style.eps, momentum=style.momentum)
        self.activation = make_activation(style.activation if activation is None else activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(x) + self.point(x)
        return self.activation(y if self.skip is None else y + self.skip(x))

    def deploy(self) -> ConvAct:
        """One convolution with bias, equal in evaluation: kernels of all branches, padded and summed in float64."""
        conv = self.spatial.conv
        parts = [fold_batch_norm(branch.conv.weight, None, branch.bn) for branch in (self.spatial, self.point)]
        if self.skip is not None:
            parts.append(fold_batch_norm(identity_kernel(conv), None, self.skip))
        if conv.weight.is_meta:
            return ConvAct(folded_convolution(conv, *parts[0]), self.activation)
        size = conv.weight.shape[-1]
        weight = torch.stack([pad_kernel(kernel.double(), size) for kernel, _ in parts]).sum(0)
        bias = torch.stack([shift.double() for _, shift in parts]).sum(0)
        return ConvAct(
            folded_convolution(conv, weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)), self.activation
        )

    def undeploy(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """The tensors of this form that deploy to a convolution of `weight` and `bias`, in float32.

        The largest kernel has all of it; the 1x1 is zero and the identity has no gain, and both can be trained.
        """
        point = torch.zeros(*weight.shape[:2], 1, 1)
        branches = {
            "spatial": self.spatial.undeploy(weight, bias),
            "point": self.point.undeploy(point, torch.zeros(bias.shape)),
        }
        if self.skip is not None:
            branches["skip"] = identity_norm_tensors(self.skip, torch.zeros(bias.shape)) | {
                "weight": torch.zeros(bias.shape)
            }
        return {f"{branch}.{name}": value for branch, values in branches.items() for name, value in values.items()}


def identity_kernel(conv: nn.Conv2d) -> Tensor:
    """The 1x1 kernel that changes nothing, in the groups, dtype and device of `conv` (as many inputs as outputs)."""
    width = conv.in_channels // conv.groups
    kernel = torch.eye(width, dtype=conv.weight.dtype, device=conv.weight.device).repeat(conv.groups, 1)
    return kernel[:, :, None, None]


class RepResidual(nn.Module):
    """The reversed dark block: a re-parameterised 3x3, then a 1x1, plus the input (YOLOv7, fig. 7).

    The 3x3 of the dark block enters the sum at once, which is an identity path already, so that it may have no identity
    branch (the plan of sec. 4.1). With the order reversed it may, where `hidden` equals `channels`.
    """

    def __init__(self, channels: int, hidden: int, style: ConvStyle) -> None:
        super().__init__()
        self.rep = RepConv(channels, hidden, style, identity=True)
        self.point = style.conv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.rep(x))
