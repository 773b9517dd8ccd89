"""Runs by IO binding, as on a GPU, give what plain runs give. Here they bind to the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelook.errors import ConfigError
from onelook.exporting.onnx import export_onnx
from onelook.exporting.verify import verification_images
from onelook.ops.nms import Nms
from onelook.predict.runtimes.onnx import BoundSession, OnnxRuntime, device_parts, open_session
from spread_detector import spread_detector

SIZE = (64, 96)
ROWS, DETECTIONS = ("boxes", "scores"), ("count", "boxes", "scores", "labels")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, detector = tmp_path_factory.mktemp("bound"), spread_detector(SIZE)
    export_onnx(detector, folder / "raw.onnx", dynamic=True)
    export_onnx(detector, folder / "nms.onnx", dynamic=True, nms=Nms(0.3, 0.5, limit=20))
    return {name: folder / f"{name}.onnx" for name in ("raw", "nms")}


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_bound_runs_of_changing_batches_give_the_rows_of_plain_runs(files: dict[str, Path]) -> None:
    session = open_session(str(files["raw"]), threads=1)
    bound, images = BoundSession(session, "cpu"), verification_images(SIZE)
    first = bound.run(ROWS, {"images": images[:1]})
    kept = [values.copy() for values in first]
    not_contiguous = np.asfortranarray(images)
    for part in (images[1:2], images[:3], images[3:], not_contiguous):
        assert_same(bound.run(ROWS, {"images": part}), session.run(list(ROWS), {"images": part}))
    assert_same(first, kept)  # no later run writes into the arrays of an earlier one


def test_bound_runs_leave_the_arrays_of_the_caller(files: dict[str, Path]) -> None:
    bound = BoundSession(open_session(str(files["raw"]), threads=1), "cpu")
    first, second = verification_images(SIZE)[:2, None]
    before = first.copy()
    bound.run(ROWS, {"images": first})
    bound.run(ROWS, {"images": second})
    np.testing.assert_array_equal(first, before)


def test_bound_detections_use_the_thresholds_of_their_own_run(files: dict[str, Path]) -> None:
    session = open_session(str(files["nms"]), threads=1)
    bound, images = BoundSession(session, "cpu"), verification_images(SIZE)
    counts = set()
    for confidence in (0.6, None, 0.45):  # None: the file's own, also after a run with another
        feed = {"images": images}
        if confidence is not None:
            feed["confidence"] = np.array(confidence, np.float32)
        found = bound.run(DETECTIONS, feed)
        assert_same(found, session.run(list(DETECTIONS), feed))
        counts.add(int(found[0].sum()))
    assert len(counts) > 1


def test_a_run_on_a_gpu_is_bound_and_one_on_a_cpu_is_not(files: dict[str, Path], monkeypatch: Any) -> None:
    plain = OnnxRuntime(files["raw"], "cpu", threads=1)
    assert plain._bound is None
    # The provider of a GPU is not here: its session is one on the CPU, and so is the device that is bound.
    real = open_session
    monkeypatch.setattr("onelook.predict.runtimes.onnx.open_session", lambda path, *_: real(path, "cpu", 1))
    monkeypatch.setattr("onelook.predict.runtimes.onnx.device_parts", lambda device: ("cpu", 0))
    bound = OnnxRuntime(files["raw"], "cuda", threads=1)
    assert bound._bound is not None and bound.device_name == "cuda"
    feed = {"images": verification_images(SIZE)}
    assert_same(bound.run(ROWS, feed), plain.run(ROWS, feed))


@pytest.mark.parametrize(
    ("device", "parts"),
    [(None, ("cpu", 0)), ("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:2", ("cuda", 2)), ("1", ("cuda", 1))],
)
def test_devices_have_a_kind_and_a_number(device: str | None, parts: tuple[str, int]) -> None:
    assert device_parts(device) == parts


@pytest.mark.parametrize("device", ["toaster", "cuda:x", "cpu:1"])
def test_a_device_of_another_kind_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        device_parts(device)
