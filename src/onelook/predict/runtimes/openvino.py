"""OpenVINO: runs a file of `onelook export --to openvino`. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from onelook.devices import num_cores
from onelook.errors import ConfigError, ExportError, missing_package
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.predict.runtimes.exported import (
    ExportedRuntime,
    ForeignFileError,
    beside,
    first_line,
    shape_problem,
    wanted_outputs,
)
from onelook.threads import chosen_threads


class OpenvinoRuntime(ExportedRuntime):
    """An OpenVINO model (.xml, with its .bin beside it), compiled for the least time of one run, or for batches.

    On a CPU, batches are run with OpenVINO's own choice of parallel streams ("THROUGHPUT"), one image in each request.

    device: a device of OpenVINO ("cpu", "gpu", "gpu.1", "npu", "auto"); None is "cpu". A CPU computes in float32
    unless `half` is set, whatever precision its processor prefers, so that boxes are the same on every machine; other
    devices compute in the precision of the file.
    """

    chooses_precision = True

    def files(self) -> tuple[str, ...]:
        return (self.path, beside(self.path, ".bin"))

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        try:
            import openvino
        except ImportError as error:
            raise missing_package("openvino", f"Running '{self.path}'") from error
        core = _core()
        try:
            model = core.read_model(self.path)
            text = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None
        # The library's own messages and names may hold bytes of the file that are no text.
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ExportError(
                f"'{self.path}' is not an OpenVINO model that can be run: {first_line(error)}", "Export it again."
            ) from error
        if text is None:
            raise ForeignFileError(
                f"'{self.path}' was not exported by Onelook: it has no description of its inputs and outputs.",
                "Export the model with `onelook export`.",
            )
        metadata = ExportedMetadata.from_json(text, self.path)
        self.device_name = name = _device(device, core.available_devices)
        half = half or (name != "cpu" and metadata.precision == "float16")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
        }
        if threads is None and chosen_threads() < num_cores():
            threads = chosen_threads()  # with all cores free, OpenVINO's own choice knows which of them share one
        if threads is not None and name == "cpu":
            settings["INFERENCE_NUM_THREADS"] = threads
        self._settings_of_library, self._threads = settings, threads
        self._compile(model)
        self._inputs = {name for value in self._compiled.inputs for name in value.names}
        self.library = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        return metadata

    def _compile(self, model: Any) -> None:
        """Makes the network that runs. ExportError where the device cannot run it."""
        name = self.device_name
        try:
            self._compiled = _core().compile_model(model, name.upper(), self._settings_of_library)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ExportError(
                f"'{self.path}' cannot be run on '{name}': {first_line(error)}", "Choose another device, or no half."
            ) from error
        self._request = self._compiled.create_infer_request()

    def _expect(self, parts: int) -> int:
        import openvino

        several = parts > 1 and self.device_name == "cpu" and self._threads != 1
        if several == (self.concurrent > 1):
            return self.concurrent
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT" if several else "LATENCY"}
        hints |= {"PERFORMANCE_HINT_NUM_REQUESTS": parts if several else 0}
        self._settings_of_library |= hints
        self._compile(_core().read_model(self.path))
        if not several:
            return 1
        self._queue = openvino.AsyncInferQueue(self._compiled)  # as many requests as the plugin finds best
        return len(self._queue)

    def run_all(self, outputs: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        if self.concurrent == 1 or len(feeds) == 1:
            return super().run_all(outputs, feeds)
        found: list[list[np.ndarray]] = [[] for _ in feeds]

        def keep(request: Any, place: int) -> None:
            found[place] = [np.array(request.get_tensor(name).data) for name in outputs]

        self._queue.set_callback(keep)
        try:
            for place, feed in enumerate(feeds):
                self._queue.start_async(self._with_built_in(feed), place, share_inputs=True)
            self._queue.wait_all()
        except (RuntimeError, KeyError) as error:
            raise self._not_run(error) from error
        return found

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found = self._request.infer(self._with_built_in(feed), share_inputs=True)
            return [np.array(found[name]) for name in outputs]
        except (RuntimeError, KeyError) as error:
            raise self._not_run(error) from error

    def _with_built_in(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs with the file's own values of NMS where the caller has none: OpenVINO has no optional inputs."""
        built_in = {
            name: np.array(value, np.float32)
            for name, value in (self.metadata.nms or {}).items()
            if name in self._inputs
        }
        return {**built_in, **feed}

    def _contradiction(self) -> str:
        if "images" not in self._inputs:
            return "the model has no input 'images'"
        missing = wanted_outputs(self.metadata) - {name for value in self._compiled.outputs for name in value.names}
        if missing:
            return f"the model has no output '{min(missing)}'"
        images = self._compiled.input("images")
        if images.get_element_type().get_type_name() != "f32":
            return f"its input is {images.get_element_type().get_type_name()}, not f32"
        sides = [side.get_length() if side.is_static else None for side in images.get_partial_shape()]
        return shape_problem(sides, self.metadata)


@cache
def _core() -> Any:
    """The one OpenVINO core of this process, which is never freed.

    On processors with AMX, the CPU plugin of a core gives the thread that loads it a signal stack, and puts the stack
    that it found back when the core is freed. Two cores that are freed in the order of their making leave the thread
    with freed memory: the next signal, such as Ctrl-C, ends the process (OpenVINO 2026.4). One core also loads its
    plugins once.
    """
    import openvino

    core = openvino.Core()
    # Weights are read, not mapped: a file that is overwritten would change the model that runs, or end the process.
    core.set_property({"ENABLE_MMAP": False})
    return core


def _device(device: str | None, available: Sequence[str]) -> str:
    """The device in small letters. ConfigError for one that OpenVINO does not find here."""
    name = "cpu" if device is None else device.lower()
    known = ["auto", *(one.lower() for one in available)]
    if name not in known and name != "gpu.0":
        raise ConfigError(f"OpenVINO finds no device '{device}' here.", f"Devices are {', '.join(known)}.")
    return name
