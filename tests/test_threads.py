"""How many threads run: quotas of control groups, the environment, free cores, and the first steps and runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook import threads
from onelook.augment.letterbox import Stretch
from onelook.devices import cpu_quota
from onelook.errors import UserError
from onelook.ops.nms import Nms, Postprocess, RawDetections
from onelook.predict.thread_trial import ThreadChoosingRuntime
from onelook.threads import (
    SLOW_FIRST,
    TIMED_EACH,
    ThreadTrial,
    chosen_threads,
    free_cores,
    has_limited_threads,
    limit_torch_threads,
    make_waiting_passive,
    thread_candidates,
    thread_names,
    threads_note,
)
from onelook.training.loop import Epoch, Step
from onelook.training.options import RunOptions
from onelook.training.threads import AGAIN_AFTER, ThreadChoice


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/part\n", {"job/cpu.max": "200000 100000\n", "job/part/cpu.max": "max 100000\n"}, 2.0),
        ("0::/job/part\n", {"job/cpu.max": "50000 100000\n", "job/part/cpu.max": "300000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../host/path\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        (
            "4:cpu,cpuacct:/docker/1\n0::/\n",
            {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("3:cpuset:/x\n", {"cpuset/x/cpu.cfs_quota_us": "1", "cpuset/x/cpu.cfs_period_us": "1"}, None),
        ("0::/\n", {"cpu.max": "what\n"}, None),
        ("damaged", {}, None),
    ],
)
def test_the_quota_of_a_control_group_is_that_of_the_narrowest_above(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content, encoding="ascii")
    (tmp_path / "membership").write_text(groups, encoding="utf-8")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("free", "chosen"), [(0.2, 1), (1.6, 1), (1.8, 2), (3.9, 4), (4.0, 4)])
def test_as_many_threads_run_as_there_are_free_cores(four_cores: dict[str, float], free: float, chosen: int) -> None:
    four_cores["free"] = free
    assert chosen_threads() == chosen
    note = threads_note(None)
    assert (note is None) == (chosen == 4)
    assert note is None or note.startswith(f"Computing with {chosen} thread")
    assert threads_note(2) is None
    four_cores["free"] = 4.0
    assert chosen_threads() == chosen  # one choice a process


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("text", "chosen"), [("3", 3), ("2,1", 2), ("", 4), ("many", 4), ("0", 4)])
def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch, text: str, chosen: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert chosen_threads() == chosen
    assert threads_note(None) is None


def test_free_cores_are_between_none_and_all() -> None:
    assert 0 < free_cores(2) <= 2.1


def test_threads_that_a_program_has_set_stay(four_cores: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    current = [4]
    monkeypatch.setattr(threads, "_limits_of_torch", set())
    monkeypatch.setattr(torch, "get_num_threads", lambda: current[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: current.__setitem__(0, count))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    four_cores["free"] = 1.0
    limit_torch_threads(None)
    assert current == [1] and has_limited_threads()
    current[0] = 3
    assert not has_limited_threads()
    limit_torch_threads(None)
    assert current == [3]
    limit_torch_threads(2)
    assert current == [2]
    assert not has_limited_threads()  # a choice, not a limit
    current[0] = 1
    assert not has_limited_threads()
    with pytest.raises(UserError, match="threads is 0"):
        limit_torch_threads(0)


def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    make_waiting_passive()
    assert "OMP_WAIT_POLICY" not in threads.os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    make_waiting_passive()
    assert threads.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")


class Training:
    """Steps whose time depends on the number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.threads, self.now = seconds, 0, 0.0
        self.used: list[int] = []
        self.said: list[str] = []
        self.choice = ThreadChoice(sorted(seconds), self.said.append, clock=lambda: self.now, set_threads=self._set)

    def _set(self, count: int) -> None:
        self.threads = count

    def step(self, size: int = 64) -> None:
        self.used.append(self.threads)
        taken = self.seconds[self.threads] * (size / 64) ** 2
        self.now += taken
        step = SimpleNamespace(seconds=taken, images=(0, 1), size=(size, size))
        event = cast(Any, Step).__new__(Step)
        for name, value in vars(step).items():
            object.__setattr__(event, name, value)
        self.choice.add(event)


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_the_first_steps_choose_the_fastest_number_of_threads(fastest: int) -> None:
    training = Training({count: 1.0 if count == fastest else 1.2 for count in (1, 2, 4)})
    for number in range(20):
        training.step(size=64 if number % 2 else 128)  # sizes differ: the time is that of a pixel
    assert training.choice.chosen == training.used[-1] == fastest
    assert training.used[: 3 * (TIMED_EACH + 1)].count(2) == TIMED_EACH + 1
    assert len(training.said) == 1
    assert f"{fastest} thread" in training.said[0]


def test_a_number_of_threads_that_is_far_too_slow_gets_one_step() -> None:
    training = Training({1: 1.0, 2: 8.0})
    for _ in range(10):
        training.step()
    assert training.used.count(2) == 1
    assert training.choice.chosen == 1
    assert "(2 threads: 0.12 of that speed)" in training.said[0]


