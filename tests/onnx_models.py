"""Exported files in miniature: two boxes whose scores are the image's brightness, described as by `onelook export`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onelook.exported import METADATA_KEY

BOXES = np.array([[[4, 4, 20, 20], [30, 10, 60, 40]]], np.float32)
SHARES = np.array([[[0.9, 0.1], [0.0, 0.8]]], np.float32)  # score = share * mean of the image / 255


def describe(**changes: object) -> dict[str, object]:
    """The metadata of the small model, with changes."""
    facts: dict[str, object] = {
        "model": "yolox-nano",
        "names": ["cat", "dog"],
        "num_classes": 2,
        "size": [64, 64],
        "frame": {"type": "Letterbox", "fill": 114},
        "outputs": "raw",
        "multi_label": False,
        "nms": None,
        "batch": None,
        "precision": "float32",
        "architecture": {},
        "version": "0.1.0",
        "format": 1,
    }
    return {**facts, **changes}


def write_model(path: Path, batch: int | None = None, metadata: object = None) -> Path:
    """Writes the model; metadata: its description, "" for none at all."""
    sides = [batch or "batch", 3, 64, 64]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "shares"], ["scores"]),
        helper.make_node("Mul", ["brightness", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "places"], ["boxes"]),
    ]
    constants = {
        "last": np.array([3], np.int64),
        "shares": SHARES / 255,
        "nothing": np.zeros(1, np.float32),
        "places": BOXES,
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sides)],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [sides[0], 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [sides[0], 2, 2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if metadata != "":
        text = metadata if isinstance(metadata, str) else json.dumps(metadata or describe(batch=batch))
        helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, str(path))
    return path
