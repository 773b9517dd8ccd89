"""Chooses PyTorch's threads of a training on a CPU: its own steps are timed with several numbers of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from onelook.threads import ThreadTrial, chosen_threads, has_default_threads, thread_candidates, thread_names
from onelook.training.loop import Epoch, Step

AGAIN_AFTER = 600.0  # seconds after which the next epoch measures again: other programs come and go


class ThreadChoice:
    """Sets the number of threads before each step: first every candidate in turn, then the fastest.

    candidates: numbers of threads, the usual one first.  say: called with the line that says what was chosen.  The
    steps are those of the training; the number of threads changes their rounding only.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        set_threads: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._say, self._clock, self._decided, self._set_threads = say, clock, clock(), set_threads
        self._trial = ThreadTrial(candidates)
        set_threads(self._trial.threads)

    @property
    def chosen(self) -> int | None:
        """The fastest number of threads; None while it is not known."""
        return self._trial.chosen

    def add(self, event: Step | Epoch) -> None:
        """Takes the time of a step and sets the threads of the next. At the end of an epoch, may begin anew."""
        if self.chosen is None and isinstance(event, Step):
            self._trial.add(event.seconds / (max(1, len(event.images)) * event.size[0] * event.size[1]))
            self._set_threads(self._trial.threads)
            if self.chosen is not None:
                self._decided = self._clock()
                others = self._trial.speeds_of_others()
                self._say(f"{thread_names(self.chosen)} on the CPU, the fastest in the first steps ({others}).")
        elif self.chosen is not None and isinstance(event, Epoch) and self._clock() - self._decided > AGAIN_AFTER:
            self._trial.restart()
            self._set_threads(self._trial.threads)


def wants_choice(device: torch.device, processes: int, threads: int | None, deterministic: bool) -> bool:
    """Whether the threads of a training are to be chosen: on a CPU, where neither user nor program has said them."""
    open_choice = threads is None and not deterministic and has_default_threads()
    return device.type == "cpu" and processes == 1 and open_choice and len(thread_candidates(chosen_threads())) > 1
