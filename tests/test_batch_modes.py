"""Exported files are run for the time of one image, or, where batches are expected, for images a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelook.api.open import LoadOptions, open_predictor
from onelook.cli.app import run
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.types import Detections

pytest.importorskip("onnx")
from onnx_models import describe, write_model


def images(count: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), 90 + 13 * number, np.uint8) for number in range(count)]


def same(found: list[Detections], expected: list[Detections]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.labels.tolist() == other.labels.tolist() and len(one)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 1])
def test_batches_are_divided_between_runs_of_onnx_runtime(batch: int | None, tmp_path: Path) -> None:
    file = write_model(tmp_path / "small.onnx", batch, json.dumps(describe(batch=batch)))
    opened = open_predictor(file, LoadOptions(threads=4))
    runtime: Any = opened.runtime
    expected = [opened([image])[0] for image in images(5)]
    assert runtime.concurrent == 1 and threads_of(runtime) == 4
    predictor = Predictor(runtime, batch=2)
    assert runtime.concurrent == 2 and threads_of(runtime) == 2
    same(predictor(images(5)), expected)
    predictor.batch = 8
    assert runtime.concurrent == 4 and threads_of(runtime) == 1
    same(predictor(images(5)), expected)
    assert Predictor(runtime, batch=1).batch == 1
    assert runtime.concurrent == 1 and threads_of(runtime) == 4


def threads_of(runtime: Any) -> int:
    return int(runtime._session.get_session_options().intra_op_num_threads)


def test_a_file_of_a_fixed_batch_is_one_run(tmp_path: Path) -> None:
    file = write_model(tmp_path / "small.onnx", 4, json.dumps(describe(batch=4)))
    runtime: Any = open_predictor(file, LoadOptions(threads=4)).runtime
    assert Predictor(runtime, batch=4).batch == 4
    assert runtime.concurrent == 1 and threads_of(runtime) == 4
    Predictor(runtime, batch=8)
    assert runtime.concurrent == 2


def test_one_thread_has_nothing_to_divide(tmp_path: Path) -> None:
    runtime: Any = open_predictor(write_model(tmp_path / "small.onnx"), LoadOptions(threads=1)).runtime
    session = runtime._session
    Predictor(runtime, batch=8)
    assert runtime.concurrent == 1 and runtime._session is session


def test_the_command_line_tells_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    told: list[int] = []
    before = ExportedRuntime.expect_batches
    monkeypatch.setattr(
        ExportedRuntime, "expect_batches", lambda self, batch: (told.append(batch), before(self, batch))[1]
    )
    file = write_model(tmp_path / "small.onnx")
    for number, image in enumerate(images(3)):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), image)
    found = []
    for batch in ("1", "3"):
        out = tmp_path / batch
        arguments = ["--model", str(file), "--batch", batch, "--threads", "2", "--format", "json", "--out", str(out)]
        assert run(["detect", str(tmp_path / "images"), *arguments]) == 0
        found.append(json.loads((out / "detections.json").read_text()))
    assert told == [1, 1, 1, 3]
    assert [len(one["detections"]) for one in found[0]] == [len(one["detections"]) for one in found[1]]


def test_openvino_runs_batches_in_its_streams(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    pytest.importorskip("torch", reason="needs the extra train")
    from onelook.exporting.openvino import export_openvino
    from onelook.exporting.target import ExportOptions
    from onelook.networks.build import build
    from onelook.networks.variants import VARIANTS

    architecture = replace(VARIANTS["yolox-nano"].architecture, num_classes=2, size=(64, 64))  # type: ignore[type-var]
    detector = build(architecture)
    export_openvino(detector.eval(), tmp_path / "nano.xml", ExportOptions())
    runtime: Any = open_predictor(tmp_path / "nano.xml", LoadOptions(threads=2)).runtime

    def outputs() -> list[np.ndarray]:
        feeds = [{"images": part} for part, _ in runtime._parts(np.stack(images(5)))]
        return [array for arrays in runtime.run_all(["boxes", "scores"], feeds) for array in arrays]

    def hint() -> str:
        return str(runtime._compiled.get_property("PERFORMANCE_HINT")).rpartition(".")[2]

    assert hint() == "LATENCY" and runtime.concurrent == 1
    expected = outputs()
    predictor = Predictor(runtime, batch=8)
    assert hint() == "THROUGHPUT" and runtime.concurrent == len(runtime._queue)
    for one, other in zip(outputs(), expected):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert len(predictor(images(5))) == 5
    predictor.batch = 1
    assert hint() == "LATENCY" and runtime.concurrent == 1
