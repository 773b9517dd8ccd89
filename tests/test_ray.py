"""Tests on a Ray cluster of this machine: workers and the driver are killed at random, and nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

import onelook
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import RayWorkers, connect
from onelook.cluster.workers import WorkerLostError
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UserError
from onelook.reporter import SilentReporter
from onnx_models import describe, write_model

pytest.importorskip("ray", reason="needs the extra scale")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

PATHS = os.pathsep.join(path for path in sys.path if path)
ON = "ray,workers=2,cpus=0.5"
SIZE, IMAGES, SHARD = (3000, 4000), 60, 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, which the tests share."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        patch.delenv("RAY_ADDRESS", raising=False)
        connect(parse_place("ray"), stack, SilentReporter())
        yield


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrong_file() -> None:
    raise UserError("The file is wrong.", "Give another.")


def wait_to_be_interrupted(begun: str) -> str:
    try:
        Path(begun).touch()
        for _ in range(6000):  # Ray's interrupt comes between two steps of Python: it ends no sleep
            time.sleep(0.1)
    except KeyboardInterrupt:
        return "saved"
    return "not interrupted"


def process_of(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


@pytest.mark.parametrize("alone", [False, True])
def test_calls_return_raise_and_lose_their_worker(cluster: None, alone: bool, tmp_path: Path) -> None:
    with RayWorkers(parse_place(ON), SilentReporter(), alone=alone) as workers:
        shared = workers.share(list(range(1000)))
        assert workers.submit(sum, shared).result() == 499500
        with pytest.raises(UserError, match=r"The file is wrong") as raised:
            workers.submit(wrong_file).result()
        assert raised.value.remedy == "Give another."
        with pytest.raises(WorkerLostError):
            workers.submit(kill_this_process).result()
        calls = [workers.submit(process_of, number, log=tmp_path / "log") for number in range(6)]
        processes = {call.result() for call in calls}
        assert len(processes) == 6 if alone else len(processes) <= 2
        assert os.getpid() not in processes


def test_a_call_with_a_process_to_itself_is_interrupted_as_by_ctrl_c(cluster: None, tmp_path: Path) -> None:
    with RayWorkers(parse_place(ON), SilentReporter(), alone=True) as workers:
        call = workers.submit(wait_to_be_interrupted, str(tmp_path / "begun"))
        wait_until((tmp_path / "begun").exists)
        call.interrupt()
        assert call.result() == "saved"


def test_a_cluster_that_does_not_answer_is_an_error() -> None:
    code = (
        "from onelook.cluster.ray_workers import *; from onelook.cluster.place import parse_place\n"
        "try: connect(parse_place('ray://127.0.0.1:9'), contextlib.ExitStack(), None)\n"
        "except UserError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": PATHS}, stdout=subprocess.PIPE
    )
    assert b"No connection to the Ray cluster at ray://127.0.0.1:9" in ended.stdout
    assert b"Check the address" in ended.stdout


def wait_until(true, seconds: float = 300.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


# --- detection -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large images, so that a shard takes a while, and two damaged ones."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    small = rng.integers(0, 255, (30, 40, 3), np.uint8)
    for number in range(IMAGES):
        image = cv2.resize(np.roll(small, number), SIZE[::-1])
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), image)
    (folder / "007.jpg").write_bytes(b"")
    (folder / "033.jpg").write_bytes((folder / "033.jpg").read_bytes()[:5000])
    return folder


def start_driver(photos: Path, model: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onelook", "detect", str(photos), "--model", str(model), "--out", str(out)]
    command += ["--on", ON, "--shard-size", str(SHARD)]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def workers_of(driver: int) -> list[int]:
    """The processes of actors that a driver's own cluster runs."""
    parents, actors = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status, command = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
            if command.startswith(b"ray::_Caller"):
                actors.append(int(entry.name))
    found = []
    for actor in actors:
        process = actor
        while process > 1 and process != driver:
            process = parents.get(process, 0)
        found += [actor] if process == driver else []
    return found