@given(
    seconds=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4),
    noise=st.lists(st.floats(1.0, 1.1), min_size=40, max_size=40),
    first_counts=st.booleans(),
)
def test_a_trial_ends_and_chooses_nearly_the_fastest(
    seconds: list[float], noise: list[float], first_counts: bool
) -> None:
    """Also where the first run after each change takes half as long again, or three times as long and counts not."""
    trial = ThreadTrial(range(len(seconds)), first_counts=first_counts)
    runs, before = 0, -1
    for factor in noise:
        if trial.chosen is not None:
            break
        slower = (1.5 if first_counts else 3.0) if trial.threads != before else 1.0
        before = trial.threads
        trial.add(seconds[trial.threads] * factor * slower)
        runs += 1
    assert trial.chosen == trial.threads
    assert runs <= len(seconds) * (TIMED_EACH + 1)
    assert seconds[trial.chosen] <= 1.1 * min(seconds)
    assert trial.speeds_of_others().count("thread") == len(seconds) - 1


def test_the_first_number_of_threads_is_not_given_up_for_its_own_noise() -> None:
    trial, used = ThreadTrial((1, 2)), []
    for seconds in (1.0, 1.0, 9.0 * SLOW_FIRST, 1.0):
        used.append(trial.threads)
        trial.add(seconds)
    assert used == [1, 1, 1, 1]
    assert trial.threads == 2


@pytest.mark.parametrize(("cores", "usual", "tried"), [(2, 1, (1, 2)), (4, 3, (3, 1, 2, 4)), (16, 5, (5, 16))])
def test_few_numbers_of_threads_are_tried(
    monkeypatch: pytest.MonkeyPatch, cores: int, usual: int, tried: tuple[int, ...]
) -> None:
    monkeypatch.setattr(threads, "num_cores", lambda: cores)
    assert thread_candidates(usual) == tried
    assert thread_candidates(cores)[0] == cores


class Network:
    """A runtime whose time depends on its number of threads; a run computes `batch` images at least."""

    size, frame, class_names = (32, 32), Stretch(), ("a",)
    postprocess = evaluating = Nms()
    other = "of the runtime"

    def __init__(self, seconds: dict[int, float], batch: int = 1) -> None:
        self.seconds, self.batch, self.threads, self.now = seconds, batch, 1, 0.0
        self.set: list[int] = []
        self.can_change = True

    def set_threads(self, threads: int) -> bool:
        if self.can_change:
            self.threads = threads
            self.set.append(threads)
        return self.can_change

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        self.now += self.seconds[self.threads] * max(len(batch), self.batch)
        return [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))] * len(batch)


def run_batches(
    network: Network, monkeypatch: pytest.MonkeyPatch, sizes: Iterable[int]
) -> tuple[ThreadChoosingRuntime, list[str]]:
    """Batches of these sizes through the network, on a machine of two cores."""
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    said: list[str] = []
    runtime = ThreadChoosingRuntime(network, said.append, clock=lambda: network.now)
    for count in sizes:
        assert len(runtime(np.zeros((count, 32, 32, 3), np.uint8), Nms())) == count
    return runtime, said


@pytest.mark.parametrize("two", [0.5, 0.9, 1.2, 9.0])
@pytest.mark.parametrize(
    ("batch", "sizes"), [(1, (1,) * 20), (8, (8, 8, 1) * 9), (8, (8, 8, 8, 8, 8, 1, 8, 8, 8, 8)), (1, (1, 3, 2, 1) * 9)]
)
def test_the_first_runs_of_a_network_choose_its_threads(
    monkeypatch: pytest.MonkeyPatch, two: float, batch: int, sizes: tuple[int, ...]
) -> None:
    """two: seconds with two threads, for one second with one."""
    chosen, changes = (2, [2]) if two < 1 else (1, [2, 1])
    network = Network({1: 1.0, 2: two}, batch)
    runtime, said = run_batches(network, monkeypatch, sizes)
    assert network.threads == chosen
    assert network.set == changes  # a file is opened again no more often than it must be
    assert runtime.other == "of the runtime"
    assert len(said) == 1 and said[0].startswith(f"Going on with {thread_names(chosen)},")


def test_few_runs_keep_the_usual_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network({1: 1.0, 2: 0.5})
    _, said = run_batches(network, monkeypatch, [1] * (TIMED_EACH + 1))
    assert (network.threads, network.set, said) == (1, [], [])


def test_a_network_that_cannot_change_its_threads_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network({1: 1.0, 2: 0.5})
    network.can_change = False
    _, said = run_batches(network, monkeypatch, [1] * 20)
    assert (network.threads, said) == (1, [])


def test_the_choice_is_made_again_at_the_end_of_an_epoch_when_it_is_old() -> None:
    training = Training({1: 1.0, 2: 1.5})
    for _ in range(10):
        training.step()
    training.choice.add(Epoch(0))
    assert training.choice.chosen == 1
    training.seconds = {1: 1.0, 2: 0.6}  # the other program has ended
    training.now += AGAIN_AFTER + 1
    training.step()
    assert training.choice.chosen == 1  # not within an epoch
    training.choice.add(Epoch(1))
    for _ in range(10):
        training.step()
    assert training.choice.chosen == 2


def test_threads_are_kept_for_resuming_and_checked() -> None:
    assert RunOptions().after(RunOptions(threads=3).to_dict()).threads == 3
    with pytest.raises(UserError, match="threads is 0"):
        RunOptions(threads=0)
