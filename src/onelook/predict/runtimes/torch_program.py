"""PyTorch programs: runs a file of `onelook export --to torch` with torch.export's loader. PyTorch is imported then."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from onelook.errors import ExportError, missing_package
from onelook.exported import LARGEST_DOCUMENT, METADATA_KEY, ExportedMetadata
from onelook.predict.runtimes.exported import ExportedRuntime, ForeignFileError, first_line, shape_problem
from onelook.predict.runtimes.torch_threads import TorchThreads

# What `zipfile` and the decoding of text raise for damaged files: of other versions, encrypted, cut short.
_DAMAGED = (NotImplementedError, RuntimeError, ValueError, LookupError, EOFError, OSError)
_SAFE_LOAD = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class TorchProgramRuntime(TorchThreads, ExportedRuntime):
    """A program of torch.export (.pt2), without this library's networks.

    device: "cpu", "cuda", "cuda:1", "mps"; None is the best one. threads: for the whole process. PyTorch reads such a
    file by building its graph from text that it evaluates: open only files that you trust.
    """

    evaluates_text = True

    def _open(self, device: str | None, threads: int | None, half: bool) -> ExportedMetadata:
        metadata = self._description()
        try:
            import torch
            from torch.export.passes import move_to_device_pass
        except ImportError as error:
            raise missing_package("torch", f"Running '{self.path}'") from error
        from onelook.devices import choose_device
        from onelook.threads import limit_torch_threads

        chosen = choose_device(device)
        if chosen.type == "cpu":
            limit_torch_threads(threads)
        try:
            with _without_pickles():
                program = torch.export.load(self.path)
            if chosen.type != "cpu":
                program = move_to_device_pass(program, chosen)
            self._module = program.module()
        except Exception as error:  # the loader raises whatever its parsers raise
            raise ExportError(
                f"'{self.path}' is not a program that PyTorch {torch.__version__} can load: {first_line(error)}",
                "Such files are for the version of PyTorch that wrote them: export the model again with this one.",
            ) from error
        self.device, self.device_name = chosen, str(chosen)
        self.library = f"PyTorch {torch.__version__}"
        signature = program.graph_signature
        self._names = tuple(signature.user_inputs)
        shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
        self._shape: tuple[object, ...] = tuple(shapes[self._names[0]]) if len(self._names) == 1 else ()
        self._num_outputs = len(signature.user_outputs)
        return metadata

    def _description(self) -> ExportedMetadata:
        import zipfile  # which loads the modules of all compressions
        import zlib

        try:
            with zipfile.ZipFile(self.path) as archive:
                # Beside the program, in a folder that PyTorch's versions name differently.
                name = next((one for one in archive.namelist() if one.endswith(f"/{METADATA_KEY}.json")), None)
                text = None
                if name is not None:
                    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise zipfile.BadZipFile("its description is compressed in another way than PyTorch does")
                    with archive.open(name) as file:
                        text = file.read(LARGEST_DOCUMENT + 1).decode("utf-8")
        except (zipfile.BadZipFile, zlib.error, *_DAMAGED) as error:
            raise ExportError(f"'{self.path}' is damaged: {first_line(error)}", "Export it again.") from error
        if text is None:
            raise ForeignFileError(
                f"'{self.path}' was not exported by Onelook: it has no description of its inputs and outputs.",
                "Export the model with `onelook export`.",
            )
        return ExportedMetadata.from_json(text, self.path)

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        import torch

        try:
            with torch.inference_mode():
                found = self._module(torch.from_numpy(feed["images"]).to(self.device))
                named = dict(zip(("boxes", "scores"), (tensor.cpu().numpy() for tensor in found)))
        except Exception as error:  # a program is code: a damaged one raises whatever it does
            raise self._not_run(error) from error
        return [named[name] for name in outputs]

    def _contradiction(self) -> str:
        if len(self._names) != 1 or self._num_outputs != 2:
            return f"the program has {len(self._names)} inputs and {self._num_outputs} outputs"
        if self.metadata.outputs != "raw":
            return "the program has no NMS inside"
        return shape_problem(self._shape, self.metadata)


@contextmanager
def _without_pickles() -> Iterator[None]:
    """While it lasts, PyTorch reads tensors only and unpickles no classes, whatever the caller of torch.load says."""
    before = os.environ.get(_SAFE_LOAD)
    os.environ[_SAFE_LOAD] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_LOAD]
        else:
            os.environ[_SAFE_LOAD] = before
