"""Ctrl-C where the interpreter cannot raise it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

# Libraries in C++ whose import an exception of Python aborts, with a core dump.
_NATIVE = ("torch", "onnxruntime", "onnx", "openvino", "ncnn")
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


def end_imports_at_once() -> None:
    """From now on, Ctrl-C while a large library is imported ends the process, and raises KeyboardInterrupt elsewhere.

    Nothing has been begun during such an import, so nothing is lost. Leaves a handler of the caller's own as it is.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    if any(map(_is_being_imported, _NATIVE)):
        os.write(2, b"error: Interrupted.\n")
        os._exit(130)
    signal.default_int_handler(number, frame)


def _is_being_imported(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _interrupt_shortly() -> None:
    time.sleep(_SHORTLY)
    _thread.interrupt_main()
