"""LiteRT: runs a file of `onelook export --to litert` on the processor. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onelook.errors import ExportError, missing_package
from onelook.exported import ExportedMetadata
from onelook.predict.runtimes.exported import (
    ExportedRuntime,
    check_content,
    check_cpu,
    first_line,
    metadata_beside,
    shape_problem,
)
from onelook.threads import chosen_threads


class LitertRuntime(ExportedRuntime):
    """A LiteRT model (.tflite, with its .tflite.json beside it) in the interpreter, with the kernels of XNNPACK.

    threads: None is the number of free cores. It computes in float32, whatever the weights are stored in.
    """

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        metadata = metadata_beside(self.path)
        check_cpu(device, "LiteRT")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise missing_package("ai_edge_litert", f"Running '{self.path}'") from error
        from importlib.metadata import version

        check_content(self.path, self.files())
        try:
            self._interpreter = Interpreter(self.path, num_threads=threads or chosen_threads())
            self._interpreter.allocate_tensors()
            self._signature = self._interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"'{self.path}' is not a LiteRT model that can be run: {first_line(error)}", "Export it again."
            ) from error
        self.library, self.device_name = f"LiteRT {version('ai-edge-litert')}", "cpu"
        return metadata

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found = self._signature(images=np.ascontiguousarray(feed["images"], np.float32))
            return [found[name] for name in outputs]
        except (RuntimeError, ValueError, KeyError) as error:
            raise self._not_run(error) from error

    def _contradiction(self) -> str:
        inputs, outputs = self._signature.get_input_details(), self._signature.get_output_details()
        if set(inputs) != {"images"}:
            return "the model has no input 'images' alone"
        missing = {"boxes", "scores"} - set(outputs)
        if missing:
            return f"the model has no output '{min(missing)}'"
        if self.metadata.outputs != "raw":
            return "a LiteRT model has no NMS inside"
        if inputs["images"]["dtype"] is not np.float32:
            return f"its input is {inputs['images']['dtype'].__name__}, not float32"
        return shape_problem([int(side) for side in inputs["images"]["shape"]], self.metadata)
