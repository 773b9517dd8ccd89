"""The formats that models are exported to, one file each. A new one is its file and a line here."""

from __future__ import annotations

from onelook.exporting.int8 import Int8Format
from onelook.exporting.litert import LITERT
from onelook.exporting.ncnn import NCNN
from onelook.exporting.onnx import ONNX
from onelook.exporting.onnx_int8 import ONNX_INT8
from onelook.exporting.openvino import OPENVINO
from onelook.exporting.openvino_int8 import OPENVINO_INT8
from onelook.exporting.target import TargetFormat
from onelook.exporting.tensorrt import TENSORRT
from onelook.exporting.tensorrt_int8 import TENSORRT_INT8
from onelook.exporting.torch_program import TORCH

TARGETS: dict[str, TargetFormat] = {one.name: one for one in (ONNX, OPENVINO, NCNN, LITERT, TORCH, TENSORRT)}

INT8: dict[str, Int8Format] = {"onnx": ONNX_INT8, "openvino": OPENVINO_INT8, "tensorrt": TENSORRT_INT8}

NOT_IN_8_BITS = {
    "ncnn": (
        "ncnn quantises with tools of its own, which its Python packages do not have.",
        """Build its tools from source, export in float32, and run, with letterboxed images listed in images.txt:
  ncnnoptimize m.ncnn.param m.ncnn.bin float.param float.bin 0
  ncnn2table float.param float.bin images.txt m.table mean=[0,0,0] norm=[1,1,1] shape=[416,416,3] pixel=RGB method=kl
  ncnn2int8 float.param float.bin int8.param int8.bin m.table
This project has not run these tools, and knows no AP of what they write. Or choose --to onnx or openvino.""",
    ),
    "litert": ("LiteRT models are not written in 8 bits.", "Export to ONNX or OpenVINO instead."),
    "torch": ("PyTorch programs are not written in 8 bits.", "Export to ONNX or OpenVINO instead."),
    "darknet": ("A Darknet file holds float32 weights only: --int8 cannot be chosen.", "Leave it away."),
}
"""Targets without 8-bit files: why, and what to do."""

NOT_WRITTEN = {
    "coreml": "Core ML runs on Apple's systems only, so that no file could be verified here",
    "executorch": "the Python runtime of ExecuTorch needs PyTorch, and no file of it has been run by this project",
}
"""Formats that users ask for, and why they are refused."""
