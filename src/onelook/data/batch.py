"""Batches of a training: samples of one size with their objects padded, images made or described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from onelook.augment.colour import HsvMap
from onelook.augment.image_plan import PlanCanvas, PlannedSample
from onelook.ops.warp import IMAGE_COLUMNS, LAYER_COLUMNS, WarpBatch, pack_pixels
from onelook.types import Sample, Targets

_NOTHING, _UNCHANGED = PlanCanvas((), 0), HsvMap()


class _Objects(Protocol):
    """The objects of a `Sample` or a `PlannedSample`."""

    @property
    def boxes(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def shares(self) -> np.ndarray | None: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """images: (B, 3, H, W) uint8 RGB (channels last in memory).  targets: their objects.  indices: data set rows."""

    images: Tensor
    targets: Targets
    indices: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # PyTorch sends a tensor to another process as a file of its own, with several messages back and forth, each of
        # which may wait for a processor on a busy machine. Objects are few bytes: they are sent in the message itself.
        return _unpickled, (Batch, self.images, _columns(self.targets), self.indices)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which an accelerator can fetch it while it works."""
        return replace(self, images=self.images.pin_memory(), targets=_pinned(self.targets))


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """A `Batch` whose images are made on the device, from source pixels and descriptions."""

    images: WarpBatch
    targets: Targets
    indices: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (PlannedBatch, self.images, _columns(self.targets), self.indices)

    def pin_memory(self) -> PlannedBatch:
        """A copy in page-locked memory."""
        return replace(self, images=self.images.pin_memory(), targets=_pinned(self.targets))


def _columns(targets: Targets) -> list[np.ndarray]:
    """The tensors of targets as arrays; `shares` is left out where there is none."""
    columns = (targets.boxes, targets.labels, targets.valid, targets.shares)
    return [column.numpy() for column in columns if column is not None]


def _unpickled(kind: Any, images: Tensor | WarpBatch, columns: Sequence[np.ndarray], indices: tuple[int, ...]) -> Any:
    """The batch that `__reduce__` packed."""
    return kind(images, Targets(*(torch.from_numpy(column) for column in columns)), indices)


def _pinned(targets: Targets) -> Targets:
    shares = None if targets.shares is None else targets.shares.pin_memory()
    return Targets(targets.boxes.pin_memory(), targets.labels.pin_memory(), targets.valid.pin_memory(), shares)


def collate(samples: Sequence[Sample], indices: tuple[int, ...], max_labels: int | None) -> Batch:
    """Samples of one size as a batch; objects beyond `max_labels` (None is no limit) are dropped in order."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Batch(images.permute(0, 3, 1, 2), _targets(samples, max_labels), indices)


def collate_planned(samples: Sequence[PlannedSample], indices: tuple[int, ...], max_labels: int | None) -> PlannedBatch:
    """The same of samples whose images are made on the device."""
    return PlannedBatch(_packed(samples), _targets(samples, max_labels), indices)


def _targets(samples: Sequence[_Objects], max_labels: int | None) -> Targets:
    """The objects of some samples, padded."""
    counts = [len(sample.labels[:max_labels]) for sample in samples]
    most = max(counts)
    boxes, labels = np.zeros((len(samples), most, 4), np.float32), np.zeros((len(samples), most), np.int64)
    for row, (sample, count) in enumerate(zip(samples, counts)):
        boxes[row, :count], labels[row, :count] = sample.boxes[:count], sample.labels[:count]
    valid = np.arange(most) < np.array(counts)[:, None]
    shares = None
    if any(sample.shares is not None for sample in samples):
        shares = torch.zeros(len(samples), most)
        for row, sample in enumerate(samples):
            if sample.shares is not None:
                shares[row, : counts[row]] = torch.from_numpy(sample.shares[: counts[row]])
    return Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(valid), shares)


def _packed(samples: Sequence[PlannedSample]) -> WarpBatch:
    """The descriptions of some images as one."""
    canvases = [(sample.first, sample.second or _NOTHING) for sample in samples]
    first, second = (max(len(pair[number].layers) for pair in canvases) for number in (0, 1))
    layers = np.zeros((len(samples), first + second, LAYER_COLUMNS))
    images = np.zeros((len(samples), IMAGE_COLUMNS))
    pixels, places = pack_pixels([layer.pixels for pair in canvases for canvas in pair for layer in canvas.layers])
    numbers = iter(places)
    for row, (sample, pair) in enumerate(zip(samples, canvases)):
        for canvas, start in zip(pair, (0, first)):
            for column, layer in enumerate(canvas.layers, start):
                height, width = layer.pixels.shape[:2]
                values = (next(numbers), width, height, *layer.matrix.ravel(), *layer.covered, *layer.rectangle)
                layers[row, column] = values
        colours = sample.colours or _UNCHANGED
        images[row] = (
            *(canvas.fill for canvas in pair),
            1.0 if sample.second is None else sample.share,
            sample.colours is not None,
            colours.reversed,
            *colours.factors,
            *colours.added,
            *sample.coloured,
        )
    return WarpBatch(pixels, torch.from_numpy(layers), torch.from_numpy(images), samples[0].size, first)
