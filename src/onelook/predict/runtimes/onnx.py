"""ONNX Runtime: runs a file of `onelook export`. Needs no PyTorch; onnxruntime is imported when a file is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from onelook.devices import num_cores
from onelook.errors import ConfigError, ExportError, missing_package
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.predict.runtimes.exported import (
    ExportedRuntime,
    ForeignFileError,
    check_file,
    first_line,
    shape_problem,
    wanted_outputs,
)
from onelook.threads import chosen_threads


class OnnxRuntime(ExportedRuntime):
    """An ONNX file in ONNX Runtime. device: "cpu", or "cuda" where ONNX Runtime has that provider; None is "cpu".

    On a CPU, one image has all threads. The images of a batch are divided between runs that share the threads.
    """

    holds_weights = True

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        # The weights of a foreign file may go to a device that ONNX Runtime does not have: first its origin counts.
        session = open_session(self.path, "cpu", threads)
        metadata = exported_metadata(session, self.path)
        if metadata is None:
            raise ForeignFileError(
                f"'{self.path}' was not exported by Onelook: it has no description of its inputs and outputs.",
                "Export the model with `onelook export`, or, where it holds official weights, give the model's name "
                "and this file as weights.",
            )
        if device not in (None, "cpu"):
            session = open_session(self.path, device, threads)
        import onnxruntime

        self.library = f"ONNX Runtime {onnxruntime.__version__}"
        self.device_name = device or "cpu"
        self._session = session
        self._bound = None if self.device_name == "cpu" else BoundSession(session, self.device_name)
        self._threads, self._spin = threads, threads is not None or chosen_threads() >= num_cores()
        self._stamp = _stamp(self.path)
        return metadata

    @property
    def threads(self) -> int:
        """The threads of a run on the CPU, of all parts of a batch together."""
        return self._threads or chosen_threads()

    def set_threads(self, threads: int) -> bool:
        """Opens the file again, with this number of threads on the CPU, which sleep while they wait.

        False, and nothing changes, where the file is no longer the one that was opened.
        """
        before = self._threads, self._spin
        self._threads, self._spin = threads, False
        try:
            if _stamp(self.path) != self._stamp:
                raise ExportError(f"'{self.path}' has changed.", "Leave it as it is while it is used.")
            self.concurrent = self._reopen(min(self.parts, threads))
        except ExportError:
            self._threads, self._spin = before
            return False
        return True

    def _expect(self, parts: int) -> int:
        """Several runs at once, each with a share of the threads: they wait less for each other than those of one."""
        runs = min(parts, self.threads) if self._bound is None else 1
        return runs if runs == self.concurrent else self._reopen(runs)

    def _reopen(self, runs: int) -> int:
        """Opens the file for so many runs at the same time, and returns their number."""
        from concurrent.futures import ThreadPoolExecutor  # one image needs no threads

        threads = self.threads // runs if runs > 1 else self._threads
        self._session = open_session(self.path, "cpu", threads, spin=self._spin)
        self._pool = ThreadPoolExecutor(runs, thread_name_prefix="onelook-run")
        return runs

    def run_all(self, outputs: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        if self.concurrent == 1 or len(feeds) == 1:
            return super().run_all(outputs, feeds)
        return list(self._pool.map(partial(self.run, outputs), feeds))

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            if self._bound is not None:
                return self._bound.run(outputs, feed)
            return list(self._session.run(list(outputs), dict(feed)))
        except Exception as error:  # onnxruntime raises classes of its own, made at run time
            raise self._not_run(error) from error

    def _contradiction(self) -> str:
        inputs = {value.name: value for value in self._session.get_inputs()}
        missing = wanted_outputs(self.metadata) - {value.name for value in self._session.get_outputs()}
        if "images" not in inputs:
            return "the model has no input 'images'"
        if missing:
            return f"the model has no output '{min(missing)}'"
        if inputs["images"].type != "tensor(float)":
            return f"its input is {inputs['images'].type}, not tensor(float)"
        return shape_problem(inputs["images"].shape, self.metadata)


class BoundSession:
    """Runs a session by IO binding: inputs go into buffers of the device that are kept between runs.

    `session.run` allocates the inputs on a GPU in each run. On a CPU it uses the arrays of the caller as they are, so
    that a copy into a buffer only costs time: there, binding is for tests.
    device: as it is given to `OnnxRuntime`. A run ends when the device has finished; several threads take turns.
    """

    def __init__(self, session: Any, device: str) -> None:
        from threading import Lock

        kind, index = device_parts(device)
        self.session, self.kind, self.index = session, kind, index
        self._buffers: dict[str, Any] = {}
        self._lock = Lock()  # of the buffers

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `session.run`: the outputs of these names, in arrays of their own."""
        binding = self.session.io_binding()
        for name in outputs:
            # Outputs of NMS have no shape before the run, so that ONNX Runtime allocates them.
            binding.bind_output(name, self.kind, self.index)
        with self._lock:
            for name, values in feed.items():
                binding.bind_ortvalue_input(name, self._filled(name, values))
            self.session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def _filled(self, name: str, values: np.ndarray) -> Any:
        """The buffer of an input with these values."""
        from onnxruntime import OrtValue

        buffer = self._buffers.get(name)
        if buffer is None or tuple(buffer.shape()) != values.shape:
            buffer = OrtValue.ortvalue_from_shape_and_type(values.shape, values.dtype, self.kind, self.index)
            self._buffers[name] = buffer
        buffer.update_inplace(np.ascontiguousarray(values))
        return buffer


def open_session(path: str, device: str | None = None, threads: int | None = None, *, spin: bool | None = None) -> Any:
    """An ONNX Runtime session; ExportError where the file is no ONNX model, ConfigError for a device it has not.

    spin: whether threads that wait take the time of a core; None is where `threads` are given, or all cores are free.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", f"Running '{path}'") from error
    check_file(path)
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or chosen_threads()
    if spin is None:
        spin = threads is not None or options.intra_op_num_threads >= num_cores()
    if not spin and options.intra_op_num_threads > 1:
        # The cores are busy: a thread that waits takes the time of one that works.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own, made at run time
        said = first_line(error)
        if "Protobuf parsing failed" in said:
            said = "it is damaged, cut off, or no ONNX file."
        raise ExportError(
            f"'{path}' is not an ONNX model that can be run: {said}", "Download or export it again."
        ) from error


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def exported_metadata(session: Any, path: str) -> ExportedMetadata | None:
    """The metadata of a file of `onelook export`; None for ONNX files of other origin. ExportError if damaged."""
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise ExportError(
            f"The description inside '{path}' is damaged: it is not UTF-8 text.", "Export it again."
        ) from None
    return None if text is None else ExportedMetadata.from_json(text, path)


def device_parts(device: str | None) -> tuple[str, int]:
    """The kind of a device ("cpu", "cuda") and its number: "cuda:1" and "1" are ("cuda", 1). ConfigError for others."""
    name = "cpu" if device is None else str(device)
    if name == "cpu":
        return "cpu", 0
    kind, _, index = name.partition(":")
    if name.isdecimal():
        kind, index = "cuda", name
    if kind != "cuda" or (index and not index.isdecimal()):
        raise ConfigError(f"There is no device '{name}' for ONNX files.", "Devices are cpu, cuda, cuda:1.")
    return kind, int(index or 0)


def _providers(device: str | None, available: list[str]) -> list[Any]:
    kind, index = device_parts(device)
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"There is no device '{device}': the installed ONNX Runtime runs on the CPU only.",
            "Use the device cpu, or install onnxruntime-gpu.",
        )
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
