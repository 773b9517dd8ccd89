"""Ranks the convolutions of a network by what 8 bits in one of them alone change in its boxes and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onelook.exporting.graph import ExportGraph

BEST_ROWS = 100  # of an image: what detections are made of


def rank_convolutions(
    graph: ExportGraph,
    images: Sequence[np.ndarray],
    *,
    outputs: bool,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> list[tuple[str, float]]:
    """The names of the convolutions' weights and their errors, the largest first.

    images: (1, 3, H, W) float32 each.  outputs: the target rounds what a convolution gives, not only what it takes.

    The error of a convolution is that of the network with this one alone in 8 bits (weights by output channel, features
    by tensor, ranges of these images): the mean of the score differences over the best rows of the images, plus that of
    the box differences as a fraction of the box's longer side. Errors of small noise add up, so this is the share of
    the convolution in the error of the network in 8 bits.
    """
    convolutions = {f"{name}.weight": one for name, one in graph.named_modules() if isinstance(one, nn.Conv2d)}
    batches = [torch.from_numpy(image) for image in images]
    with torch.no_grad():
        ranges = _ranges(graph, convolutions, batches)
        expected = [graph(batch) for batch in batches]
        errors = {}
        for done, (name, convolution) in enumerate(convolutions.items()):
            if name not in ranges:  # not called
                continue
            with _InEightBits(convolution, ranges[name], outputs):
                found = [graph(batch) for batch in batches]
            errors[name] = float(np.mean([_error(*pair) for pair in zip(found, expected)]))
            progress(done + 1, len(convolutions))
    return sorted(errors.items(), key=lambda item: (-item[1], item[0]))


Range = tuple[float, float]


def _ranges(
    graph: ExportGraph, convolutions: dict[str, nn.Conv2d], batches: Sequence[Tensor]
) -> dict[str, tuple[Range, Range]]:
    """The least and greatest value that each convolution takes, and that it gives."""
    found: dict[str, tuple[Range, Range]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            now = [(float(tensor.min()), float(tensor.max())) for tensor in (inputs[0], output)]
            before = found.get(name, now)
            taken, given = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(before, now))
            found[name] = taken, given

        return hook

    hooks = [convolution.register_forward_hook(record(name)) for name, convolution in convolutions.items()]
    for batch in batches:
        graph(batch)
    for hook in hooks:
        hook.remove()
    return found


class _InEightBits:
    """While it lasts, a convolution computes with values of 8 bits."""

    def __init__(self, convolution: nn.Conv2d, ranges: tuple[Range, Range], outputs: bool) -> None:
        self.convolution, self.ranges, self.outputs = convolution, ranges, outputs

    def __enter__(self) -> None:
        self._weight = self.convolution.weight.data
        largest = self._weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        self.convolution.weight.data = (self._weight / largest * 127).round() / 127 * largest
        taken, given = self.ranges
        self._hooks: list[Any] = [
            self.convolution.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0], taken),))
        ]
        if self.outputs:
            self._hooks.append(self.convolution.register_forward_hook(lambda *called: _rounded(called[2], given)))

    def __exit__(self, *_: object) -> None:
        self.convolution.weight.data = self._weight
        for hook in self._hooks:
            hook.remove()


def _rounded(values: Tensor, limits: Range) -> Tensor:
    """The values on 256 steps of a range, one of which is 0."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    step = max(high - low, 1e-12) / 255
    zero = round(-low / step)
    return ((values / step).round().clamp(-zero, 255 - zero)) * step


def _error(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    (boxes, scores), (expected_boxes, expected_scores) = found, expected
    best = expected_scores[0].amax(-1).topk(min(BEST_ROWS, expected_scores.shape[1])).indices
    kept = expected_boxes[0, best]
    side = (kept[:, 2:] - kept[:, :2]).amax(-1, keepdim=True).clamp_min(1.0)
    box = ((boxes[0, best] - kept).abs() / side).clamp_max(1.0).mean()
    score = (scores[0, best] - expected_scores[0, best]).abs().amax(-1).mean()
    return float(torch.nan_to_num(box + score, nan=2.0))
