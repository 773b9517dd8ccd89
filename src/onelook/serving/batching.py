"""Micro-batching: one thread a model takes jobs out of a queue, and runs those together that may share a run."""

from __future__ import annotations

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
    of `time.monotonic`.  future: receives a JobResult; cancelling it takes the job out of the queue.
    """

    inputs: Any
    key: object
    deadline: float
    submitted: float = field(default_factory=time.monotonic)
    future: Future[JobResult] = field(default_factory=Future)


class Batcher:
    """Runs jobs in a thread of its own.

    run: the values of jobs of one key, in order.  batch: most jobs in a run.  max_wait: seconds that the oldest job
    waits at most for others.  observe: called after each run with the number of jobs and the seconds of the run.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Any]],
        *,
        batch: int = 1,
        max_wait: float = 0.0,
        name: str = "model",
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run, self._observe = run, observe
        self.batch, self.max_wait = batch, max_wait
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name=f"onelook-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._discard(job) if future.cancelled() else None)

    def stalled(self, seconds: float) -> bool:
        """Whether the thread has ended, or one run takes longer than this."""
        since = self._busy_since
        return not self._thread.is_alive() or (since is not None and time.monotonic() - since > seconds)

    def close(self) -> None:
        """Ends the thread after the jobs of the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end of the thread."""
        self._thread.join(timeout)

    def _discard(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while jobs := self._next():
            started = self._busy_since = time.monotonic()
            try:
                values = self._run(jobs)
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
                self._busy_since = None
            del jobs

    def _next(self) -> list[Job]:
        """The jobs of the next run; [] when the batcher is closed and the queue empty."""
        with self._changed:
            while True:
                now = time.monotonic()
                expired = self._take([job for job in self._jobs if job.deadline <= now])
                if expired:
                    # Callbacks of a future may ask for this lock: it is reentrant.
                    for job in expired:
                        _expire(job)
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


def _expire(job: Job) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(deadline_passed())


def deadline_passed() -> ServiceError:
    """The answer to a request that took longer than its deadline."""
    return ServiceError(
        504, "deadline_exceeded", "The request was not done before its deadline.", "Send it again, or allow more time."
    )
