"""Ctrl-C where the interpreter cannot raise it."""

from __future__ import annotations

import _thread
import sys
import time

_SHORTLY = 0.01  # seconds; the callback of the interpreter has ended by then


def repeat_lost_interrupts() -> None:
    """Lets a KeyboardInterrupt come again that was lost in a callback of the interpreter, for the whole process.

    Python can only ignore an exception in a finaliser or while it tidies up an import: it would print a traceback, and
    the command would go on as if there had been no Ctrl-C.
    """
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_interrupt_shortly, ())
        else:
            before(lost)

    sys.unraisablehook = hook


def _interrupt_shortly() -> None:
    time.sleep(_SHORTLY)
    _thread.interrupt_main()
