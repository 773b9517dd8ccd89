"""Opens an exported file in its runtime, to verify it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onelook.errors import ExportError
from onelook.exporting.verify import Runner, mismatch_error
from onelook.predict.runtimes.exported import ExportedRuntime


def runner_of(runtime: ExportedRuntime) -> Runner:
    """Runs a file as users will: by the runtime of its format. ExportError where it cannot be run."""

    def run(outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return runtime.run(outputs, feed)
        except ExportError as error:
            raise mismatch_error(error.message) from error

    return run


def onnx_runner(model: bytes | Path) -> Runner:
    """Opens an ONNX model in ONNX Runtime on the CPU. ExportError where it cannot be loaded or run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        raise mismatch_error(f"ONNX Runtime cannot load it ({error})") from error

    def run(outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return session.run(list(outputs), dict(feed))
        except Exception as error:  # as above
            raise mismatch_error(f"ONNX Runtime cannot run it ({error})") from error

    return run
