"""Batches that are on the device before they are needed; their images may be made there too (`--augment-on device`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from onelook.data.batch import Batch, PlannedBatch
from onelook.data.loader import Loader
from onelook.errors import ConfigError

if TYPE_CHECKING:
    from onelook.training.recipe import Recipe


def check_augment_on_device(recipe: Recipe, device: torch.device) -> None:
    """ConfigError where a recipe has an augmentation whose images only the CPU makes, or the device makes none."""
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(f"Images are not made on a device of the type {device.type}.", "Leave --augment-on away.")
    closing = None if recipe.closing is None else recipe.closing.augment
    augments: dict[str, Any] = {"augment": recipe.augment, "closing.augment": closing}
    for path, augment in augments.items():
        if augment is None:
            continue
        name = type(augment).__name__
        if not hasattr(augment, "plan"):
            raise ConfigError(f"The images of {name} ({path}) are not made on a device.", "Leave --augment-on away.")
        if augment.not_planned:
            settings = [f"{path}.{one}" for one in augment.not_planned]
            raise ConfigError(
                f"The images of {name} are not made on a device with {' and '.join(settings)}.",
                f"Leave --augment-on away, or change the recipe: {_changes(augment, path)}.",
            )
    if recipe.batch_augments:
        raise ConfigError(
            "Images are not made on a device with batch_augments.", "Leave --augment-on away, or set batch_augments=[]."
        )


def _changes(augment: Any, path: str) -> str:
    """What to change so that the images can be made on a device."""
    changes = (
        f"{path}.{one}.interpolation=linear" if "frame" in one else f"{path}.{one}=none" for one in augment.not_planned
    )
    return " ".join(changes)


class DeviceBatches:
    """The batches of a loader, copied to a device, where described images (`Loader.plans`) are rendered.

    On CUDA the copy and the rendering of a batch run beside the step before it, on a stream of their own: two batches
    are on the device at a time. Elsewhere each is made when it is needed. Who made the loader closes it.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, augment: Any, first: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based) from number `first` on; see `Loader.epoch`."""
        batches: Iterator[Batch | PlannedBatch]
        if self.loader.plans:
            batches = self.loader.planned_epoch(epoch, augment, first)
        else:
            batches = self.loader.epoch(epoch, augment, first)
        if self._stream is None:
            yield from map(self._moved, batches)
            return
        waiting: Batch | None = None
        for batch in batches:
            with torch.cuda.stream(self._stream):
                coming, ready = self._moved(batch), self._stream.record_event()
            if waiting is not None:
                yield waiting
            waiting = self._handed_over(coming, ready)
        if waiting is not None:
            yield waiting

    def _moved(self, batch: Batch | PlannedBatch) -> Batch:
        images = batch.images.to(self.device, non_blocking=True)
        made = images if isinstance(images, torch.Tensor) else images.render()
        return Batch(made, batch.targets.to(self.device, non_blocking=True), batch.indices)

    def _handed_over(self, batch: Batch, ready: torch.cuda.Event) -> Batch:
        """The batch for the stream of the step, which begins with it when it is ready."""
        current, targets = torch.cuda.current_stream(self.device), batch.targets
        current.wait_event(ready)
        for tensor in (batch.images, targets.boxes, targets.labels, targets.valid, targets.shares):
            if tensor is not None:
                tensor.record_stream(current)  # its memory is not reused before the step has read it
        return batch
