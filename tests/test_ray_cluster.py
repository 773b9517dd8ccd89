"""Detection on a Ray cluster of two nodes, one of which is killed, and on one that is reached through Ray's client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onelook
from onelook.reporter import SilentReporter
from onnx_models import write_model

pytest.importorskip("ray", reason="needs the extra scale")
from test_ray import PATHS, wait_until, workers_of

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

SIZE, IMAGES, SHARD = (3000, 4000), 200, 2  # so much that a node can join or be lost on the way


@contextmanager
def ray_cluster(**head: Any) -> Iterator[Any]:
    """A cluster of this machine whose first node has one core. head: further settings of that node."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large images, so that a shard takes a while."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    small = rng.integers(0, 255, (30, 40, 3), np.uint8)
    for number in range(IMAGES):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), cv2.resize(np.roll(small, number), SIZE[::-1]))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="module")
def expected(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The rows that one process without Ray finds."""
    out = tmp_path_factory.mktemp("alone")
    onelook.detect_shards(model, photos, out, on="local", shard_size=SHARD, threads=1, reporter=SilentReporter())
    return parquet.read_table(out / "detections")


def start(photos: Path, model: Path, out: Path, on: str, address: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onelook", "detect", str(photos), "--model", str(model), "--out", str(out)]
    command += ["--on", on, "--shard-size", str(SHARD)]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    environment.pop("RAY_ADDRESS", None)
    environment |= {} if address is None else {"RAY_ADDRESS": address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_node_that_is_killed_loses_nothing(photos: Path, model: Path, expected: Any, tmp_path: Path) -> None:
    """With more workers than the first node has room for, so that the second has some; then it is gone."""
    with ray_cluster() as cluster:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        driver = start(photos, model, tmp_path, "ray,workers=2,cpus=1", cluster.address)
        wait_until(lambda: len(list((tmp_path / "detections").glob("shard-*"))) >= 4)
        cluster.remove_node(second, allow_graceful=False)
        finished = len(list((tmp_path / "detections").glob("shard-*")))
        said = driver.communicate(timeout=600)[0].decode()
        assert driver.returncode == 0, said
        assert finished < IMAGES // SHARD, "it was killed too late to show anything"
        assert parquet.read_table(tmp_path / "detections").equals(expected)
        assert json.loads((tmp_path / "summary.json").read_text())["complete"]


def test_a_cluster_is_reached_through_its_client_server(
    photos: Path, model: Path, expected: Any, tmp_path: Path
) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with ray_cluster(ray_client_server_port=port):
        driver = start(photos, model, tmp_path, f"ray://127.0.0.1:{port},cpus=0.5", None)
        said = driver.communicate(timeout=600)[0].decode()
        assert driver.returncode == 0, said
        assert parquet.read_table(tmp_path / "detections").equals(expected)


def test_nodes_that_join_get_work(photos: Path, model: Path, expected: Any, tmp_path: Path) -> None:
    """As those of an autoscaler: without a number of workers, there are as many as the cluster has room for."""
    with ray_cluster() as cluster:
        driver = start(photos, model, tmp_path, "ray,cpus=1", cluster.address)
        wait_until(lambda: len(list((tmp_path / "detections").glob("shard-*"))) >= 1)
        assert len(workers_of(os.getpid())) == 1
        cluster.add_node(num_cpus=1)
        wait_until(lambda: len(workers_of(os.getpid())) == 2 or driver.poll() is not None)
        assert driver.poll() is None, "the work was over too early to show anything"
        said = driver.communicate(timeout=600)[0].decode()
        assert driver.returncode == 0, said
        assert parquet.read_table(tmp_path / "detections").equals(expected)
