"""Handles Ctrl-C and its like: the first signal sets a flag that the training loop checks between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Ctrl-C; the signal that job schedulers send before they kill a process; the one of a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class StopRequest:
    """A context manager: inside, the first of `SIGNALS` only sets `requested`; the second interrupts at once.

    A hang-up that the caller ignores (`nohup`) stays ignored; a second one changes nothing, since terminals send two.
    Outside the main thread, where Python cannot install signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if not (_is_hangup(number) and _is_ignored(number))]
            self._before = {number: signal.signal(number, self._handle) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not _is_hangup(number):
            raise KeyboardInterrupt
        self.requested = True


def _is_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
