"""Lists the convolutions that a module computes, by their shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ConvShape(NamedTuple):
    """A square convolution for one image. side: of its input in pixels.  depthwise: one input channel a group."""

    kernel: int
    stride: int
    inputs: int
    outputs: int
    side: int
    depthwise: bool


def conv_shapes(module: nn.Module, *inputs: Any) -> list[ConvShape]:
    """The shapes of the convolutions of `module(*inputs)`, in the order of execution; each gives zeros, uncomputed.

    The module may be on the meta device, where its weights have shapes only; the inputs are not.
    """
    with torch.no_grad(), _Recorder() as recorder:
        module(*inputs)
    return recorder.found


class _Recorder(TorchFunctionMode):
    """Records the shapes of convolutions, which return zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[ConvShape] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.conv2d:
            return func(*(_without_meta(value) for value in args), **(kwargs or {}))
        x, weight, _, stride, padding, _, groups = args
        outputs, width, kernel, _ = weight.shape
        self.found.append(
            ConvShape(kernel, stride[0], width * groups, outputs, x.shape[2], groups > 1 and groups == width * groups)
        )
        sides = ((side + 2 * pad - kernel) // stride[0] + 1 for side, pad in zip(x.shape[2:], padding))
        return x.new_zeros((len(x), outputs, *sides))


def _without_meta(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) and value.is_meta else value
