"""Names of splits: `valid`, `validation` and `val2017` all mean `val`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")

WHOLE = "all"
"""The split of a data set that is not divided."""

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
    "minival": "minival",
}


def split_word(text: str) -> str | None:
    """The split that the name of a file or folder contains (`instances_val2017` -> `val`), or None."""
    words = re.findall(r"[a-z]+", text.lower())
    found = [_WORDS[word] for word in words if word in _WORDS]
    return found[-1] if found else (WHOLE if text == WHOLE else None)


def means_whole(split: str) -> bool:
    """Whether a data set without splits is used for this split: any of the usual names, or `all`."""
    return split_word(split) is not None


def named_splits(items: Mapping[str, T]) -> dict[str, T]:
    """The items under short names (`val` for `instances_val2017`) as long as those differ; train, val, test first.

    A single item whose name contains no split is the whole data set.
    """
    if len(items) == 1 and split_word(next(iter(items))) is None:
        return {WHOLE: next(iter(items.values()))}
    words = [split_word(name) for name in items]
    short = {name: word if word and words.count(word) == 1 else name for name, word in zip(items, words)}
    order = list(dict.fromkeys(_WORDS.values()))
    ranked = sorted(items, key=lambda name: (order.index(short[name]) if short[name] in order else 99, name))
    return {short[name]: items[name] for name in ranked}


def usual_splits(names: Collection[str]) -> tuple[str, str]:
    """The splits that a training uses and is evaluated on, of those there are, unless others are named.

    train and val; trainval and test where both exist, as Pascal VOC's results are published. The second may not exist.
    """
    if "trainval" in names and "test" in names:
        return "trainval", "test"
    return (
        "trainval" if "trainval" in names and "train" not in names else "train",
        "test" if "val" not in names and "test" in names else "val",
    )


def share_images(first: str, second: str) -> bool:
    """Whether two splits have images in common by design, as trainval is train and val together."""
    return "trainval" in (first, second) and "test" not in (first, second)
