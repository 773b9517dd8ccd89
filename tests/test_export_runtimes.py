"""What "verified" means for an exported file, and which other and older runtimes read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onelook.errors import ExportError
from onelook.exporting import onnx as onnx_export
from onelook.exporting.onnx import ExportedFile, export_onnx
from onelook.exporting.runtime import onnx_runner
from onelook.exporting.verify import TOLERANCES, compare_rows, verification_images
from onelook.networks.build import build
from onelook.networks.variants import VARIANTS


@pytest.fixture(scope="module", params=["yolox-nano", "yolov4-tiny", "yolov7-tiny", "damo-yolo-ns"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedFile:
    detector = build(VARIANTS[request.param].architecture)
    return export_onnx(detector, tmp_path_factory.mktemp("onnx") / "model.onnx", size=(64, 64))


@pytest.mark.parametrize(
    ("box", "by", "agrees"),
    [
        ((10, 10, 20, 20), 0.05, True),
        ((10, 10, 20, 20), 0.2, False),  # a small box
        ((0, 0, 60, 60), 0.1, True),  # a large one
        ((-1e5, 10, 20, 20), 0.2, False),  # a huge one of which the image shows little: its size allows nothing
        ((-1e5, 10, 1e5, 20), 0.0, True),
    ],
)
def test_what_is_allowed_follows_what_the_image_shows_of_a_box(box: tuple, by: float, agrees: bool) -> None:
    expected, scores = np.array([[box]], np.float64), np.full((1, 1, 2), 0.5)
    found = expected + np.array([-110 if box[0] < 0 else 0, 0, by, 0])  # 110 px beyond the image
    try:
        agreement = compare_rows((found, scores), (expected, scores), TOLERANCES["float32"], (64, 64))
    except ExportError:
        assert not agrees
        return
    assert agrees and agreement.box == pytest.approx(by)
    assert (agreement.rows, agreement.confident_rows, agreement.detects) == (1, 1, True)


@pytest.mark.parametrize(("box", "score"), [(np.nan, 0.5), (np.inf, 0.5), (5.0, 0.0), (5.0, np.nan)])
def test_a_model_without_numbers_cannot_be_verified(box: float, score: float) -> None:
    rows = np.full((1, 3, 4), box), np.full((1, 3, 2), score)
    with pytest.raises(ExportError, match="nothing of a file can be verified"):
        compare_rows(rows, rows, TOLERANCES["float32"], (64, 64))


def test_untrained_weights_are_named_beside_what_was_compared() -> None:
    rows = np.full((1, 3, 4), 5.0), np.full((1, 3, 2), 0.01)
    agreement = compare_rows(rows, rows, TOLERANCES["float32"], (64, 64))
    assert "3 rows of 1 images" in str(agreement) and "detects nothing" in str(agreement)


@pytest.mark.parametrize(("least", "ir"), [("1.14", 8), ("1.15", 9), ("1.17.3", 9), ("1.18", 10), ("1.32", 10)])
def test_the_ir_version_is_one_that_the_runtime_reads(least: str, ir: int) -> None:
    assert onnx_export.ir_version(least) == ir


@pytest.mark.parametrize(("least", "words"), [("1.13", "1.14 or newer"), ("new", "is not a version"), ("1", "is not")])
def test_a_runtime_that_is_too_old_is_refused(least: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        onnx_export.ir_version(least)


def test_a_file_is_for_old_runtimes_unless_asked_otherwise(exported: ExportedFile) -> None:
    model = onnx.load(exported.path)
    assert (model.ir_version, model.opset_import[0].version, exported.least_runtime) == (8, 18, "1.14")


RUN_ORT = (
    "import numpy, onnxruntime, sys; x = numpy.load(sys.argv[2]); "
    "s = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']); "
    "numpy.savez(sys.argv[3], *s.run(['boxes', 'scores'], {'images': x}))"
)
RUN_OPENCV = (
    "import cv2, numpy, sys; n = cv2.dnn.readNetFromONNX(sys.argv[1]); n.setInput(numpy.load(sys.argv[2])); "
    "numpy.savez(sys.argv[3], *n.forward(['boxes', 'scores']))"
)


@pytest.mark.parametrize(
    ("python", "code"),
    [
        (sys.executable, RUN_OPENCV),
        (os.environ.get("ORT_OLD") or None, RUN_ORT),
        (os.environ.get("CV_OLD") or None, RUN_OPENCV),
    ],
    ids=["OpenCV installed here", "old ONNX Runtime", "old OpenCV"],
)
def test_other_runtimes_give_the_same_numbers(
    python: str | None, code: str, exported: ExportedFile, tmp_path: Path
) -> None:
    if not python:
        pytest.skip("ORT_OLD and CV_OLD name a python with ONNX Runtime 1.15, and one with OpenCV 4.8")
    images = verification_images(exported.metadata.size)[: exported.metadata.batch or 1]
    np.save(tmp_path / "images.npy", images)
    arguments = [str(exported.path), str(tmp_path / "images.npy"), str(tmp_path / "found.npz")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-c", code, *arguments], check=True, env=environment)
    found = tuple(np.load(tmp_path / "found.npz").values())
    expected = tuple(onnx_runner(exported.path)(["boxes", "scores"], {"images": images}))
    compare_rows(found, expected, TOLERANCES["float32"], exported.metadata.size)
