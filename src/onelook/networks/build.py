"""Builds a detector from the name of a variant, or from an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from onelook.errors import ConfigError
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.detector import Architecture, Detector
from onelook.networks.variants import variant

LARGEST_CLASS_COUNT = 100_000


def build(model: str | Architecture, classes: int | Sequence[str] | None = None) -> Detector:
    """Builds a newly initialised detector in training form.

    model: a variant's name, or an architecture.  classes: their number, or their names; None is the number of the
    architecture, 80 for the variants. Eighty classes without names are COCO's; other numbers have no names
    (`class_names` is empty). ConfigError for an unknown name, no classes, or a class named twice.
    """
    architecture = variant(model).architecture if isinstance(model, str) else model
    if classes is None:
        classes = architecture.num_classes
    if isinstance(classes, str):
        raise ConfigError(f"The classes are the single text '{classes}'.", "Give a number or a list of names.")
    if isinstance(classes, bool) or not isinstance(classes, int | Sequence):
        raise ConfigError(f"The classes are {classes!r}.", "Give a whole number or a list of names.")
    if isinstance(classes, int):
        count, names = classes, COCO_CLASSES if classes == len(COCO_CLASSES) else ()
    else:
        count, names = len(classes), tuple(classes)
    if not 0 < count <= LARGEST_CLASS_COUNT:
        raise ConfigError(f"A model cannot have {count} classes.", f"Give 1 to {LARGEST_CLASS_COUNT} classes.")
    if repeated := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise ConfigError(f"The class '{repeated}' is named twice.", "Every class needs a name of its own.")
    if count != architecture.num_classes:
        architecture = cast(Architecture, replace(cast(Any, architecture), num_classes=count))
    detector = architecture.build()
    detector.class_names = names
    return detector
