"""Makes weights with folded batch norm trainable: restores the statistics of batch norm and the scale of filters.

Weights whose batch norm was folded (exported files) are loaded with an identity in its place. That is correct for
inference, but in training batch norm divides by the statistics of the batch, so the first step would lose the scale of
every feature. Measuring the statistics and changing gain and bias to match gives the same function in evaluation and
nearly the same in training, so that fine-tuning starts at the accuracy of the weights.

Folding also loses the scale of the filters. With batch norm their scale has no effect on the outputs, but it has one on
training: a step rotates a filter by rate * |gradient| / |filter|, and the gradient shrinks as the filter grows. In a
trained network filters have grown until weight decay balances the gradients (van Laarhoven 2017, arXiv 1706.05350). A
folded first layer with input pixels up to 255 is about a hundred times smaller than that, and one step at the lowest
published rate would destroy it; `enlarge_small_filters` enlarges such filters again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onelook.devices import widest_float

# |gradient| / |filter| at the equilibrium rate * ratio ** 2 = 2 * decay, with rate 0.01 and weight decay 5e-4 of the
# published trainings of YOLOX, YOLOv7 and DAMO-YOLO.
MAX_GRADIENT_RATIO = math.sqrt(2 * 5e-4 / 0.01)


class _Moments:
    """Mean and variance of the input of one batch norm, for each channel, over several batches."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.sum = torch.zeros(channels, dtype=widest_float(device), device=device)
        self.squares = torch.zeros_like(self.sum)
        self.count = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().to(self.sum.dtype)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        self.sum += x.sum(axes)
        self.squares += (x * x).sum(axes)
        self.count += x.numel() // x.shape[1]

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean * mean).clamp_(min=0.0)


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Sets the statistics of every batch norm to those of some batches, without a change of the model's outputs.

    batches: images (B, 3, H, W) as the model takes them; a few hundred images are enough. Returns the number of images;
    with none, or without batch norms, the model is not changed. Gain and bias are changed to match, so the outputs in
    evaluation are the same up to rounding (a constant channel gets a gain as small as its deviation).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    moments = [_Moments(norm.num_features, norm.weight.device) for norm in norms]
    hooks = [norm.register_forward_pre_hook(moment) for norm, moment in zip(norms, moments)]
    was_training = model.training
    model.eval()
    images = 0
    try:
        for batch in batches:
            model(batch)
            images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    for norm, moment in zip(norms, moments):
        if moment.count:
            _rescale(norm, *moment.result())
    return images


def _rescale(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Changes the statistics of a batch norm, and gain and bias so that it is the same affine function."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() + scale * (mean - norm.running_mean.double())
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def enlarge_small_filters(
    model: nn.Module, batches: Iterable[Callable[[], Tensor]], max_ratio: float = MAX_GRADIENT_RATIO
) -> dict[str, float]:
    """Enlarges filters in front of batch norms that are too small to be trained; the outputs do not change.

    batches: each computes the loss of one batch with `model` in training mode; a few are enough.  max_ratio: the
    largest |gradient| / |filter| allowed, both over a whole layer. Returns the enlarged layers, by name, with their
    factors. Statistics of batch norm are not changed, and no gradients are left.
    """
    pairs = _Pairs(model)
    squares: dict[nn.Conv2d, float] = {}
    count = 0
    with _frozen_statistics(model), pairs.record():
        for loss in batches:
            model.zero_grad(set_to_none=True)
            loss().backward()
            count += 1
            for conv in pairs.found:
                if conv.weight.grad is not None:
                    squares[conv] = squares.get(conv, 0.0) + float(conv.weight.grad.double().square().sum())
    model.zero_grad(set_to_none=True)
    enlarged = {}
    names = {module: name for name, module in model.named_modules()}
    for conv, total in squares.items():
        size = float(conv.weight.detach().double().norm())
        ratio = math.sqrt(total / count) / size if size else 0.0
        if max_ratio < ratio < math.inf:
            # The gradient falls as the filter grows, so the ratio falls with the square.
            enlarged[names[conv]] = factor = math.sqrt(ratio / max_ratio)
            _enlarge(conv, pairs.found[conv], factor)
    return enlarged


class _Pairs:
    """Finds the convolutions whose output goes into a batch norm only, with hooks in a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[nn.Conv2d, _BatchNorm] = {}
        self._model = model
        self._last: tuple[nn.Conv2d, Tensor] | None = None

    @contextmanager
    def record(self) -> Iterator[None]:
        hooks = []
        for module in self._model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                hooks.append(module.register_forward_hook(self._convolved))
            elif isinstance(module, _BatchNorm) and module.affine:
                hooks.append(module.register_forward_pre_hook(self._normalised))
        try:
            yield
        finally:
            self._last = None
            for hook in hooks:
                hook.remove()

    def _convolved(self, conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        self._last = (conv, output)

    def _normalised(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        if self._last is not None and self._last[1] is inputs[0]:
            self.found[self._last[0]] = norm


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Sets training mode, with the running statistics of batch norm frozen."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [
        (norm, norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone())
        for norm in norms
    ]
    was_training = model.training
    model.train()
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        model.train(was_training)
        for norm, momentum, tracked in kept:
            norm.momentum = momentum
            if tracked is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(tracked)


@torch.no_grad()
def _enlarge(conv: nn.Conv2d, norm: _BatchNorm, factor: float) -> None:
    """Multiplies filters by `factor`, and changes the batch norm so that its outputs stay the same."""
    assert norm.running_mean is not None and norm.running_var is not None
    before = (norm.running_var.double() + norm.eps).sqrt()
    conv.weight.mul_(factor)
    norm.running_mean.mul_(factor)
    norm.running_var.mul_(factor * factor)
    norm.weight.copy_(norm.weight.double() * (norm.running_var.double() + norm.eps).sqrt() / (factor * before))
