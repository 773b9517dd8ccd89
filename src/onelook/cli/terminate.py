"""Makes SIGTERM, which job schedulers and containers send before they kill, end a command as Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Inside, the first SIGTERM raises KeyboardInterrupt; a second one ends the process at once.

    Outside the main thread, where Python cannot install signal handlers, it does nothing.
    """
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
        is_set = True
    except ValueError:  # not the main thread
        is_set = False
    try:
        yield
    finally:
        if is_set:
            signal.signal(signal.SIGTERM, before)
