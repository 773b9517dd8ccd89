"""Chooses the threads of a network on busy cores by the times of its first runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onelook.ops.nms import Postprocess, RawDetections
from onelook.predict.runtime import Runtime
from onelook.threads import ThreadTrial, speeds_of_others, thread_names


@runtime_checkable
class ThreadedRuntime(Runtime, Protocol):
    """A runtime on a CPU whose number of threads can change between two runs."""

    def set_threads(self, threads: int) -> None:
        """The next runs have this number of threads, which sleep while they wait."""
        ...


class ThreadChoosingRuntime:
    """A runtime that tries several numbers of threads in its first runs, and goes on with the fastest.

    runtime: runs the network; everything else is asked of it.  candidates: numbers of threads, first that which
    `runtime` has now.  say: called with a line where another number is faster.
    """

    def __init__(
        self,
        runtime: ThreadedRuntime,
        candidates: Sequence[int],
        say: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runtime, self._usual, self._say, self._clock = runtime, candidates[0], say, clock
        self.size, self.frame, self.class_names = runtime.size, runtime.frame, tuple(runtime.class_names)
        self.postprocess, self.evaluating = runtime.postprocess, runtime.evaluating
        self._threads = self._usual
        self._trial = ThreadTrial(candidates, self._set_threads, slow_first=True)

    def __getattr__(self, name: str) -> Any:
        if name == "_runtime":  # before `__init__`, as in a copy
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        if self._trial.chosen is not None:
            return self._runtime(batch, postprocess)
        started = self._clock()
        found = self._runtime(batch, postprocess)
        self._trial.add((self._clock() - started) / max(1, batch.size))
        chosen = self._trial.chosen
        if chosen is not None and chosen != self._usual:
            others = speeds_of_others(self._trial)
            self._say(f"Going on with {thread_names(chosen)}, the fastest in the first runs ({others}).")
        return found

    def _set_threads(self, threads: int) -> None:
        if threads != self._threads:  # a runtime may load its file again
            self._runtime.set_threads(threads)
            self._threads = threads
