"""`onelook bench model`: the figures and what is said with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onelook.api.bench import ModelBenchmark, NoPostprocess, Setting, measure, peak_memory, scene_images
from onelook.augment.letterbox import Letterbox
from onelook.cli.app import run
from onelook.ops.nms import Nms, Postprocess, RawDetections


class Counting:
    """A backend that finds one box an image and counts its runs."""

    size = (64, 96)
    frame = Letterbox()
    class_names = ("thing",)
    postprocess = Nms()

    def __init__(self) -> None:
        self.runs = 0
        self.selects: set[str] = set()

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        self.runs += 1
        self.selects.add(type(postprocess).__name__)
        assert batch.shape == (3, 64, 96, 3) and batch.dtype == np.uint8
        boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (len(batch), 1, 1))
        return postprocess.batch(boxes, np.full((len(batch), 1, 1), 0.5, np.float32))


def setting(**changes: object) -> Setting:
    known = {"model": "m", "runtime": "r", "device": "d", "threads": 1, "precision": "float32", "size": (64, 96)}
    known |= {"batch": 3, "nms": "in", "form": "deploy form", "warm_up": 2, "runs": 4}
    return Setting(**(known | changes))  # type: ignore[arg-type]


def test_warm_up_runs_do_not_count() -> None:
    backend = Counting()
    found = measure(backend, setting(), 0)
    assert (backend.runs, len(found.seconds), found.detections) == (6, 4, 1.0)
    assert found.memory["process"] > 10 * 2**20


def test_without_nms_boxes_are_left_where_they_are() -> None:
    backend = Counting()
    assert measure(backend, setting(nms="out"), 0).detections is None
    assert backend.selects == {NoPostprocess.__name__}
    assert len(NoPostprocess().batch(np.zeros((3, 5, 4)), np.zeros((3, 5, 2)))) == 3
    backend = Counting()
    measure(backend, setting(), 0)
    assert backend.selects == {Nms.__name__}


def test_figures_follow_from_the_times() -> None:
    found = ModelBenchmark(setting(), (0.1, 0.2, 0.3, 0.2), 0.0, {})
    assert found.images_per_second == pytest.approx(3 * 4 / 0.8)
    latency = found.latency()
    assert latency["mean"] == pytest.approx(200) and latency["p50"] == pytest.approx(200)
    assert (latency["fastest"], latency["slowest"]) == pytest.approx((100, 300))


def test_the_images_are_real_enough_to_have_something_in_them() -> None:
    batch = scene_images(Counting(), 2)
    assert batch.shape == (2, 64, 96, 3)
    assert batch.std() > 20


def test_a_model_is_measured_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "nano.json"
    arguments = "bench model yolox-nano --size 64 --batch 2 --device cpu --runs 3 --warm-up 1 --nms out --json"
    assert run([*arguments.split(), str(target)]) == 0
    shown = capsys.readouterr().out
    for said in ("yolox-nano", "64x64", "batch 2", "float32", "deploy form", "PyTorch", "NMS not in the time"):
        assert said in shown
    written = json.loads(target.read_text())
    assert written["setting"]["batch"] == 2 and written["setting"]["runs"] == 3
    assert written["images_per_second"] > 0 and {"p50", "p90", "p99"} <= set(written["milliseconds"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("yolox-nan", 1, "Did you mean 'yolox-nano'?"),
        ("nothere", 1, "There is no model 'nothere', nor a file or a run's folder of that name.\nCheck the path"),
        ("yolox-nano --batch 0", 2, "'batch' is 1 or more, not 0."),
        ("yolox-nano --warm-up -1", 2, "'warm-up' is 0 or more, not -1."),
        ("yolox-nano --half --device cpu", 1, "Leave --half out (in Python: half), or use a GPU."),
        ("yolox-nano --size 100", 2, "does not fit"),
        ("x.onnx --half", 2, "'half' cannot be chosen for an exported file"),
        ("none.onnx", 1, "does not exist"),
        ("none.safetensors", 1, "none.safetensors"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "model", *arguments.split()]) == code
    assert message in capsys.readouterr().err


def test_the_memory_of_a_process_is_its_own() -> None:
    """The system counts that of the process that started it as well, where that was larger."""
    large = np.ones(60 * 2**20, np.uint8)
    program = "from onelook.api.bench import peak_memory; print(peak_memory())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) < peak_memory() and large.any()
