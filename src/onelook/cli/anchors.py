"""`onelook anchors`: anchor boxes that fit the objects of a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onelook.config import to_text
from onelook.data import open_dataset, splits
from onelook.data.anchors import GENERATIONS, AnchorFit, Anchors, by_level, fit_of, flat, search
from onelook.data.objects import object_sizes
from onelook.errors import DataError, UsageError
from onelook.models.variants import VARIANTS, variant

if TYPE_CHECKING:
    from rich.console import Console

PER_LEVEL = 3  # anchors of a level, in every published model


@dataclass(frozen=True)
class FoundAnchors:
    """The anchors that were found, how they fit, and (`present`) those of the model that was named.

    override: the setting for `onelook train`, or None where the model takes another number.
    """

    objects: int
    size: int
    anchors: Anchors
    fit: AnchorFit
    model: str | None
    present: tuple[Anchors, AnchorFit] | None
    override: str

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
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

    def show(self, console: Console) -> None:
        """A table of the levels and of the fit, and the setting to copy."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        columns = [("", self.anchors, self.fit)]
        if self.present is not None:
            columns.insert(0, (str(self.model), *self.present))
            columns[1] = ("found", self.anchors, self.fit)
        table.add_column("")
        for name, _, _ in columns:
            table.add_column(name)
        for level in range(max(len(anchors) for _, anchors, _ in columns)):
            shown = [anchors[level] if level < len(anchors) else () for _, anchors, _ in columns]
            texts = ["  ".join(f"{w:g}x{h:g}" for w, h in one) for one in shown]
            table.add_row(f"level {level + 1}, width x height", *texts)
        table.add_row("best possible recall", *(f"{fit.recall:.4f}" for _, _, fit in columns))
        table.add_row("anchors that fit an object", *(f"{fit.fitting:.2f}" for _, _, fit in columns))
        table.add_row("fitness", *(f"{fit.fitness:.4f}" for _, _, fit in columns))
        console.print(f"{self.objects:,} objects at {self.size} pixels.")
        console.print(table)
        console.print("To train with the found ones, add this setting to onelook train:")
        console.print(f"'{self.override}'", soft_wrap=True, markup=False)


def anchors(
    data: str,
    /,
    *,
    count: int | None = None,
    size: int | None = None,
    model: str | None = None,
    split: str | None = None,
    generations: int = GENERATIONS,
    seed: int = 0,
) -> FoundAnchors:
    """Find anchor boxes that fit the objects of a data set.

    K-means on the sides of the training objects, then random changes of which improvements are kept. Prints how well
    the anchors fit (best possible recall is the share of objects that some anchor fits within a factor of 4), and the
    setting that makes onelook train use them. Only models with anchors need it, and only where their own fit badly:
    best possible recall below 0.98.

    Examples:
        onelook anchors data/ --model yolov7-tiny --size 320
        onelook anchors data/ --count 12 --size 1280 --json anchors.json

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file.
        count: Anchors to find, three for each level of the network; as the model has, else 9.
        size: Side of the network's input in pixels; the model's, else 640.
        model: Name of a model whose anchors are shown beside the found ones.
        split: Split whose objects count; train, or trainval where that is what there is.
        generations: Random changes that are tried.
        seed: Of the search.

    Returns:
        The anchors by level, and how they fit.
    """
    present = None if model is None else anchors_of(model)
    if count is None:
        count = 3 * PER_LEVEL if present is None else len(flat(present))
    if size is None:
        size = 640 if model is None else variant(model).architecture.size[0]
    levels = len(present) if present is not None and not count % len(present) else count // PER_LEVEL
    if count < 1 or not levels or count % levels:
        raise UsageError(f"--count {count} cannot be shared out over levels.", "Give 9 for three levels, 12 for four.")
    if size < 32 or generations < 0:
        raise UsageError("--size is at least 32, and --generations at least 0.")
    there = splits(data)
    voc = "trainval" in there and "test" in there
    sizes = object_sizes(open_dataset(data, split or ("trainval" if voc else "train")), (size, size))
    if not len(sizes):
        raise DataError(f"'{data}' has no objects to find anchors for.", "Choose another split with --split.")
    found = by_level(search(sizes, count, np.random.default_rng(seed), generations=generations), levels)
    whole = tuple(tuple((int(w), int(h)) for w, h in level) for level in found)
    return FoundAnchors(
        objects=len(sizes),
        size=size,
        anchors=found,
        fit=fit_of(flat(found), sizes),
        model=model,
        present=None if present is None else (present, fit_of(flat(present), sizes)),
        override=f"model.anchors={to_text(whole)}",
    )


def anchors_of(model: str) -> Anchors:
    """The anchors of a model by name. UsageError for one that has none."""
    known = getattr(variant(model).architecture, "anchors", None)
    if known is None:
        others = [name for name, row in VARIANTS.items() if getattr(row.architecture, "anchors", None) is not None]
        raise UsageError(f"{model} has no anchors.", f"Models with anchors: {', '.join(others) or 'none yet'}.")
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in known)
