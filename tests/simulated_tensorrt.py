"""The parts of TensorRT's and CUDA's Python interfaces that Onelook calls, simulated in host memory by ONNX Runtime.

It proves the order of calls, shapes, addresses and error paths. It proves nothing about TensorRT or a GPU.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Cuda:
    """`cuda.bindings.runtime`: every call returns an error code, then its values."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.largest, self.freed = 1 << 40, 0

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1

    def cudaSetDevice(self, index: int) -> tuple[int]:  # noqa: N802
        return (0 if index == 0 else 101,)

    def cudaStreamCreate(self) -> tuple[int, int]:  # noqa: N802
        return 0, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        return (0 if stream == 7 else 400,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        if size > self.largest:
            return 2, 0
        memory = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        del self.held[address]
        self.freed += 1
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:  # noqa: N802
        device = target if kind == 1 else source
        if device not in self.held or ctypes.sizeof(self.held[device]) < size or stream != 7:
            return (1,)
        ctypes.memmove(target, source, size)
        return (0,)


class _Mode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class _Engine:
    def __init__(self, content: bytes, cuda: Cuda) -> None:
        self.cuda = cuda
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.inputs = {one.name: one for one in self.session.get_inputs()}
        self.outputs = {one.name: one for one in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return {**self.inputs, **self.outputs}[name].type

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = {**self.inputs, **self.outputs}[name].shape
        return tuple(side if isinstance(side, int) else -1 for side in shape)

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.shape, self.addresses = engine, (), {}  # type: ignore[var-annotated]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self.engine.get_tensor_shape(name)
        self.shape = tuple(shape)
        return all(side in (-1, given) for side, given in zip(wanted, shape))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses["images"]))
        names = list(self.engine.outputs)
        for name, values in zip(names, self.engine.session.run(names, {"images": images.reshape(self.shape).copy()})):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return stream == 7


def modules(cuda: Cuda) -> dict[str, ModuleType]:
    """The modules by name, for `sys.modules`. An engine is the ONNX file behind the word "engine"."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "0.simulated"
    trt.TensorIOMode, trt.nptype = _Mode, lambda kind: {"tensor(float)": np.float32}[kind]
    trt.NetworkDefinitionCreationFlag = IntEnum("Flag", {"STRONGLY_TYPED": 1})
    trt.BuilderFlag = SimpleNamespace(TF32="tf32")
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})

    def deserialize(content: bytes) -> _Engine | None:
        return _Engine(content[6:], cuda) if content.startswith(b"engine") else None

    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize)

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, content: bytes) -> bool:
            self.network.content = content
            return len(content) > 100

        def get_error(self, index: int) -> str:
            return "the simulated parser's error"

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.shapes: list[Any] = []

        def create_network(self, flags: int) -> Any:
            assert flags == 1 << 1
            return SimpleNamespace(content=b"")

        def create_builder_config(self) -> Any:
            return SimpleNamespace(clear_flag=lambda flag: None, add_optimization_profile=self.shapes.append)

        def create_optimization_profile(self) -> Any:
            profile = SimpleNamespace(shapes={})
            profile.set_shape = lambda name, least, usual, most: profile.shapes.update({name: (least, usual, most)})
            return profile

        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            return b"engine" + network.content

    trt.OnnxParser, trt.Builder = Parser, Builder
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    for module in (trt, package, bindings):
        module.__spec__ = ModuleSpec(module.__name__, None)  # PyTorch looks whether TensorRT is installed
    return {"tensorrt": trt, "cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": cuda}  # type: ignore[dict-item]
