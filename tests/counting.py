"""Counts the work of a function instead of its time, so that a test holds on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def num_calls(function: Callable[[], Any]) -> int:
    """How many functions, of Python and of C, are called while `function` runs.

    A loop over all pairs, or a text that is copied for every token, shows here as a number that grows with the square.
    """
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