def test_killed_workers_and_a_killed_driver_lose_nothing(photos: Path, tmp_path: Path) -> None:
    model, rng = write_model(tmp_path / "small.onnx"), Random(0)
    alone = onelook.detect_shards(
        model, photos, tmp_path / "alone", on="local", shard_size=SHARD, threads=1, reporter=SilentReporter()
    )
    out = tmp_path / "out"

    def shards() -> set[str]:
        return {path.name for path in (out / "detections").glob("shard-*")}

    driver = start_driver(photos, model, out)
    for least in (2, 5):  # two workers are killed, at different times
        wait_until(lambda: len(shards()) >= least and workers_of(driver.pid))  # noqa: B023
        os.kill(rng.choice(workers_of(driver.pid)), signal.SIGKILL)
    wait_until(lambda: len(shards()) >= 9)
    driver.kill()
    driver.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "detections").glob("shard-*")}
    assert 9 <= len(before) < IMAGES // SHARD, "it was killed too late to show anything"
    resumed = start_driver(photos, model, out)
    said = resumed.communicate(timeout=600)[0].decode()
    assert resumed.returncode == 0, said
    assert "shards are finished already" in said
    after = {name: (out / "detections" / name).stat().st_mtime_ns for name in before}
    assert (
        sum(after[name] == before[name] for name in before) >= len(before) - 2
    )  # what was being written is made again
    found, whole = (parquet.read_table(tmp_path / name / "detections") for name in ("out", "alone"))
    assert found.equals(whole) and found.num_rows == IMAGES
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"] and (summary["errors"], summary["images"]) == (alone.errors, IMAGES) == (2, IMAGES)


# --- trials --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 12})


def test_a_search_for_settings_has_the_same_trials(cluster: None, scenes: Path, tmp_path: Path) -> None:
    def rows(on: str) -> list[list[str]]:
        onelook.tune(
            onelook.RecipeChoice(model="yolox-nano", overrides=("multiscale=none", "optimizer.momentum=0.8..0.95")),
            scenes,
            **{"epochs": 1, "size": 64, "batch": 4, "trials": 2, "parallel": 1, "device": "cpu", "workers": 0},
            out=tmp_path / on.partition(",")[0],
            on=on,
            reporter=SilentReporter(),
        )
        with (tmp_path / on.partition(",")[0] / "results.csv").open() as file:
            return [
                [row["trial"], row["status"], row["fitness"], row["optimizer.momentum"]] for row in csv.DictReader(file)
            ]

    assert rows(ON) == rows("local")
    assert (tmp_path / "ray" / "trial-001" / "best.safetensors").is_file()


def test_the_rows_of_a_roadmap_have_the_same_results(cluster: None, scenes: Path, tmp_path: Path) -> None:
    def table(on: str) -> onelook.RoadmapTable:
        return onelook.roadmap(
            "yolox-table2",
            scenes,
            **{"rows": "1,2", "epochs": 1, "scale": "depth=0.33,width=0.125", "size": 64, "batch": 4, "workers": 0},
            device="cpu",
            out=tmp_path / on.partition(",")[0],
            on=on,
            reporter=SilentReporter(),
        )

    there, here = table(ON), table("local")
    assert [row.results for row in there.rows] == [row.results for row in here.rows]
    again = table(ON)  # which trains nothing
    assert [row.seconds for row in again.rows] == [row.seconds for row in there.rows]


def test_a_search_for_a_backbone_finds_the_same(cluster: None, tmp_path: Path) -> None:
    def found(on: str | None) -> str:
        out = tmp_path / str(on).partition(",")[0]
        onelook.search("flops=1G", size=160, evaluations=8192, name="mine", out=out, on=on, reporter=SilentReporter())
        return (out / "mine.yaml").read_text()

    assert found(ON) == found(None)


def test_compared_models_have_the_same_accuracy(cluster: None, scenes: Path, tmp_path: Path) -> None:
    names = list(Scenes().names[:2])
    models = {
        name: write_model(tmp_path / f"{name}.onnx", batch, json.dumps(describe(names=names, batch=batch)))
        for name, batch in (("a", None), ("b", 1))
    }

    def compared(on: str) -> onelook.Comparison:
        out = tmp_path / on.partition(",")[0]
        return onelook.compare(
            models, scenes, runs=2, memory=False, threads=1, resamples=100, out=out, on=on, reporter=SilentReporter()
        )

    there, here = compared(ON), compared("local")
    assert [one.stats for one in there.models] == [one.stats for one in here.models]
    assert [one.interval for one in there.models] == [one.interval for one in here.models]
