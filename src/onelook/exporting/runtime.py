"""Exported files opened in the runtime they are made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onelook.exporting.verify import Runner, mismatch_error


def onnx_runner(model: bytes | Path) -> Runner:
    """An ONNX model on the CPU in ONNX Runtime, which logs errors only. ExportError where it cannot load or run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise mismatch_error(f"ONNX Runtime cannot load it ({error})") from error

    def run(outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return session.run(list(outputs), dict(feed))
        except Exception as error:  # as above
            raise mismatch_error(f"ONNX Runtime cannot run it ({error})") from error

    return run
