"""RepConv: convolutions with several branches in training, merged into one for inference (RepVGG, Ding et al. 2021).

Planned re-parameterisation (YOLOv7 sec. 4.1) decides where the identity branch is left out: see `ElanChain`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvAct, ConvBnAct, ConvStyle, identity_norm_tensors, make_activation
from onelook.ops.fold import fold_batch_norm, folded_convolution, pad_kernel


class RepConv(nn.Module):
    """Re-parameterised convolution: sum of k x k and 1x1 convolutions, each with batch norm, then activation.

    activation: None for the style's.  identity: adds a third branch, batch norm alone, if channels agree and the stride
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
        """Returns one equal convolution with bias: the kernels of all branches, padded and summed in float64."""
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
        """Inverse of `deploy`: returns tensors of this block, in float32, that deploy to `weight` and `bias`.

        The k x k branch gets the whole kernel; the 1x1 and the gain of the identity are zero, and all can be trained.
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
    """Returns the 1x1 identity kernel for the groups, dtype and device of `conv` (as many inputs as outputs)."""
    width = conv.in_channels // conv.groups
    kernel = torch.eye(width, dtype=conv.weight.dtype, device=conv.weight.device).repeat(conv.groups, 1)
    return kernel[:, :, None, None]


class RepResidual(nn.Module):
    """Reversed dark block with RepConv: a re-parameterised 3x3, then a 1x1, plus the input (YOLOv7, fig. 7).

    In the dark block the 3x3 is directly before the sum with the input, so that it must not have an identity branch
    (planned re-parameterisation, sec. 4.1). In reversed order it may have one, if `hidden` equals `channels`.
    """

    def __init__(self, channels: int, hidden: int, style: ConvStyle) -> None:
        super().__init__()
        self.rep = RepConv(channels, hidden, style, identity=True)
        self.point = style.conv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.rep(x))
