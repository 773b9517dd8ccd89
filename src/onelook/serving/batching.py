"""Micro-batching: the threads of a model take jobs out of one queue, and run those together that may share a run."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from onelook.serving.service_error import ServiceError


@dataclass(frozen=True)
class JobResult:
    """value: what the run returned for the job.  queue, inference: seconds of waiting, and of the run."""

    value: Any
    queue: float
    inference: float


@dataclass(eq=False)
class Job:
    """One input of a network.

    key: jobs of equal keys may run together; None is never merged.  deadline: when it is of no more use, on the clock
    of `time.monotonic`.  start_by: when its run must have begun, else it is a QueueTimeout; infinity is never.  future:
    receives a JobResult; cancelling it takes the job out of the queue.
    """

    inputs: Any
    key: object
    deadline: float
    start_by: float = math.inf
    submitted: float = field(default_factory=time.monotonic)
    future: Future[JobResult] = field(default_factory=Future)


class QueueTimeout(Exception):
    """A job waited longer than it may."""


Run = Callable[[Sequence[Job]], Sequence[Any]]
"""The values of jobs of one key, in order."""


class Batcher:
    """Runs jobs in threads of its own, one for each of `runs`; each thread calls its own function alone.

    batch: most jobs in a run.  max_wait: seconds that the oldest job waits at most for others.  observe: called after
    each run with the number of jobs and the seconds of the run.
    """

    def __init__(
        self,
        *runs: Run,
        batch: int = 1,
        max_wait: float = 0.0,
        name: str = "model",
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._observe = observe
        self.batch, self.max_wait = batch, max_wait
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: dict[int, float] = {}  # by the number of the thread
        self._threads = [
            threading.Thread(target=self._work, args=(number, run), name=f"onelook-{name}-{number}", daemon=True)
            for number, run in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue."""
        with self._changed:
            if self._closed:
                raise ServiceError(503, "unloaded", "The model was unloaded meanwhile.", "Send the request again.", 1)
            self._jobs.append(job)
            self._changed.notify_all()  # one of the threads may be waiting for jobs of another key
        job.future.add_done_callback(lambda future: self._discard(job) if future.cancelled() else None)

    def stalled(self, seconds: float) -> bool:
        """Whether a thread has ended, or one run takes longer than this."""
        now = time.monotonic()
        return not all(thread.is_alive() for thread in self._threads) or any(
            now - since > seconds for since in list(self._busy_since.values())
        )

    def close(self) -> None:
        """Ends the threads after the jobs of the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end of the threads, at most `timeout` seconds for all together."""
        ends = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))

    def _discard(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self, number: int, run: Run) -> None:
        while jobs := self._next():
            started = self._busy_since[number] = time.monotonic()
            try:
                values = run(jobs)
            except Exception as error:  # the request's answer; the thread serves the next one
                for job in jobs:
                    job.future.set_exception(error)
            else:
                ended = time.monotonic()
                if self._observe is not None:
                    self._observe(len(jobs), ended - started)
                for job, value in zip(jobs, values):
                    job.future.set_result(JobResult(value, started - job.submitted, ended - started))
            finally:
                del self._busy_since[number]
            del jobs

    def _next(self) -> list[Job]:
        """The jobs of the next run; [] when the batcher is closed and the queue empty."""
        with self._changed:
            while True:
                now = time.monotonic()
                expired = self._take([job for job in self._jobs if min(job.deadline, job.start_by) <= now])
                if expired:
                    # Callbacks of a future may ask for this lock: it is reentrant.
                    for job in expired:
                        _expire(job, now)
                    continue
                if not self._jobs:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                first = self._jobs[0]
                together = [
                    job for job in self._jobs if job is first or (first.key is not None and job.key == first.key)
                ]
                wait = first.submitted + self.max_wait - now
                if first.key is not None and len(together) < self.batch and wait > 0 and not self._closed:
                    self._changed.wait(wait)
                    continue
                chosen = together[: self.batch] if first.key is not None else [first]
                self._take(chosen)
                # A job that was cancelled at this moment is left out.
                running = [job for job in chosen if job.future.set_running_or_notify_cancel()]
                if running:
                    return running

    def _take(self, jobs: list[Job]) -> list[Job]:
        """Takes jobs out of the queue, and returns them."""
        for job in jobs:
            self._jobs.remove(job)
        return jobs


def _expire(job: Job, now: float) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(deadline_passed() if job.deadline <= now else QueueTimeout())


def deadline_passed() -> ServiceError:
    """The answer to a request that took longer than its deadline."""
    return ServiceError(
        504, "deadline_exceeded", "The request was not done before its deadline.", "Send it again, or allow more time."
    )
