"""Class shares of images for classifiers: the soft targets that CutMix, MixUp and mosaic produce."""

from __future__ import annotations

import numpy as np

from onelook.types import Sample


def equal_class_shares(image: np.ndarray, sample: Sample) -> Sample:
    """An image that shows the classes of a sample in equal shares; the boxes cover the whole image."""
    count = len(sample.labels)
    return _whole_image(image, sample.labels, np.full(count, 1 / max(count, 1), np.float32))


def mix_class_shares(image: np.ndarray, parts: list[tuple[Sample, float]]) -> Sample:
    """An image made of several samples, each with its part of the area; shares of one class are added."""
    labels = np.concatenate([sample.labels for sample, _ in parts])
    given = [np.ones(len(sample.labels), np.float32) if sample.shares is None else sample.shares for sample, _ in parts]
    shares = np.concatenate([part * share for (_, part), share in zip(parts, given)])
    classes, places = np.unique(labels, return_inverse=True)
    return _whole_image(image, classes, np.bincount(places, shares, len(classes)).astype(np.float32))


def _whole_image(image: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> Sample:
    height, width = image.shape[:2]
    boxes = np.tile(np.array((0, 0, width, height), np.float32), (len(labels), 1))
    return Sample(image, boxes, labels, shares=shares)
