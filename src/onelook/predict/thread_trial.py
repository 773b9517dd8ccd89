"""Chooses the threads of a network on busy cores by the times of its first runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onelook.ops.nms import Postprocess, RawDetections
from onelook.predict.runtime import Runtime
from onelook.threads import ThreadTrial, thread_candidates, thread_names


@runtime_checkable
class ThreadedRuntime(Runtime, Protocol):
    """A runtime on a CPU whose number of threads can change between two runs."""

    @property
    def threads(self) -> int:
        """The threads of a run."""
        ...

    def set_threads(self, threads: int) -> bool:
        """Gives the next runs this number of threads, which sleep while they wait; False where that is not possible."""
        ...


class ThreadChoosingRuntime:
    """A runtime that tries several numbers of threads in its first runs, and goes on with the fastest.

    runtime: runs the network; everything else is asked of it.  say: called with the line that says what was chosen.
    Only runs of the largest number of images are timed: a part of a batch may take as long as a whole one.
    """

    def __init__(
        self,
        runtime: ThreadedRuntime,
        say: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runtime, self._say, self._clock = runtime, say, clock
        self.size, self.frame, self.class_names = runtime.size, runtime.frame, tuple(runtime.class_names)
        self.postprocess, self.evaluating = runtime.postprocess, runtime.evaluating
        self._images, self._ended = 0, False
        self._trial = ThreadTrial(thread_candidates(runtime.threads), first_counts=False)

    def __getattr__(self, name: str) -> Any:
        if name == "_runtime":  # before `__init__`, as in a copy
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        if self._ended or len(batch) < self._images:
            return self._runtime(batch, postprocess)
        if len(batch) > self._images:
            self._images = len(batch)
            self._trial.restart()
        self._take_threads()
        started = self._clock()
        found = self._runtime(batch, postprocess)
        self._trial.add((self._clock() - started) / max(1, batch.size))
        if self._trial.chosen is not None and not self._ended:
            self._ended = True
            self._take_threads()
            chosen, others = thread_names(self._trial.chosen), self._trial.speeds_of_others()
            self._say(f"Going on with {chosen}, the fastest in the first runs ({others}).")
        return found

    def _take_threads(self) -> None:
        """Gives the runtime the number of threads that is next, and ends the trial where it cannot have it."""
        if self._trial.threads != self._runtime.threads and not self._runtime.set_threads(self._trial.threads):
            self._ended = True
