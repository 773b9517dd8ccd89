"""Durations as users write them: `30m`, `1h30m`, `90s`."""

from __future__ import annotations

import re

from onelook.errors import UsageError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TEXT = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str | float, name: str) -> float:
    """The seconds that a text such as "1h30m", "30m" or "90s" names; a number is seconds.

    name: of the argument, for the UsageError about other texts and about what is not above zero.
    """
    if isinstance(text, str):
        found = _TEXT.fullmatch(text.replace(" ", "").lower())
        parts = {} if found is None else dict(zip(_UNITS, found.groups()))
        seconds = sum(float(number) * _UNITS[unit] for unit, number in parts.items() if number is not None)
    else:
        seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{name}={text} is no time.", f"Write {name} as 30m, 1h30m or 90s.")
    return seconds
