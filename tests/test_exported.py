"""Metadata of exported files: it survives writing and reading, and damaged metadata is an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import onelook
from onelook.errors import ExportError, UsageError, WeightsError
from onelook.exported import ExportedMetadata

METADATA = ExportedMetadata(
    model="yolox-nano",
    names=("cat", "dög"),
    num_classes=2,
    size=(416, 640),
    frame={"type": "Letterbox", "fill": 114},
    outputs="detections",
    multi_label=False,
    nms={"confidence": 0.25, "iou": 0.45, "agnostic": False, "multi_label": False, "limit": 300},
    batch=None,
    precision="float16",
    architecture={"type": "Yolox"},
    version="0.1.0",
)


def test_metadata_survives_json() -> None:
    assert ExportedMetadata.from_json(METADATA.to_json(), "x.onnx") == METADATA
    raw = replace(METADATA, nms=None, outputs="raw", names=(), batch=4)
    assert ExportedMetadata.from_json(raw.to_json(), "x.onnx") == raw


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", [0, 416]),
        ("size", "416"),
        ("names", ["cat"]),
        ("names", [1, 2]),
        ("frame", None),
        ("num_classes", True),
        ("nms", None),
        ("nms", {"confidence": 2}),
        ("outputs", "logits"),
        ("precision", "float8"),
        ("batch", -1),
        ("format", 99),
    ],
)
def test_damaged_metadata_is_one_clear_error(key: str, value: object) -> None:
    data = json.loads(METADATA.to_json()) | {key: value}
    with pytest.raises(ExportError, match=r"x\.onnx"):
        ExportedMetadata.from_json(json.dumps(data), "x.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": 1}'])
def test_text_that_is_not_metadata_is_an_error(text: str) -> None:
    with pytest.raises(ExportError, match=r"x\.onnx"):
        ExportedMetadata.from_json(text, "x.onnx")


def test_reading_metadata_needs_no_torch() -> None:
    code = "import sys, onelook.exported; sys.exit('torch' in sys.modules)"
    place = os.environ | {"PYTHONPATH": str(Path(onelook.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=place).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("beside", [".xml", ".param"])
def test_a_part_of_an_exported_model_is_refused_with_the_file_to_give(tmp_path: Path, beside: str) -> None:
    for ending in (".bin", beside):
        (tmp_path / f"m{ending}").write_bytes(b"\0" * 64)
    part, whole = tmp_path / "m.bin", re.escape(f"'{tmp_path / 'm'}{beside}'")
    for given in ({"model": part}, {"model": "yolox-nano", "weights": part}):
        with pytest.raises(UsageError, match=f"Give the file {whole}"):
            onelook.load(**given)
        with pytest.raises(UsageError, match=f"Give the file {whole}"):
            onelook.export(**given, out=tmp_path / "m.onnx")
    (tmp_path / f"m{beside}").unlink()
    with pytest.raises(WeightsError, match=re.escape(f"'{part}'")):
        onelook.load(part)


def test_an_exported_file_without_metadata_is_an_error(tmp_path: Path) -> None:
    """Without the check its boxes would be read as raw outputs and its colours as BGR: results that only look right."""
    onnx = pytest.importorskip("onnx")
    onelook.save_weights(onelook.build("yolox-nano"), tmp_path / "nano.safetensors")
    onelook.export(str(tmp_path / "nano.safetensors"), size=64, out=tmp_path / "nano.onnx")
    model = onnx.load(tmp_path / "nano.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(WeightsError, match="its description is gone"):
        onelook.load(tmp_path / "bare.onnx")
    with pytest.raises(WeightsError, match="its description is gone"):
        onelook.load("yolox-nano", weights=tmp_path / "bare.onnx")
