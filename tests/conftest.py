"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from onelook.devices import num_cores

# A number of threads that is chosen by what the cores are doing would differ between runs, and with it the rounding.
os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
# Several processes run tests beside each other: a thread that spins while it waits takes another's core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("onelook", deadline=None)
settings.load_profile("onelook")


def _one_thread() -> Iterator[None]:
    # Loaded here, since PyTorch takes a second that a run of tests without it does not need.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread during a test."""
    yield from _one_thread()


@pytest.fixture(scope="module")
def one_thread_in_module() -> Iterator[None]:
    """PyTorch computes with one thread in all tests of a file and in their fixtures."""
    yield from _one_thread()


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """A machine of four cores; its "free" says how many are free. Nothing in the environment."""
    from onelook import threads

    state = {"free": 4.0}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "num_cores", lambda: 4)
    monkeypatch.setattr(threads, "free_cores", lambda cores: state["free"])
    threads.chosen_threads.cache_clear()
    yield state
    threads.chosen_threads.cache_clear()
