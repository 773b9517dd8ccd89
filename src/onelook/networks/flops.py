"""Counts the parameters and the FLOPs of a detector."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from onelook.layers.rep_conv import RepConv
from onelook.networks.classifier import Classifier
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector


def count_parameters(module: nn.Module) -> int:
    """Returns the number of parameter values; buffers, such as running statistics, are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_gflops(detector: Detector | Classifier, size: tuple[int, int], *, biases: bool = False) -> float:
    """Returns 2e-9 x the multiply-accumulates of all convolutions in deploy form, for one image of (height, width).

    Activations, pooling and decoding are not counted.  biases: also count them, one operation for every element of an
    output, as YOLOv7's paper does. No convolution is computed, so a detector on the meta device can be counted too.
    """
    deployed: Detector | Classifier = detector
    if not detector.deployed:
        deployed = deploy(detector)
    with torch.no_grad(), _ConvolutionCounter() as counter:
        smallest = _run_smallest(deployed)
    counted = counter.multiply_accumulates + (counter.biases if biases else 0)
    return 2e-9 * counted * (size[0] * size[1]) / smallest**2


def count_profiler_gflops(detector: Detector | Classifier, size: tuple[int, int], *, per_norm: int = 2) -> float:
    """Returns the GFLOPs of the training form as YOLOX's paper counts them, with the profiler thop.

    2e-9 x (multiply-accumulates + `per_norm` for every input element of a batch norm + 1 for every input element of a
    leaky ReLU): inferred, and equal to the published numbers of all its models. SiLU is not counted.
    """
    network = deepcopy(detector).eval()  # in training mode, batch norms would update their statistics
    with torch.no_grad(), _ConvolutionCounter() as counter:
        smallest = _run_smallest(network)
    counted = counter.multiply_accumulates + per_norm * counter.normalised + counter.leaky
    return 2e-9 * counted * (size[0] * size[1]) / smallest**2


def count_merged(detector: Detector, size: tuple[int, int], *, per_norm: int = 2) -> tuple[int, float]:
    """Returns (parameters, GFLOPs) as DAMO-YOLO's paper counts them: RepConvs merged, batch norms not folded.

    GFLOPs are those of `count_profiler_gflops`. Equal to the published numbers of its models with 2 for every input
    element of a batch norm, and of S and its ablations with 4, as later versions of the profiler count affine ones.
    """
    merged = deepcopy(detector)
    for module in list(merged.modules()):
        for name, child in module.named_children():
            if isinstance(child, RepConv):
                setattr(module, name, child.deploy())
    return count_parameters(merged), count_profiler_gflops(merged, size, per_norm=per_norm)


def _run_smallest(network: Detector | Classifier) -> int:
    """Runs the convolutions for the smallest possible image, and returns its side.

    The sides of every map are proportional to those of the image, so the count for other sizes follows.
    """
    parts = () if isinstance(network, Classifier) else (network.neck, network.head)
    smallest = max(network.backbone.strides if isinstance(network, Classifier) else network.neck.strides)
    found: Any = network.backbone(torch.zeros(1, 3, smallest, smallest))
    for part in parts:
        found = part(found)
    return smallest


class _ConvolutionCounter(TorchFunctionMode):
    """Counts the multiply-accumulates of every convolution called under it; the convolutions return zeros.

    Also counts added biases and the input elements of batch norms and leaky ReLUs, which return their input.

    Only the shapes of weights are read. PyTorch's meta device could compute shapes too, but imports the compiler, which
    takes longer than counting all models.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_accumulates = 0
        self.biases = 0
        self.normalised = 0
        self.leaky = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            self.normalised += args[0].numel()
            return args[0]
        if func is F.leaky_relu:
            self.leaky += args[0].numel()
            return args[0]
        if func is not F.conv2d:
            return func(*(_without_meta(value) for value in args), **(kwargs or {}))
        x, weight, bias, stride, padding, dilation, _ = args
        sides = (
            (side + 2 * pad - gap * (width - 1) - 1) // step + 1
            for side, pad, gap, width, step in zip(x.shape[2:], padding, dilation, weight.shape[2:], stride)
        )
        result = x.new_zeros((len(x), len(weight), *sides))
        self.biases += 0 if bias is None else result.numel()
        self.multiply_accumulates += result.numel() * weight[0].numel()
        return result


def _without_meta(value: Any) -> Any:
    """Replaces tensors on the meta device, such as anchors, by zeros, because the features here are on the CPU."""
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) and value.is_meta else value
