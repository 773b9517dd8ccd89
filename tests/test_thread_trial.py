"""On busy cores, the first runs of a network choose its threads; a program's own choice and its models stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import cv2
import pytest
import torch

from onelook import build, detect, save_weights, threads
from onelook.api.open import LoadOptions, open_predictor
from onelook.api.runtime_choice import with_thread_trial
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.thread_trial import ThreadChoosingRuntime
from onelook.reporter import SilentReporter

pytest.importorskip("onnx")
from onnx_models import describe, write_model
from test_batch_modes import images, same, threads_of


def test_an_open_file_takes_another_number_of_threads(tmp_path: Path) -> None:
    file = write_model(tmp_path / "small.onnx", None, json.dumps(describe(batch=None)))
    opened = open_predictor(file, LoadOptions(threads=1))
    runtime: Any = opened.runtime
    expected = [opened([image])[0] for image in images(4)]
    assert runtime.set_threads(2)
    assert runtime.threads == threads_of(runtime) == 2
    same(opened(images(1)), expected[:1])
    predictor = Predictor(runtime, batch=8)
    assert (runtime.concurrent, threads_of(runtime)) == (2, 1)
    assert runtime.set_threads(4)
    assert (runtime.concurrent, threads_of(runtime)) == (4, 1)
    same(predictor(images(4)), expected)
    predictor.batch = 1
    assert runtime.set_threads(2)
    assert (runtime.concurrent, threads_of(runtime)) == (1, 2)


@pytest.mark.parametrize("removed", [True, False])
def test_a_file_that_changed_is_not_opened_again(tmp_path: Path, removed: bool) -> None:
    file = write_model(tmp_path / "small.onnx")
    opened = open_predictor(file, LoadOptions(threads=1))
    runtime: Any = opened.runtime
    expected = opened(images(1))
    file.unlink()
    if not removed:
        file.write_bytes(b"another")
    assert not runtime.set_threads(2)
    assert runtime.threads == 1
    same(opened(images(1)), expected)


@pytest.fixture
def busy(four_cores: dict[str, float]) -> dict[str, float]:
    """Of four cores, one is free."""
    four_cores["free"] = 1.0
    return four_cores


class Lines(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize(("free", "chosen", "tries"), [(1.0, None, True), (4.0, None, False), (1.0, 2, False)])
def test_only_busy_cores_without_a_choice_of_the_user_are_tried(
    tmp_path: Path, busy: dict[str, float], free: float, chosen: int | None, tries: bool
) -> None:
    busy["free"] = free
    file = write_model(tmp_path / "small.onnx")
    runtime = OnnxRuntime(file, threads=chosen)
    with with_thread_trial(runtime, file, chosen, SilentReporter()) as found:
        assert isinstance(found, ThreadChoosingRuntime) == tries
    with with_thread_trial(runtime, file, chosen, SilentReporter(), tries=False) as found:
        assert found is runtime


@pytest.mark.usefixtures("busy")
def test_detecting_on_busy_cores_says_what_was_chosen_and_leaves_loaded_models_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, pixels in enumerate(images(10) * 2):
        cv2.imwrite(str(photos / f"{number}.png"), pixels)
    file, shown = write_model(tmp_path / "small.onnx"), Lines()
    found = detect(file, photos, out=tmp_path / "new", formats="json", reporter=shown)
    assert found.images == 20
    assert [line.split(" with ")[0] for line in shown.lines if "thread" in line] == ["Computing", "Going on"]
    loaded, quiet = open_predictor(file, LoadOptions(threads=3)), Lines()
    runtime: Any = loaded.runtime
    session = runtime._session
    assert detect(loaded, photos, out=tmp_path / "loaded", formats="json", reporter=quiet).images == 20
    assert runtime._session is session and threads_of(runtime) == 3
    assert not quiet.lines


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("count", [4, 20])
def test_the_threads_of_pytorch_are_as_before_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    current, most = [4], [0]

    def set_threads(number: int) -> None:
        current[0] = number
        most[0] = max(most[0], number)

    monkeypatch.setattr(torch, "get_num_threads", lambda: current[0])
    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    path = save_weights(build("yolox-nano", classes=("a", "b")), tmp_path / "weights.safetensors")
    options = {"runtime": "torch", "size": 64, "formats": "json", "device": "cpu", "out": tmp_path / "out"}
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate((images(10) * 2)[:count]):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), pixels)
    detect(path, tmp_path / "photos", reporter=SilentReporter(), **cast(Any, options))
    assert current == [1]
    assert most[0] == (4 if count == 20 else 1)
