"""Times several calls in alternation, so that all see the same machine: warm, cool, busy or idle."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from time import perf_counter


def alternate(
    runs: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    warm_up: int = 0,
    timed: int = 1,
    untimed: int = 0,
    wait: Callable[[], None] = lambda: None,
    progress: Callable[[float, float], None] = lambda done, total: None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, by its key.

    turns, warm_up: turns that count, and turns before that do not; in each, every key has its turn, each time another
    one first.  timed, untimed: calls in a turn that are timed, and calls before them that are not: the first call after
    another model's finds cold caches, and threads of the other that still look for work.  wait: returns when the device
    has finished.  progress: called with the turns done, and all.  clock: in seconds.

    The garbage collector is off meanwhile.
    """
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    keys, collects = list(runs), gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(warm_up + turns):
            first = turn % max(len(keys), 1)
            for key in keys[first:] + keys[:first]:
                for _ in range(untimed):
                    runs[key]()
                wait()
                for _ in range(timed):
                    start = clock()
                    runs[key]()
                    wait()
                    if turn >= warm_up:
                        seconds[key].append(clock() - start)
            progress(turn + 1, warm_up + turns)
    finally:
        if collects:
            gc.enable()
    return seconds
