"""Runs numbered calls on workers until each has ended, those of lost workers again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from onelook.cluster.workers import Call, WorkerLostError, Workers
from onelook.errors import UserError

T, R = TypeVar("T"), TypeVar("R")
MOST_ATTEMPTS = 5  # of one call; machines that are taken away at any time lose a call now and then


def run_all(
    workers: Workers,
    tasks: Iterator[tuple[int, T]],
    begin: Callable[[int, T], Call[R]],
    finished: Callable[[int, R], object],
) -> dict[int, str]:
    """Begins every task when a worker is free for it, and returns why those failed that never ended well.

    finished: called with the number and the result of a task.

    A task is begun again when its worker was lost, or an error came out of it, at most `MOST_ATTEMPTS` times in all. A
    UserError is raised at once: the next task would meet it as well.
    """
    repeated: deque[tuple[int, T]] = deque()
    running: dict[int, tuple[T, Call[R]]] = {}
    attempts: Counter[int] = Counter()
    failed: dict[int, str] = {}
    while True:
        while len(running) < workers.count:
            task = repeated.popleft() if repeated else next(tasks, None)
            if task is None:
                workers.release_idle()
                break
            try:
                running[task[0]] = task[1], begin(*task)
            except (UserError, KeyboardInterrupt):
                raise
            except Exception as error:  # of workers that call at once
                _count(task, error, attempts, repeated, failed)
        if not running:
            if repeated:
                continue
            return failed
        workers.wait([call for _, call in running.values()], 1.0)
        for number, (value, call) in list(running.items()):
            if not call.done():
                continue
            del running[number]
            try:
                finished(number, call.result())
            except (UserError, KeyboardInterrupt):
                raise
            except Exception as error:
                _count((number, value), error, attempts, repeated, failed)


def _count(
    task: tuple[int, T],
    error: Exception,
    attempts: Counter[int],
    repeated: deque[tuple[int, T]],
    failed: dict[int, str],
) -> None:
    """Counts a failed attempt: the task is begun again, or has failed."""
    attempts[task[0]] += 1
    if attempts[task[0]] < MOST_ATTEMPTS:
        repeated.append(task)
    else:
        what = "its worker was lost" if isinstance(error, WorkerLostError) else type(error).__name__
        failed[task[0]] = f"{what}, {MOST_ATTEMPTS} times: {error}"
