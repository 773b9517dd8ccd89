"""The loader's worker processes: how many, how they end, and which signals do not end them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from loading import STILL, ten_images
from onelook.augment.yolox import YoloxAugment
from onelook.data.loader import Loader, default_workers
from onelook.data.split import Dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ten_images(tmp_path_factory.mktemp("set"))


def test_leaving_in_the_middle_of_an_epoch_ends_the_workers(dataset: Dataset) -> None:
    """What is still in their queues is thrown away; a worker that aborts would raise here."""
    loader = Loader(dataset, (320, 320), 2, workers=2)
    for epoch in range(2):
        for number, _ in enumerate(loader.epoch(epoch, YoloxAugment(), 0)):
            if number == 1:
                break
    workers = multiprocessing.active_children()
    loader.close()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_what_a_terminal_sends_to_all_processes_does_not_end_the_workers(dataset: Dataset) -> None:
    """Ctrl-C reaches them too: a training that stops between two steps still needs the batch that it waits for."""
    with Loader(dataset, (64, 64), 1, workers=1) as loader:
        batches = loader.epoch(0, STILL, 0)
        next(batches)
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 9
    assert worker.exitcode == 0


STARTING = """
import os, signal, sys, threading
from onelook.augment.yolox import SingleImageAugment
from onelook.data import open_dataset
from onelook.data.loader import Loader

got = []

def pester(ended):
    while not ended.wait(0.02):
        os.killpg(os.getpgrp(), signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: got.append(1))
    ended = threading.Event()
    with Loader(open_dataset(sys.argv[1], "train"), (64, 64), 1, workers=2, cache=1 << 20) as loader:
        threading.Thread(target=pester, args=(ended,)).start()
        batches = loader.epoch(0, SingleImageAugment(hsv=None, flip=0.0), 0)
        try:
            next(batches)
        finally:
            ended.set()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        print(len(got) > 5, signal.SIGINT in blocked, signal.SIGTERM in blocked, len(list(batches)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_ctrl_c_at_any_moment_of_their_start_does_not_end_the_workers(dataset: Dataset, tmp_path: Path) -> None:
    """A terminal sends it to all processes; the training gets every one that comes, and still has its batches."""
    (tmp_path / "starting.py").write_text(STARTING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "starting.py"), str(dataset.described_by)]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=100, check=False
    )
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    assert found.stdout.split() == ["True", "False", "False", "9"]


KILLED = """
import multiprocessing, sys, time
from onelook.augment.yolox import SingleImageAugment
from onelook.data import open_dataset
from onelook.data.loader import Loader

if __name__ == "__main__":
    loader = Loader(open_dataset(sys.argv[1], "train"), (64, 64), 8, epochs=50, max_labels=2000, workers=1)
    next(loader.epoch(0, SingleImageAugment(hsv=None, flip=0.0), 0))
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    """Even while they wait to hand over a batch that is larger than a pipe holds."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    cv2.imwrite(str(tmp_path / "train" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    images = [{"id": 0, "file_name": "0.png", "height": 64, "width": 64}]
    box = {"image_id": 0, "category_id": 0, "bbox": [5, 5, 40, 40], "area": 1600, "iscrowd": 0}
    whole = {"images": images, "annotations": [{"id": number, **box} for number in range(1, 1501)]}
    whole["categories"] = [{"id": 0, "name": "cup"}]
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(whole))
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        worker = int(training.stdout.readline())
        time.sleep(1)  # its pipe fills
        training.kill()
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            os.kill(worker, 0)  # raises when it is gone
            if _is_zombie(worker):
                return
            time.sleep(0.1)
    except ProcessLookupError:
        return
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


def _is_zombie(process: int) -> bool:
    """Whether it has ended and was not waited for: in a container no process may do that."""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, "1", 1), (2, "1", 1), (16, "1", 15), (64, "1", 16), (64, "8", 7), (4, "8", 1), (4, "0", 3), (4, "x", 3)],
)
def test_workers_share_the_cores(cores: int, processes: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert default_workers() == workers
