"""Numbers of bytes as users write them: `4GB`, `500M`, `1000000`."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int | None:
    """The number of bytes that a text such as "1.5 GB" names; None for other texts."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.strip(), re.IGNORECASE)
    return None if found is None else int(float(found[1]) * _UNITS[found[2].upper()])
