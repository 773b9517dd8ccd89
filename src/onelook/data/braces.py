"""Fills in the braces of a pattern: `train-{000..099}.tar`, `{train,val}.tar`."""

from __future__ import annotations

import re
from itertools import product

from onelook.errors import DataError

LIMIT = 1_000_000  # names that a pattern may stand for
DEPTH_LIMIT = 32  # braces of a pattern
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")


def expand_braces(pattern: str) -> list[str]:
    """The texts that a pattern stands for, in order, as a shell fills braces in; numbers keep their leading zeros.

    Braces may be nested. Raises `DataError` where one is not closed, or for more than a million texts.
    """
    if pattern.count("{") > DEPTH_LIMIT:
        raise DataError(f"'{pattern[:200]}' has more than {DEPTH_LIMIT} braces.", "Name the shards another way.")
    return _expanded(pattern, pattern)


def _expanded(text: str, pattern: str) -> list[str]:
    parts, count, place = list[list[str]](), 1, 0
    while (start := text.find("{", place)) >= 0:
        end = _closing(text, start, pattern)
        choices = _choices(text[start + 1 : end], pattern)
        parts += [[text[place:start]], choices]
        count *= len(choices)
        if count > LIMIT:
            raise DataError(f"'{pattern[:200]}' stands for more than {LIMIT:,} files.", "Shorten the ranges.")
        place = end + 1
    parts.append([text[place:]])
    return ["".join(one) for one in product(*parts)]


def _closing(text: str, start: int, pattern: str) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place
    raise DataError(f"A brace of '{pattern[:200]}' is not closed.", "Close it, as in {000..099}.")


def _choices(inside: str, pattern: str) -> list[str]:
    """The texts between two braces: a range of numbers, or a list with commas."""
    if (found := _RANGE.fullmatch(inside)) is not None:
        first, last = int(found[1]), int(found[2])
        if abs(last - first) >= LIMIT:
            raise DataError(f"'{pattern[:200]}' stands for more than {LIMIT:,} files.", "Shorten the ranges.")
        width = max(len(found[1]), len(found[2])) if "0" in (found[1][0], found[2][0]) else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    items, depth, begin = [], 0, 0
    for place, mark in enumerate(inside):
        depth += (mark == "{") - (mark == "}")
        if mark == "," and depth == 0:
            items.append(inside[begin:place])
            begin = place + 1
    items.append(inside[begin:])
    if len(items) == 1:
        return [f"{{{text}}}" for text in _expanded(inside, pattern)]  # a shell leaves such braces alone
    return [text for item in items for text in _expanded(item, pattern)]
