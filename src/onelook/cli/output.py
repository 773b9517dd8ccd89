"""Where the command line writes: consoles, the JSON of `--json`, and error messages."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from onelook.errors import UserError, reason_of
from onelook.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_FILES = 140  # columns where output goes to a file or a pipe, whose width is unknown


def consoles(*, to_stderr: bool = False) -> tuple[Console, Console]:
    """Returns two Rich consoles: for results, and for messages. to_stderr: print results on standard error as well."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # instead of an exit of Rich's own: `run` knows what to do

    def console(stream: TextIO) -> Console:
        known = stream.isatty() or "COLUMNS" in os.environ
        return PlainConsole(file=stream, width=None if known else WIDTH_OF_FILES, highlight=False, emoji=False)

    return console(sys.stderr if to_stderr else sys.stdout), console(sys.stderr)


def print_error(message: str, remedy: str = "") -> None:
    """Prints 'error: message' and the remedy on standard error. Lines are not wrapped, so that paths can be copied."""
    from rich.text import Text

    _, console = consoles()
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if remedy:
        console.print(Text(remedy), soft_wrap=True)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows a warning to the user as 'warning: message' on standard error, without the line of code it came from."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, UserWarning):  # all others speak to programmers
            from rich.text import Text

            _, console = consoles()
            console.print(Text.assemble(("warning: ", "bold yellow"), str(message)), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def quiet_broken_pipe() -> int:
    """Silences errors after standard output was closed (`onelook models | head`). Returns the exit code of SIGPIPE."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
    return 141


class JsonTarget:
    """The destination of `--json`, checked before the work starts.

    A context manager. For "-", whatever else is written to standard output meanwhile, by Python or by a native
    library, goes to standard error. Raises UserError when the file cannot be written; it is written atomically.
    """

    def __init__(self, place: str | None) -> None:
        self.is_stdout = place == "-"
        self.path = None if place is None or self.is_stdout else Path(place)
        self._stdout: TextIO | None = None
        self._closing = contextlib.ExitStack()
        if self.path is not None:
            _check_writable(self.path)

    def __enter__(self) -> JsonTarget:
        if self.is_stdout:
            self._stdout = sys.stdout
            self._closing.enter_context(_native_stdout_to_stderr())
            self._closing.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def write(self, value: Any) -> None:
        """Writes a result's dictionary; nothing where no `--json` was given."""
        if self._stdout is None and self.path is None:
            return
        text = json.dumps(plain_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if self._stdout is not None:
            self._closing.close()  # standard output is itself again
            self._stdout.write(text)
            self._stdout.flush()
        elif self.path is not None:
            try:
                write_text(self.path, text)
            except OSError as error:
                raise _unwritable(self.path, reason_of(error)) from error


@contextlib.contextmanager
def _native_stdout_to_stderr() -> Iterator[None]:
    """Sends file descriptor 1 to standard error meanwhile, for native libraries that do not print through Python."""
    try:
        stdout, stderr = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # a test's or a notebook's stream: there is no descriptor to redirect
        yield
        return
    sys.stdout.flush()
    kept = os.dup(stdout)
    os.dup2(stderr, stdout)
    try:
        yield
    finally:
        os.dup2(kept, stdout)
        os.close(kept)


@contextlib.contextmanager
def quiet_native_errors() -> Iterator[None]:
    """Keeps image, video and network libraries from writing to standard error; Python's own messages still go there.

    They repeat what a command reports by name, or warn of what no option asked for.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # a test's or a notebook's stream: libraries write elsewhere
        yield
        return
    sys.stderr.flush()
    kept = os.dup(descriptor)
    silent = os.open(os.devnull, os.O_WRONLY)
    before = sys.stderr
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    os.dup2(silent, descriptor)
    os.close(silent)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(kept, descriptor)
        os.close(kept)


def plain_json(value: Any) -> Any:
    """Converts NumPy values, paths and tuples to JSON types; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy and torch, without importing either
        return plain_json(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _check_writable(path: Path) -> None:
    import tempfile  # only needed for --json; it takes milliseconds to import

    if path.is_dir():
        raise UserError(f"'{path}' is a folder, so the JSON was not written.", "Give --json the name of a file.")
    try:
        if path.exists():
            if not os.access(path, os.W_OK):
                raise _unwritable(path, "permission denied")
            if not path.is_file():
                return
        folder = path.resolve().parent
        while not folder.exists():
            folder = folder.parent
        import tempfile

        with tempfile.TemporaryFile(dir=folder):  # what a folder allows, only trying tells: root may all but /proc
            pass
    except OSError as error:
        raise _unwritable(path, reason_of(error)) from error


def _unwritable(path: Path, reason: str) -> UserError:
    remedy = "Give --json a file in a folder that you can write to."
    return UserError(f"'{path}' cannot be written: {reason[:1].lower() + reason[1:]}.", remedy)
