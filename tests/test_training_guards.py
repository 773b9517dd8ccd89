"""Trainings that cannot be right are refused before they start; those that are stopped are saved."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from onelook.cli.app import run
from onelook.training.files import locked_folder
from onelook.weights import restore

CASE = Path(__file__).parent / "cases" / "batch1_size32_crash" / "data"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
SMALL = ("--workers", "0", "--device", "cpu", "model.width=0.125", "model.depth=0.33", "multiscale=none")


def train(data: Path, out: Path, *options: str, model: str = "yolox-nano", epochs: int = 1) -> int:
    return run(["train", str(data), "--model", model, "--epochs", str(epochs), "--out", str(out), *options])


def copied(folder: Path, images: int = 3) -> Path:
    shutil.copytree(CASE, folder / "data")
    for number in range(images, 3):
        for part in ("images", "labels"):
            next((folder / "data" / part / "train").glob(f"{number}.*")).unlink()
    return folder / "data"


@pytest.mark.parametrize("model", ["yolox-nano", "yolov4-tiny", "yolov7-tiny", "damo-yolo-ns"])
def test_one_value_a_channel_is_refused_before_the_start(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--size", "32", "--batch", "1", "--workers", "0", "multiscale=none")
    assert train(copied(tmp_path), tmp_path / "run", *options, model=model) == 1
    error = capsys.readouterr().err
    assert "single value a channel" in error and "a batch" in error and "larger size" in error
    assert not (tmp_path / "run").exists()


def test_a_size_that_is_drawn_later_is_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--size", "64", "--batch", "1", "--workers", "0", "multiscale=MultiScale(low=0.5, high=1.0, every=1)")
    assert train(copied(tmp_path), tmp_path / "run", *options, epochs=9) == 1
    assert "One image of 32x32 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(("images", "batch", "size"), [(1, 1, 64), (1, 2, 32), (1, 4, 32), (3, 16, 32), (3, 64, 32)])
def test_few_images_are_trained_on(images: int, batch: int, size: int, tmp_path: Path) -> None:
    options = ("--size", str(size), "--batch", str(batch), *SMALL)
    assert train(copied(tmp_path, images), tmp_path / "run", *options) == 0
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_a_batch_far_larger_than_the_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(copied(tmp_path), tmp_path / "run", "--size", "32", "--batch", "65", *SMALL) == 1
    assert "again and again" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_damaged_validation_image_is_found_before_the_first_epoch(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = copied(tmp_path)
    old = data / "images" / "val" / "1.png"
    content = cv2.imencode(suffix, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    old.unlink()
    old.with_suffix(suffix).write_bytes(content[: len(content) * 2 // 3])
    assert train(data, tmp_path / "run", "--size", "32", "--batch", "4", *SMALL) == 1
    error = capsys.readouterr().err
    assert "1 of 3 validation images cannot be read" in error and f"1{suffix}" in error
    assert not (tmp_path / "run" / "metrics.csv").exists()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def training(
    folder: Path, *, by: tuple[str, ...] = (), through: tuple[str, ...] = (), **options: object
) -> subprocess.Popen[bytes]:
    """A long training that has begun its first steps."""
    command = [*by, sys.executable, *through, "-m", "onelook", "train", str(copied(folder)), "--model", "yolox-nano"]
    command += ["--epochs", "5000", "--size", "64", "--batch", "2", "--out", str(folder / "run"), *SMALL]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **options)  # type: ignore[call-overload]
    log, deadline = folder / "run" / "train.log", time.monotonic() + 90
    while time.monotonic() < deadline and not (log.is_file() and re.search("epoch +1/", log.read_text())):
        assert process.poll() is None, "the training has ended"
        time.sleep(0.05)
    return process


def read_all(terminal: int) -> None:
    """Reads what is written to a terminal until it is closed."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_ends_a_training_saves_it(name: str, tmp_path: Path) -> None:
    process = training(tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.send_signal(getattr(signal, name))
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and "Traceback" not in error
    assert "Stopped and saved after" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("receiver", ["torchrun", "one process"])
def test_a_signal_to_several_processes_saves_their_training(receiver: str, name: str, tmp_path: Path) -> None:
    """torchrun passes it on to all; a job scheduler may send it to any one of them."""
    process = training(tmp_path, through=TORCHRUN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid if receiver == "torchrun" else int(children[-1]), getattr(signal, name))
    error = process.communicate(timeout=90)[1].decode()
    assert "KeyboardInterrupt" not in error and process.returncode != 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("Stopped and saved after") == 1
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert restore(tmp_path / "run" / "last.safetensors").class_names


@pytest.mark.slow
def test_a_closed_terminal_saves_the_training(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=read_all, args=(ours,), daemon=True)  # a terminal that is not read blocks
    reader.start()
    process = training(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)  # writing to the terminal fails from now on
    process.send_signal(signal.SIGHUP)
    process.wait(timeout=60)
    assert "Stopped and saved after" in (tmp_path / "run" / "train.log").read_text()
    assert process.returncode not in (-signal.SIGHUP, 0)


@pytest.mark.slow
def test_nohup_keeps_a_training_alive(tmp_path: Path) -> None:
    process = training(tmp_path, by=("nohup",), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130


def test_a_folder_that_cannot_be_locked_is_warned_of(tmp_path, monkeypatch):
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    warnings: list[str] = []
    with locked_folder(tmp_path, warnings.append), locked_folder(tmp_path, warnings.append):
        assert len(warnings) == 1 and "cannot be locked" in warnings[0] and "No locks available" in warnings[0]
