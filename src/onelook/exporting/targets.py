"""The formats that models are exported to, one file each. A new one is its file and a line here."""

from __future__ import annotations

from onelook.exporting.ncnn import NCNN
from onelook.exporting.onnx import ONNX
from onelook.exporting.openvino import OPENVINO
from onelook.exporting.target import TargetFormat
from onelook.exporting.tensorrt import TENSORRT
from onelook.exporting.torch_program import TORCH

TARGETS: dict[str, TargetFormat] = {one.name: one for one in (ONNX, OPENVINO, NCNN, TORCH, TENSORRT)}

NOT_WRITTEN = {
    "coreml": "Core ML runs on Apple's systems only, where this project has run nothing",
    "litert": "LiteRT's converter has not been tried on these networks",
    "tflite": "LiteRT's converter has not been tried on these networks",
    "executorch": "ExecuTorch has not been tried on these networks",
}
"""Formats that users ask for, and why they are refused."""
