"""Checks of arguments that are made before any work starts."""

from __future__ import annotations

from onelook.errors import UsageError


def check_thresholds(confidence: float, iou: float) -> None:
    """UsageError unless both are from 0 to 1."""
    for name, value in (("confidence", confidence), ("iou", iou)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is {value:g}.", "Give a number from 0 to 1.")


def check_batch(batch: int) -> None:
    """UsageError for no images at all, and for more than any memory holds."""
    if not 1 <= batch <= 4096:
        raise UsageError(f"batch is {batch}.", "Give a number of images from 1 to 4096.")
