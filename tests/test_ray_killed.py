"""The driver of trials on Ray is killed: what had finished is on its disk, and the same command does the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import onelook
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.reporter import SilentReporter
from onnx_models import describe, write_model

pytest.importorskip("ray", reason="needs the extra scale")
from test_ray import PATHS, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings
ON = "ray,workers=1,cpus=0.5"
SMALL = ["--epochs", "1", "--size", "64", "--batch", "4", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 12})


def start(*arguments: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": PATHS}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "onelook", *map(str, arguments), "--on", ON]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_when(driver: subprocess.Popen[bytes], finished) -> None:
    """Kills the driver once something is finished, while it still has work."""

    def ready() -> bool:
        assert driver.poll() is None, driver.communicate()[0].decode()
        return bool(finished())

    wait_until(ready, 900.0)  # Ray alone takes minutes to start on a busy machine
    driver.kill()
    driver.communicate()


def goes_on(*arguments: object) -> str:
    driver = start(*arguments)
    said = driver.communicate(timeout=900)[0].decode()
    assert driver.returncode == 0, said
    return said


def kept(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def test_a_search_for_settings_goes_on(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    given = ["--model", "yolox-nano", *SMALL, "--trials", "3", "optimizer.momentum=0.8..0.95", "multiscale=none"]

    def done() -> list[dict[str, Any]]:
        return [one for one in kept(out / "study.json").get("trials", []) if one["status"] == "done"]

    kill_when(start("tune", scenes, *given, "--out", out), done)
    before = done()
    assert len(before) < 3
    weights = (out / "trial-000/best.safetensors").stat().st_mtime_ns
    goes_on("tune", scenes, "--out", out, "--resume")
    after = done()
    assert len(after) == 3 and after[: len(before)] == before
    assert (out / "trial-000/best.safetensors").stat().st_mtime_ns == weights


def test_a_roadmap_goes_on(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "table"
    given = ["roadmap", "yolox-table2", scenes, "--rows", "1,2,3", "--scale", "depth=0.33,width=0.125", *SMALL]
    given += ["--out", out]

    def results() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("*/seed-0/result.json")}

    kill_when(start(*given), results)
    before = results()
    assert len(before) < 3
    goes_on(*given)
    after = results()
    assert len(after) == 3 and {path: after[path] for path in before} == before


def test_a_search_for_a_backbone_goes_on_to_the_same_result(tmp_path: Path) -> None:
    out = tmp_path / "search"
    given = ["--budget", "flops=1G", "--size", "160", "--evaluations", "65536", "--name", "mine"]
    kill_when(start("search", *given, "--out", out), lambda: kept(out / "search.json").get("turn"))
    assert 0 < kept(out / "search.json")["evaluations"] < 65536
    goes_on("search", "--out", out, "--resume")
    settings = {"size": 160, "evaluations": 65536, "name": "mine", "reporter": SilentReporter()}
    onelook.search("flops=1G", out=tmp_path / "here", **settings)
    assert (out / "mine.yaml").read_text() == (tmp_path / "here/mine.yaml").read_text()


def test_a_comparison_goes_on(scenes: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "compared", list(Scenes().names[:2])
    models = [
        write_model(tmp_path / f"{name}.onnx", metadata=json.dumps(describe(names=names, version=name)))
        for name in "abcdef"
    ]
    given = ["compare", scenes, *models, "--runs", "2", "--without-memory", "--threads", "1", "--out", out]

    def evaluated() -> dict[Path, int]:
        if not any(key.startswith("evaluation") for key in kept(out / "measured.json")):
            return {}
        return {path: path.stat().st_mtime_ns for path in (out / "detections").iterdir()}

    kill_when(start(*given), evaluated)
    before = evaluated()
    said = goes_on(*given)
    assert said.count("evaluated before") >= 1
    after = evaluated()
    kept_files = [path for path in before if after[path] == before[path]]
    assert len(after) == 6 and len(kept_files) >= said.count("evaluated before") >= 1
