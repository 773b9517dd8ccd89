"""Runs numbered calls on workers until each has ended, those of lost workers again."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

from onelook.cluster.workers import Call, WorkerLostError, Workers
from onelook.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
MOST_ATTEMPTS = 5  # of one call; machines that are taken away at any time lose a call now and then
_LONGEST_END = 60.0  # seconds that interrupted calls have to save their state


def run_all(
    workers: Workers,
    tasks: Iterator[tuple[int, T]],
    begin: Callable[[int, T], Call[R]],
    finished: Callable[[int, R], object],
    *,
    retried: type[Exception] = WorkerLostError,
    release: bool = True,
) -> dict[int, str]:
    """Begins every task when a worker is free for it, and returns why those failed that never ended well.

    finished: called with the number and the result of a task.  retried: the errors after which a task is begun again,
    at most `MOST_ATTEMPTS` times in all; others are raised, and a UserError always: the next task would meet it too.
    release: whether workers end when there is nothing left to begin.

    An error or KeyboardInterrupt interrupts the calls that run, and is raised when they have ended.
    """
    running: dict[int, tuple[T, Call[R]]] = {}
    attempts = _Attempts(tasks, retried)
    try:
        while True:
            while len(running) < workers.count and (task := attempts.next_task()) is not None:
                with attempts.counted(task):
                    running[task[0]] = task[1], begin(*task)
            if not running:
                return attempts.failed
            if release and len(running) < workers.count:
                workers.release_idle()
            workers.wait([call for _, call in running.values()], 1.0)
            for number, (value, call) in list(running.items()):
                if call.done():
                    del running[number]
                    with attempts.counted((number, value)):
                        finished(number, call.result())
    except BaseException:
        _interrupt(workers, [call for _, call in running.values()])
        raise


class _Attempts(Generic[T]):
    """The tasks that are to be begun, and how often each failed."""

    def __init__(self, tasks: Iterator[tuple[int, T]], retried: type[Exception]) -> None:
        self._tasks, self._retried = tasks, retried
        self._repeated: deque[tuple[int, T]] = deque()
        self._counts: Counter[int] = Counter()
        self.failed: dict[int, str] = {}

    def next_task(self) -> tuple[int, T] | None:
        """The next task to begin; None where all are begun."""
        return self._repeated.popleft() if self._repeated else next(self._tasks, None)

    @contextmanager
    def counted(self, task: tuple[int, T]) -> Iterator[None]:
        """A task of which an attempt fails in this block is begun again, or has failed for good."""
        try:
            yield
        except UserError:
            raise
        except self._retried as error:
            self._counts[task[0]] += 1
            if self._counts[task[0]] < MOST_ATTEMPTS:
                self._repeated.append(task)
            else:
                what = "its worker was lost" if isinstance(error, WorkerLostError) else type(error).__name__
                self.failed[task[0]] = f"{what}, {MOST_ATTEMPTS} times: {error}"


def _interrupt(workers: Workers, calls: Sequence[Call[Any]]) -> None:
    """Interrupts calls, and waits until they have ended."""
    for call in calls:
        call.interrupt()
    ends = time.monotonic() + _LONGEST_END
    with suppress(Exception):  # the first error is the one that is raised
        while (left := [call for call in calls if not call.done()]) and time.monotonic() < ends:
            workers.wait(left, 1.0)
