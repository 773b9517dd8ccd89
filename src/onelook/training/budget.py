"""A training that is planned from its time: the schedule follows the part of the budget that is used."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from onelook.errors import UsageError
from onelook.training.duration import parse_duration

_EPOCHS = re.compile(r"\s*(\d+)\s*e(?:pochs?)?\s*", re.IGNORECASE)

EVALUATION_SHARE = 0.1  # of the time of training that evaluations before the last one may take
FINISH_SECONDS = 3.0  # of writing the report, beside its evaluation; on a slow machine half of what the start took
FINISH_SHARE = 0.05  # of the budget that is kept for it at most, beyond these seconds
RECENT = 64  # steps whose mean time is taken for that of the steps to come
UNKNOWN_EVALUATION = 0.4  # a step's time for as many images, of an evaluation that was not measured yet


@dataclass(frozen=True)
class Budget:
    """What a training may take: seconds, or epochs; one of the two."""

    seconds: float | None = None
    epochs: int | None = None


def parse_budget(text: str) -> Budget:
    """The budget that a text means: 30s, 10m, 1h30m, 20e or "20 epochs". UsageError for anything else."""
    if (match := _EPOCHS.fullmatch(text)) and int(match[1]):
        return Budget(epochs=int(match[1]))
    try:
        return Budget(seconds=parse_duration(text, "budget"))
    except UsageError as error:
        remedy = "Give a time such as 30s, 10m or 1h30m, or passes over the data such as 20e."
        raise UsageError(error.message, remedy) from None


class TimePlan:
    """Spreads the schedule of a training over the seconds of its budget, and ends it in time.

    seconds: the budget, from the call to the report.  used: of it so far, in earlier sessions and before the first step
    of this one.  start: what came before the first step of this session.  progress: part of the schedule that is done,
    0 to 1.  evaluation: estimated seconds of an evaluation; 0 where there is none.  last_evaluations: how many times
    that follows the last step, with the report.  step: estimated seconds of a step.  agree: returns the main process's
    number in every process of a training.  clock: seconds from any start.

    How many steps are left is estimated from the mean time of the last ones, with their batches, and from the time of
    the evaluations: after the first steps, and again whenever a quarter of the steps that were left is done. So the
    last estimate is made close to the end, however much the speed changes. In every step the progress grows by an equal
    share of what is left. Learning rate, closing phase and all else that depends on the position in a training follow
    the progress.
    """

    def __init__(
        self,
        seconds: float,
        *,
        step: float,
        evaluation: float = 0.0,
        last_evaluations: float = 2.0,
        used: float = 0.0,
        start: float = 0.0,
        progress: float = 0.0,
        agree: Callable[[float], float] = lambda number: number,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.progress = seconds, progress
        self._evaluation, self._agree, self._clock = evaluation, agree, clock
        self._evaluates, self._last_evaluations = evaluation > 0, last_evaluations
        self._used, self._begin = used, clock()
        self._finish = max(FINISH_SECONDS, min(start / 2, FINISH_SHARE * seconds))
        self._last_step = self._last_evaluation = self._begin
        self._aside = 0.0  # seconds of evaluations since the last step
        self._recent = deque([step], maxlen=RECENT)
        self._session_steps = 0
        self.room = self._estimated()  # steps that the budget has time for from here on, perhaps none
        self.steps_left = max(1, self.room)  # one ends the training properly: with an evaluation and its report
        self._next_estimate = min(self.steps_left, 4)

    @property
    def used(self) -> float:
        """The seconds that are used so far."""
        return self._used + self._clock() - self._begin

    @property
    def seconds_left(self) -> float:
        """The seconds until the training ends."""
        return max(0.0, self.seconds - self.used)

    @property
    def over(self) -> bool:
        """Whether the last step is done."""
        return self.steps_left <= 0

    @property
    def step_seconds(self) -> float:
        """The mean time of a step, with its batch."""
        return fmean(self._recent)

    def epochs(self, steps_per_epoch: int, done: int = 0) -> int:
        """How many epochs, the last one perhaps not whole, the training has by the present estimate; 1 at least.

        done: steps so far.
        """
        return max(1, math.ceil((done + self.steps_left) / steps_per_epoch))

    def phase(self, epochs: int) -> int:
        """The epoch (0-based) of a training of so many whose settings a step has now."""
        return min(epochs - 1, int(self.progress * epochs + 1e-9))

    def finish_step(self) -> None:
        """Counts a step; now and then it estimates how many are left."""
        now = self._clock()
        if self._session_steps == 1:
            self._recent.clear()  # the first step of a session, and the estimate, are those of other circumstances
        if self._session_steps:
            self._recent.append(max(now - self._last_step - self._aside, 0.0))
        self._last_step, self._aside = now, 0.0
        self._session_steps += 1
        self.progress += (1 - self.progress) / max(self.steps_left, 1)
        self.steps_left -= 1
        self._next_estimate -= 1
        if self._next_estimate <= 0:
            self.steps_left = 0 if self.over else self._estimated()
            self._next_estimate = max(1, self.steps_left // 4)
        if self.over:
            self.progress = 1.0

    def wants_evaluation(self) -> bool:
        """Whether there is time for an evaluation at the end of this epoch; there always is for the last one."""
        if self.over or not self._evaluates:
            return self._agree(float(self._evaluates)) > 0
        since, left = self._clock() - self._last_evaluation, self.steps_left * self.step_seconds
        is_due = since * EVALUATION_SHARE >= self._evaluation and left >= self._evaluation  # the last one is near
        return self._agree(float(is_due)) > 0

    def finish_evaluation(self, seconds: float) -> None:
        """Takes the time of an evaluation, which is no part of a step's."""
        self._evaluation = seconds
        self._aside += seconds
        self._last_evaluation = self._clock()

    def to_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {
            "used": self.used,
            "progress": self.progress,
            "step": self.step_seconds,
            "evaluation": self._evaluation,
        }

    def _estimated(self) -> int:
        """How many steps are left; those after the last evaluation and the report have no time."""
        end = self._finish + self._last_evaluations * self._evaluation
        left = min(self.seconds - self.used - end, self.seconds)
        share = 1 + (EVALUATION_SHARE if self._evaluates else 0.0)
        steps = left / max(self.step_seconds, 1e-6) / share
        return int(self._agree(float(max(0, math.floor(steps)))))
