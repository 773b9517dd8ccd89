"""Chooses PyTorch's threads of a training on a CPU: its own steps are timed with several numbers of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from onelook.devices import num_cores
from onelook.threads import chosen_threads, has_default_threads
from onelook.training.loop import Epoch, Step

STEPS_EACH = 3  # timed steps of each number of threads, after one that is not timed
AGAIN_AFTER = 600.0  # seconds after which the next epoch measures again: other programs come and go
HOPELESS = 2.0  # times the best: such a number of threads gets no further steps


class ThreadChoice:
    """Sets the number of threads before each step: first every candidate in turn, then the fastest.

    candidates: numbers of threads.  say: called with the line that says what was chosen.  The steps are those of the
    training; the number of threads changes their rounding only.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        set_threads: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._candidates, self._say = tuple(candidates), say
        self._clock, self._set = clock, set_threads
        self.chosen: int | None = None
        self._begin()

    def add(self, event: Step | Epoch) -> None:
        """Takes the time of a step and sets the threads of the next. At the end of an epoch, may begin anew."""
        if self.chosen is None and isinstance(event, Step):
            self._timed(event.seconds / (max(1, len(event.images)) * event.size[0] * event.size[1]))
        elif self.chosen is not None and isinstance(event, Epoch) and self._clock() - self._decided > AGAIN_AFTER:
            self._begin()

    def _timed(self, seconds: float) -> None:
        """seconds: of the last step, for a pixel."""
        times = self._times[self._trying]
        times.append(seconds)
        best = min((median(done[1:]) for done in self._times.values() if len(done) > 1), default=seconds)
        if len(times) <= STEPS_EACH and not (len(times) > 1 and seconds > HOPELESS * best):
            return
        left = [count for count in self._candidates if not self._times[count]]
        if left:
            self._try(left[0])
        else:
            self._decide()

    def _begin(self) -> None:
        self.chosen, self._decided = None, self._clock()
        self._times: dict[int, list[float]] = {count: [] for count in self._candidates}
        self._try(self._candidates[0])

    def _try(self, count: int) -> None:
        self._trying = count
        self._set(count)

    def _decide(self) -> None:
        measured = {count: median(times[1:]) for count, times in self._times.items()}
        self.chosen, self._decided = min(measured, key=lambda count: measured[count]), self._clock()
        self._set(self.chosen)
        best = measured[self.chosen]
        others = [f"{count}: {best / one:.2f} of its speed" for count, one in measured.items() if count != self.chosen]
        name = "thread" if self.chosen == 1 else "threads"
        self._say(f"{self.chosen} {name} on the CPU, the fastest in the first steps ({', '.join(others)}).")


def thread_candidates() -> tuple[int, ...]:
    """The numbers of threads that are worth a trial: one, the free cores, all cores, and half of them."""
    cores = num_cores()
    return tuple(sorted({1, chosen_threads(), cores, max(1, cores // 2)} if cores <= 4 else {chosen_threads(), cores}))


def wants_choice(device: torch.device, processes: int, threads: int | None, deterministic: bool) -> bool:
    """Whether the threads of a training are to be chosen: on a CPU, where neither user nor program has said them."""
    open_choice = threads is None and not deterministic and has_default_threads()
    return device.type == "cpu" and processes == 1 and open_choice and len(thread_candidates()) > 1
