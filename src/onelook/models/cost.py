"""What a detector costs: parameters, and arithmetic."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from onelook.models.deploy import deploy
from onelook.models.detector import Detector


def count_parameters(module: nn.Module) -> int:
    """Values of all parameters; buffers, such as running statistics, are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_gflops(detector: Detector, size: tuple[int, int]) -> float:
    """2e-9 x the multiply-accumulates of all convolutions of the deploy form, for one image of `size`.

    Biases, activations, pooling and decoding are not counted. Nothing is computed: shapes alone are followed.
    """
    shapes = deploy(deepcopy(detector).to("meta"))
    counter = _ConvolutionCounter()
    dtype = next(shapes.parameters()).dtype
    with torch.no_grad(), counter:
        shapes(torch.empty((1, 3, *size), dtype=dtype, device="meta"))
    return 2e-9 * counter.multiply_accumulates


class _ConvolutionCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of every convolution that runs under it, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_accumulates = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.multiply_accumulates += result.numel() * args[1][0].numel()
        return result
