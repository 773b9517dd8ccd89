"""A training on several nodes goes on from its last state when a node is lost: two launchers on this computer."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onelook.api import training_session
from onelook.data.convert import convert
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UserError
from onelook.reporter import SilentReporter

SOURCE = Path(__file__).parent.parent / "src"
EPOCHS = 7
PATIENCE = 400  # seconds
# See docs/scale.md: without it, a machine that joins later waits for an address that is published only at the start.
SHARED_STORE_OFF = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def test_processes_that_see_other_folders_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = training_session.Start(
        folder=tmp_path / "run", resume=False, weights=None, teacher=None, teacher_weights=None, begin=0.0
    )
    training_session._check_same_folder(start)
    monkeypatch.setattr(training_session, "gather_objects", lambda value: [value, True])
    with pytest.raises(UserError, match="Some processes of this training find a run in") as caught:
        training_session._check_same_folder(start)
    assert caught.value.remedy == "Put it in a folder that all computers share (out)."


class Node:
    """One torchrun launcher with one process: a computer of the training."""

    def __init__(self, name: str, port: int, data: Path, out: Path, log: Path) -> None:
        self.name, self.log = name, log
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "elastic"]
        meeting += ["--rdzv-conf", f"is_host={int(name == 'first')}", "--local-addr", "localhost"]
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [*launcher, *meeting, "--max-restarts", "5", "-m", *training(data, out)],
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def lose(self) -> None:
        """Kills the launcher and all that it started, as a computer without power does."""
        for process in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(60)


def training(data: Path, out: Path) -> list[str]:
    settings = ["--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", str(EPOCHS), "--device", "cpu"]
    quick = ["--workers", "0", "--threads", "1", "--val-split", "none", "sampling.shard_window=1", "closing=none"]
    return ["onelook", "train", str(data), *settings, *quick, "--out", str(out), "--auto-resume"]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    } | SHARED_STORE_OFF


def descendants(parent: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [parent]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def epochs_of(out: Path) -> int:
    try:
        with (out / "metrics.csv").open() as file:
            return sum(1 for _ in csv.DictReader(file))
    except OSError:
        return 0


def wait_for(condition: Callable[[], bool], nodes: list[Node]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "\n".join(node.log.read_text()[-4000:] for node in nodes)
        for node in nodes:
            assert node.process.poll() in (None, 0), "\n".join(node.log.read_text()[-4000:] for node in nodes)
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Node]]:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    nodes: list[Node] = []

    def begin(name: str) -> Node:
        nodes.append(Node(name, port, tmp_path / "shards", tmp_path / "run", tmp_path / f"{name}.log"))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.lose()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")
def test_a_lost_node_and_then_all_nodes_come_back_and_the_weights_are_those_without_a_break(
    tmp_path: Path, start: Callable[[str], Node]
) -> None:
    data = write_synthetic(tmp_path / "data", Scenes(size=(64, 64)), {"train": 64})
    convert(data, to="shards", out=tmp_path / "shards", shard_size=100_000, reporter=SilentReporter())
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 2
    run = tmp_path / "run"

    nodes = [start("first"), start("second")]
    wait_for(lambda: epochs_of(run) >= 1, nodes)
    nodes[1].lose()
    stopped = epochs_of(run)
    assert stopped < EPOCHS
    wait_for(lambda: "stops because another process has ended" in nodes[0].log.read_text(), nodes[:1])
    nodes[1] = start("second")  # the first launcher is still there, and starts its process again
    wait_for(lambda: epochs_of(run) > stopped, nodes)

    for node in nodes:
        node.lose()
    assert epochs_of(run) < EPOCHS
    nodes = [start("first"), start("second")]
    for node in nodes:
        assert node.process.wait(PATIENCE) == 0, node.log.read_text()[-6000:]
    assert epochs_of(run) == EPOCHS

    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*together, *training(tmp_path / "shards", tmp_path / "whole")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    broken, whole = (load_file(folder / "last.safetensors") for folder in (run, tmp_path / "whole"))
    assert broken.keys() == whole.keys()
    assert not [name for name, tensor in whole.items() if not torch.equal(tensor, broken[name])]
