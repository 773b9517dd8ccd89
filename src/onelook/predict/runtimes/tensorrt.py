"""TensorRT: runs an engine that was built from an export of Onelook, on an NVIDIA GPU. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onelook.errors import ConfigError, ExportError, missing_package
from onelook.exported import ExportedMetadata
from onelook.predict.runtimes.exported import (
    ExportedRuntime,
    metadata_beside,
    shape_problem,
    wanted_outputs,
)


class TensorrtRuntime(ExportedRuntime):
    """A TensorRT engine (.engine, with its .engine.json beside it), by `onelook export --to tensorrt` or by trtexec.

    device: "cuda" or "cuda:1"; None is "cuda". An engine runs on the kind of GPU and the version of TensorRT that it
    was built with.
    """

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        metadata = metadata_beside(self.path)
        trt, self._cuda = _libraries(self.path)
        self.device_name = device or "cuda"
        self._check(self._cuda.cudaSetDevice(_index(self.device_name)))
        with open(self.path, "rb") as file:
            content = file.read()
        self._logger = trt.Logger(trt.Logger.ERROR)  # the engine refers to it
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ExportError(
                f"'{self.path}' is not an engine for this GPU and TensorRT {trt.__version__}.",
                "Build it on this machine: onelook export --to tensorrt.",
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        (self._stream,) = self._check(self._cuda.cudaStreamCreate())
        self._memory: dict[str, tuple[int, int]] = {}  # address and bytes by name; grows, and is kept between runs
        self.library = f"TensorRT {trt.__version__}"
        return metadata

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        images = np.ascontiguousarray(feed["images"], np.float32)
        if not self._context.set_input_shape("images", images.shape):
            raise self._not_run(RuntimeError(f"the engine does not take the shape {images.shape}."))
        kinds, found = self._cuda.cudaMemcpyKind, {}
        self._copy(
            self._address("images", images.nbytes), images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice
        )
        for name in self._outputs:
            found[name] = np.empty(tuple(self._context.get_tensor_shape(name)), self._types[name])
            self._address(name, found[name].nbytes)
        for name in ("images", *self._outputs):
            self._context.set_tensor_address(name, self._memory[name][0])
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._not_run(RuntimeError("TensorRT gives no reason."))
        for name, values in found.items():
            self._copy(values.ctypes.data, self._memory[name][0], values.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._check(self._cuda.cudaStreamSynchronize(self._stream))
        return [found[name] for name in outputs]

    def _address(self, name: str, size: int) -> int:
        """The address of GPU memory of at least this many bytes for a tensor."""
        address, held = self._memory.get(name, (0, 0))
        if held < size:
            if address:
                self._check(self._cuda.cudaFree(address))
            (address,) = self._check(self._cuda.cudaMalloc(size))
            self._memory[name] = (int(address), size)
        return self._memory[name][0]

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._check(self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream))

    def _check(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values of a CUDA call. ExportError where it failed."""
        code, *values = answer
        if int(code) != 0:
            raise ExportError(f"'{self.path}' cannot be run: CUDA says {code}.", "Check the GPU with nvidia-smi.")
        return tuple(values)

    def _contradiction(self) -> str:
        missing = wanted_outputs(self.metadata) - set(self._outputs)
        if missing:
            return f"the engine has no output '{min(missing)}'"
        if "images" not in self._types:
            return "the engine has no input 'images'"
        if self.metadata.outputs != "raw":
            return "an engine has no NMS inside"
        if self._types["images"] != np.float32:
            return f"its input is {self._types['images']}, not float32"
        shape = [None if side < 0 else side for side in self._engine.get_tensor_shape("images")]
        return shape_problem(shape, self.metadata)


def _libraries(path: str) -> tuple[Any, Any]:
    """TensorRT, and the functions of the CUDA runtime."""
    for package in ("tensorrt", "cuda"):
        try:
            __import__(package)
        except ImportError as error:
            raise missing_package(package, f"Running '{path}'") from error
    import tensorrt
    from cuda.bindings import runtime

    return tensorrt, runtime


def _index(device: str) -> int:
    kind, _, index = device.partition(":")
    if device.isdecimal():
        kind, index = "cuda", device
    if kind != "cuda" or (index and not index.isdecimal()):
        raise ConfigError(f"There is no device '{device}' for TensorRT.", "Devices are cuda and cuda:1.")
    return int(index or 0)
