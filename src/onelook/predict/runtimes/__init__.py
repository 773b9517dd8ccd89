"""The formats of exported files, one file each. A new one is its file and a line here; nothing else names runtimes."""

from __future__ import annotations

import os

from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.predict.runtimes.litert import LitertRuntime
from onelook.predict.runtimes.ncnn import NcnnRuntime
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.runtimes.openvino import OpenvinoRuntime
from onelook.predict.runtimes.tensorrt import TensorrtRuntime
from onelook.predict.runtimes.torch_program import TorchProgramRuntime

EXPORTED_RUNTIMES: tuple[type[ExportedRuntime], ...] = (
    OnnxRuntime,
    OpenvinoRuntime,
    NcnnRuntime,
    LitertRuntime,
    TorchProgramRuntime,
    TensorrtRuntime,
)


def exported_runtime(path: str | os.PathLike[str]) -> type[ExportedRuntime] | None:
    """The runtime of an exported file, by the ending of its name; None where no runtime has it."""
    name = os.fspath(path).lower()
    return next((one for one in EXPORTED_RUNTIMES if name.endswith(one.suffix)), None)
