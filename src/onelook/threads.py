"""How many threads a run on a CPU takes where the user does not say: as many as there are free cores.

A thread more than there are free cores can make PyTorch slower: at every operator all threads wait for the one that
has no core. `free_cores` measures them, because a load average says nothing of quotas and of other containers. But a
program of more threads also gets a larger part of busy cores, so that longer work tries several numbers: `ThreadTrial`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from onelook.devices import num_cores
from onelook.errors import UsageError

_PROBE_SECONDS = 0.03  # some time slices of the scheduler
_MOST_PROBED = 16  # threads that look for free cores; more cores are counted in proportion
_MOST_THREADS = 1024  # that may be asked for, where there are fewer cores
_NEARLY_FREE = 0.3  # of a core, that may be missing: the probe itself waits for Python's lock now and then

_limits_of_torch: set[int] = set()  # the number that `limit_torch_threads` has chosen by itself, where it has

TIMED_EACH = 3  # runs of each number of threads that are timed, after the first
SLOW_FIRST = 2.0  # times the best of the others: the first run shows it, which a change makes slower, so that ...
TOO_SLOW = 1.3  # ... it takes more there. Such a number of threads gets no further run


class ThreadTrial:
    """Finds the fastest number of threads by the times of real work: each candidate in turn, then the fastest.

    candidates: numbers of threads, the usual one first.  first_counts: whether the first run after a change says
    anything; where a file is opened again, it does not.
    """

    def __init__(self, candidates: Sequence[int], *, first_counts: bool = True) -> None:
        self._candidates, self._first_counts = tuple(candidates), first_counts
        self.restart()

    def restart(self) -> None:
        """Forgets all times and begins with the first candidate."""
        self.chosen: int | None = None
        self.threads = self._candidates[0]
        self._times: dict[int, list[float]] = {count: [] for count in self._candidates}

    def add(self, seconds: float) -> None:
        """Takes the time of a run with `threads`, for a unit of work; `threads` are then those of the next run."""
        if self.chosen is not None:
            return
        times = self._times[self.threads]
        times.append(seconds)
        best = min((one for count, one in self._seconds().items() if count != self.threads), default=seconds)
        limit = TOO_SLOW if len(times) > 1 else SLOW_FIRST if self._first_counts else float("inf")
        if len(times) <= TIMED_EACH and seconds <= limit * best:
            return
        seconds_of = self._seconds()
        left = [count for count in self._candidates if count not in seconds_of]
        if left:
            self.threads = left[0]
        else:
            self.threads = self.chosen = min(seconds_of, key=lambda count: seconds_of[count])

    def speeds_of_others(self) -> str:
        """The numbers of threads that were not chosen with their speeds, for a line in brackets."""
        seconds = self._seconds()
        best = min(seconds.values())
        others = [(count, best / one) for count, one in seconds.items() if count != self.chosen]
        return ", ".join(f"{thread_names(count)}: {part:.2f} of that speed" for count, part in others)

    def _seconds(self) -> dict[int, float]:
        from statistics import median  # which loads more than a run of one image needs

        return {count: median(times[1:] or times) for count, times in self._times.items() if times}


def thread_names(count: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} thread{'s' * (count > 1)}"


def thread_candidates(usual: int) -> tuple[int, ...]:
    """The numbers of threads that are worth a trial: the usual one first, then one, half of the cores, and all.

    Above four cores, the usual one and all: each number costs slow runs.
    """
    cores = num_cores()
    others = {1, cores, max(1, cores // 2)} if cores <= 4 else {cores}
    return (usual, *sorted(others - {usual}))


def given_threads() -> int | None:
    """The number of threads in the environment variable OMP_NUM_THREADS; None where it is not set or no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def check_threads(threads: int | None) -> None:
    """UsageError for a number of threads below 1, or so large that PyTorch and ONNX Runtime end the process."""
    most = max(_MOST_THREADS, num_cores())
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"The number of threads is {threads}.", f"Give 1 to {most}.")


@functools.cache
def chosen_threads() -> int:
    """The threads of a run: OMP_NUM_THREADS, else the number of free cores, at least 1.

    Measured once in a process, so that its runs do not differ.
    """
    given = given_threads()
    if given is not None:
        return given
    cores = num_cores()
    return cores if cores == 1 else max(1, min(cores, int(free_cores(cores) + _NEARLY_FREE)))


def free_cores(cores: int) -> float:
    """How many of the cores other programs leave free: what some threads get of them in 30 ms, added up."""
    import hashlib  # which loads OpenSSL: a start that is told the number of threads needs neither
    import threading

    count = min(cores, _MOST_PROBED)
    together, shares = threading.Barrier(count), [0.0] * count

    def work(index: int) -> None:
        block = bytes(1 << 17)
        together.wait()
        started, used = time.perf_counter(), time.thread_time()
        while time.perf_counter() - started < _PROBE_SECONDS:
            hashlib.sha256(block)  # without Python's lock
        shares[index] = (time.thread_time() - used) / (time.perf_counter() - started)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(shares) * cores / count


def threads_note(threads: int | None) -> str | None:
    """The line that says that fewer threads than cores were chosen; None where the user chose, or all cores are free.

    threads: what the user gave.
    """
    if threads is not None or given_threads() is not None or chosen_threads() >= num_cores():
        return None
    count = chosen_threads()
    return f"Computing with {thread_names(count)}: others use the {num_cores()} cores (--threads chooses)."


def limit_torch_threads(threads: int | None) -> None:
    """Sets PyTorch's threads, of the whole process: those given, else `chosen_threads` where PyTorch has its default.

    A number that the program has set itself stays.
    """
    import torch

    check_threads(threads)
    if threads is not None:
        _limits_of_torch.clear()
        torch.set_num_threads(threads)
    elif has_default_threads():
        limit = min(chosen_threads(), torch.get_num_threads())
        _limits_of_torch.clear()
        _limits_of_torch.add(limit)
        if limit < torch.get_num_threads():
            torch.set_num_threads(limit)


def has_limited_threads() -> bool:
    """Whether PyTorch has the number of threads that `limit_torch_threads` chose, and not one of the program's own."""
    import torch

    return torch.get_num_threads() in _limits_of_torch


def has_default_threads() -> bool:
    """Whether PyTorch's number of threads is its own default: one a core, or one for two that share their units."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = (cores, cores // 2) if _cores_share_units() else (cores,)
    return given_threads() is None and torch.get_num_threads() in defaults


def _cores_share_units() -> bool:
    try:
        return Path("/sys/devices/system/cpu/smt/active").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def make_waiting_passive() -> None:
    """Makes the threads of OpenMP sleep while they wait, instead of taking the time of a core that others need.

    Has an effect before PyTorch is imported only. Settings of the user stay.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
