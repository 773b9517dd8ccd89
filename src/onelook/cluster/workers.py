"""The one interface below all work that consists of independent calls, and its forms on a single machine.

`submit` takes a function of a module and arguments that can be pickled. Which process runs it is the affair of the
workers: this one, others of this machine, or those of a Ray cluster (`cluster.ray_workers`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from onelook.data.main_script import main_script_hidden

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
POLL = 0.2  # seconds between two looks at processes


class WorkerLostError(Exception):
    """The process of a call ended without a result: it was killed, or its machine was lost."""


class Call(Protocol[T_co]):
    """A call that was submitted. process: the id of its own process on this machine; None where it has none."""

    @property
    def process(self) -> int | None: ...

    def done(self) -> bool:
        """Whether it had ended when `wait` returned."""
        ...

    def result(self) -> T_co:
        """What the function returned, once it has. Raises what it raised, or WorkerLostError."""
        ...

    def interrupt(self) -> None:
        """Asks the call to end, as Ctrl-C would: a training saves its state first."""
        ...


class Workers(Protocol):
    """Runs independent calls. A context manager: leaving it ends the workers."""

    @property
    def count(self) -> int:
        """How many calls run at the same time, now: a cluster may grow and shrink."""
        ...

    def share(self, value: T) -> T:
        """A value to give to many calls as an argument, which is sent to each machine once only."""
        ...

    def submit(self, function: Callable[..., T], *arguments: Any, log: Path | None = None) -> Call[T]:
        """Calls the function as soon as a worker is free. log: a file that its output is added to."""
        ...

    def wait(self, calls: Sequence[Call[Any]], seconds: float) -> None:
        """Returns when one of the calls has ended, or after some seconds."""
        ...

    def release_idle(self) -> None:
        """Ends workers that have nothing to do; a later call may start one."""
        ...

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _OnThisMachine:
    """What the workers of a single machine have in common."""

    count = 1

    def share(self, value: T) -> T:
        return value

    def wait(self, calls: Sequence[Call[Any]], seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not any(call.done() for call in calls) and (left := ends - time.monotonic()) > 0:
            time.sleep(min(POLL, left))

    def release_idle(self) -> None:
        """They take nothing from others."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is to be ended."""


class FinishedCall(Generic[T]):
    """A call that has ended with a value."""

    process = None

    def __init__(self, value: T) -> None:
        self._value = value

    def done(self) -> bool:
        return True

    def result(self) -> T:
        return self._value

    def interrupt(self) -> None:
        """It has ended already."""


class InProcess(_OnThisMachine):
    """Runs every call in this process, while it is submitted: an error or Ctrl-C comes out of `submit`."""

    def __enter__(self) -> InProcess:
        return self

    def submit(self, function: Callable[..., T], *arguments: Any, log: Path | None = None) -> FinishedCall[T]:
        return FinishedCall(function(*arguments))


class FutureCall(Generic[T]):
    """A call in a pool of processes."""

    process = None

    def __init__(self, future: Future[T]) -> None:
        self.future = future

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> T:
        return self.future.result()

    def interrupt(self) -> None:
        """Keeps it from beginning; one that runs is short and ends by itself."""
        self.future.cancel()


class LocalPool(_OnThisMachine):
    """Processes of this machine that are used again for the next call."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._stack = ExitStack()

    def __enter__(self) -> LocalPool:
        self._stack.enter_context(main_script_hidden())
        # The first Ctrl-C ends the caller's work at a place of its choice, so the processes ignore it.
        pool = ProcessPoolExecutor(self.count, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
        self._pool = self._stack.enter_context(pool)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def submit(self, function: Callable[..., T], *arguments: Any, log: Path | None = None) -> FutureCall[T]:
        return FutureCall(self._pool.submit(function, *arguments))

    def wait(self, calls: Sequence[Call[Any]], seconds: float) -> None:
        futures = [call.future for call in calls if isinstance(call, FutureCall)]
        wait_for_futures(futures, seconds, FIRST_COMPLETED)


class ProcessCall:
    """A call that has a process to itself; its result is the exit code."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self.running, self.process = running, running.pid

    def done(self) -> bool:
        return self.running.poll() is not None

    def result(self) -> int:
        return self.running.wait()

    def interrupt(self) -> None:
        if self.running.poll() is None:
            self.running.terminate()  # a process that nohup started ignores SIGINT, but SIGTERM saves as well


class LocalProcesses(_OnThisMachine):
    """A new process of this machine for every call: `python -m MODULE ARGUMENTS` of a module's `main`.

    Such a function takes texts and returns an exit code. Its process outlives this one, and the caller knows its id.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def __enter__(self) -> LocalProcesses:
        return self

    def submit(self, function: Callable[..., T], *arguments: Any, log: Path | None = None) -> Call[Any]:
        command = [sys.executable, "-m", function.__module__, *arguments]
        with ExitStack() as stack:
            output = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))
            # In a session of its own: a Ctrl-C is passed on by the caller, once.
            return ProcessCall(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )
