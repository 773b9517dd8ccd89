"""`onelook.anchors`: anchor boxes that fit the objects of a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onelook.api.open import PathLike
from onelook.api.splits import open_training_split
from onelook.config import check_arguments, to_text
from onelook.data import Dataset
from onelook.data.anchors import GENERATIONS, AnchorFit, Anchors, by_level, flat, measure_fit, search
from onelook.data.objects import object_sizes
from onelook.errors import DataError, UsageError
from onelook.networks.variants import VARIANTS, variant
from onelook.reporter import Reporter
from onelook.types import text_repr

PER_LEVEL = 3  # anchors of a level, in every published model


@dataclass(frozen=True)
class FoundAnchors:
    """Anchor boxes that fit the objects of a data set.

    objects: how many there are.  size: side of the network's input that they were fitted for.  anchors: (width, height)
    in pixels, by level, finest first.  fit: how well they fit: best possible recall, anchors that fit an object on
    average, fitness.  model: the name that was given.  present: anchors of that model, and how they fit.
    override: the setting that uses the found ones in a training.
    """

    objects: int
    size: int
    anchors: Anchors
    fit: AnchorFit
    model: str | None
    present: tuple[Anchors, AnchorFit] | None
    override: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        present = None
        if self.present is not None:
            present = {"model": self.model, "anchors": self.present[0], **asdict(self.present[1])}
        return {
            "objects": self.objects,
            "size": self.size,
            "anchors": self.anchors,
            **asdict(self.fit),
            "present": present,
            "override": self.override,
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        found = f"{self.objects:,} objects at {self.size} pixels: best possible recall {self.fit.recall:.4f}"
        return f"{found}, fitness {self.fit.fitness:.4f}.\n{self.override}"


def anchors(
    data: Dataset | PathLike,
    *,
    count: int | None = None,
    size: int | None = None,
    model: str | None = None,
    split: str | None = None,
    generations: int = GENERATIONS,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> FoundAnchors:
    """Finds anchor boxes that fit the objects of a data set.

    data: a data set, or its folder or file, of which `split` is opened; None is train, or trainval.  count: anchors to
    find; None is as many as the model has, else 9.  size: side of the network's input in pixels; None is the model's,
    else 640.  model: name of a model whose anchors are compared with the found ones.  generations: random changes that
    are tried after k-means.  reporter: shows the progress of a data set's first opening.

    Only models with anchors need it, and only where their own fit badly: best possible recall (the share of objects
    that some anchor fits within a factor of 4) below 0.98. Raises UserError where the data set has no objects.
    """
    check_arguments(anchors, locals())
    present = None if model is None else anchors_of(model)
    if count is None:
        count = 3 * PER_LEVEL if present is None else len(flat(present))
    if size is None:
        size = 640 if model is None else variant(model).architecture.size[0]
    levels = len(present) if present is not None and not count % len(present) else count // PER_LEVEL
    if count < 1 or not levels or count % levels:
        raise UsageError(
            f"{count} anchors (count) cannot be shared out over levels.", "Give 9 for three levels, 12 for four."
        )
    if size < 32 or generations < 0:
        raise UsageError("size is at least 32, and generations at least 0.")
    dataset, place = open_training_split(data, split, reporter=reporter)
    sizes = object_sizes(dataset, (size, size))
    if not len(sizes):
        raise DataError(f"'{place}' has no objects to find anchors for.", "Choose another split.")
    found = by_level(search(sizes, count, np.random.default_rng(seed), generations=generations), levels)
    whole = tuple(tuple((int(w), int(h)) for w, h in level) for level in found)
    return FoundAnchors(
        objects=len(sizes),
        size=size,
        anchors=found,
        fit=measure_fit(flat(found), sizes),
        model=model,
        present=None if present is None else (present, measure_fit(flat(present), sizes)),
        override=f"model.anchors={to_text(whole)}",
    )


def anchors_of(model: str) -> Anchors:
    """The anchors of the model with this name. Raises UsageError if the model has no anchors."""
    known = getattr(variant(model).architecture, "anchors", None)
    if known is None:
        others = [name for name, row in VARIANTS.items() if getattr(row.architecture, "anchors", None) is not None]
        raise UsageError(f"{model} has no anchors.", f"Models with anchors: {', '.join(others) or 'none yet'}.")
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in known)
