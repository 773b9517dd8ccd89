"""Counts the work of a function instead of its time, so that a test holds on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

Error = TypeVar("Error", bound=Exception)


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


def error_and_calls(kind: type[Error], function: Callable[[], Any]) -> tuple[Error, int]:
    """The error of this kind that `function` raises, and how many functions are called until then."""
    errors: list[Error] = []

    def run() -> None:
        try:
            function()
        except kind as error:
            errors.append(error)

    calls = num_calls(run)
    assert errors, f"{kind.__name__} was not raised"
    return errors[0], calls
