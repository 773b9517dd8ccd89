"""Anchor boxes for a data set: how well given anchors fit its objects, and better ones by k-means and mutation.

An anchor fits an object when neither side differs by more than a factor (4, as the assignment has it). The search is
that of YOLOv5 and YOLOv7: k-means on whitened sides, then a thousand random changes of which improvements are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.errors import DataError

Anchors = tuple[tuple[tuple[float, float], ...], ...]  # of every level, finest first: (width, height) in pixels

RATIO = 4.0
GENERATIONS = 1000
_RESTARTS, _ITERATIONS = 30, 20
_SMALLEST = 2.0  # pixels: objects with both sides below are left out of k-means; no anchor becomes smaller
_SAMPLE = 50_000  # objects that the search uses
_CHANGED, _STRENGTH, _LIMITS = 0.9, 0.1, (0.3, 3.0)  # probability, size and bounds of a mutation


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit objects.

    recall: best possible recall, the share of objects that some anchor fits.  fitting: anchors that fit an object, on
    average.  fitness: mean over the objects of the best anchor's worse side ratio (1 is a perfect fit), 0 where none
    fits.
    """

    recall: float
    fitting: float
    fitness: float


def measure_fit(anchors: np.ndarray, sizes: np.ndarray, ratio: float = RATIO) -> AnchorFit:
    """How anchors (K, 2) fit objects of `sizes` (M, 2), width and height in pixels; all 0 without objects."""
    if not len(sizes):
        return AnchorFit(0.0, 0.0, 0.0)
    close = closeness(anchors, sizes)
    best = close.max(1)
    fits = best > 1 / ratio
    return AnchorFit(float(fits.mean()), float((close > 1 / ratio).sum(1).mean()), float((best * fits).mean()))


def closeness(anchors: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(M, K) for each object and anchor: the ratio of the shorter to the longer side, where they differ more."""
    ratio = sizes[:, None, :] / anchors[None]
    return np.minimum(ratio, 1 / ratio).min(2)


def flat(anchors: Anchors) -> np.ndarray:
    """(K, 2) anchors of all levels."""
    return np.array([anchor for level in anchors for anchor in level], float).reshape(-1, 2)


def by_level(anchors: np.ndarray, levels: int) -> Anchors:
    """Anchors (K, 2) sorted by area and divided evenly among the levels."""
    ordered = anchors[np.argsort(anchors.prod(1), kind="stable")].reshape(levels, -1, 2)
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in ordered)


def search(
    sizes: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    generations: int = GENERATIONS,
    ratio: float = RATIO,
    whole: bool = True,
) -> np.ndarray:
    """Finds (count, 2) anchors for objects of `sizes` (M, 2) in pixels, sorted by area; rounded where `whole`.

    Raises DataError if there are fewer different sizes than `count`.
    """
    usable = sizes[(sizes >= _SMALLEST).any(1)]
    if len(usable) > _SAMPLE:
        usable = usable[rng.choice(len(usable), _SAMPLE, replace=False)]
    different = len(np.unique(usable, axis=0))
    if different < count:
        raise DataError(
            f"{count} anchors cannot be found: there are {different} different sizes of objects.",
            "Choose fewer with --count, or label more images.",
        )
    found = _mutated(_k_means(usable, count, rng), usable, generations, ratio, rng)
    found = np.maximum(np.round(found), 1.0) if whole else found
    return found[np.argsort(found.prod(1), kind="stable")]


def _k_means(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) k-means centres of the sizes, divided by their deviation: the best of several random starts."""
    deviation = sizes.std(0)
    deviation[deviation == 0] = 1.0
    points = sizes / deviation
    best, least = points[:count], np.inf
    for _ in range(_RESTARTS):
        centres = points[rng.choice(len(points), count, replace=False)]
        distance = np.inf
        for _ in range(_ITERATIONS):
            distances = np.linalg.norm(points[:, None] - centres[None], axis=2)
            nearest = distances.argmin(1)
            before, distance = distance, float(distances.min(1).mean())
            counts = np.bincount(nearest, minlength=count)
            sums = np.stack([np.bincount(nearest, points[:, axis], count) for axis in (0, 1)], 1)
            # A centre to which no object is nearest starts again at a random object.
            random_objects = points[rng.integers(len(points), size=count)]
            centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], random_objects)
            if before - distance < 1e-5 * distance:
                break
        if distance < least:
            best, least = centres, distance
    return best * deviation


def _mutated(
    anchors: np.ndarray, sizes: np.ndarray, generations: int, ratio: float, rng: np.random.Generator
) -> np.ndarray:
    """The anchors after `generations` random changes, of which those that raise the fitness are kept."""
    anchors = np.maximum(anchors, _SMALLEST)
    best = measure_fit(anchors, sizes, ratio).fitness
    for _ in range(generations):
        factors = np.ones_like(anchors)
        while (factors == 1).all():
            chosen = rng.random(anchors.shape) < _CHANGED
            change = chosen * rng.random() * rng.standard_normal(anchors.shape) * _STRENGTH
            factors = np.clip(change + 1, *_LIMITS)
        tried = np.maximum(anchors * factors, _SMALLEST)
        fitness = measure_fit(tried, sizes, ratio).fitness
        if fitness > best:
            anchors, best = tried, fitness
    return anchors
