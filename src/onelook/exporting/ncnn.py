"""Exports a detector to the format of ncnn, with its converter pnnx."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from onelook.errors import ExportError, UsageError, missing_package, reason_of
from onelook.exported import ExportedMetadata, description_beside
from onelook.exporting.describe import describe
from onelook.exporting.graph import ExportGraph
from onelook.exporting.onnx import OUTPUTS, quiet
from onelook.exporting.runtime import runner_of
from onelook.exporting.target import (
    ExportedFile,
    ExportOptions,
    TargetFormat,
    check_place,
    drafted,
    refuse_nms,
)
from onelook.exporting.verify import verify_rows
from onelook.files import write_text
from onelook.layers.focus import SpaceToDepth, space_to_depth
from onelook.networks.detector import Detector
from onelook.predict.runtimes.exported import CHECKSUM, checksum
from onelook.predict.runtimes.ncnn import NcnnRuntime

_OTHERS = (".bin", ".param.json")
_NAMES = {"in0": "images", "out0": "boxes", "out1": "scores"}  # pnnx's names of inputs and outputs, and ours
_NOT_CONVERTED = ("aten::", "prim::", "torch.", "Tensor.", "F.", "nn.", "pnnx.")  # what ncnn has no layer for


def export_ncnn(detector: Detector, path: str | Path, options: ExportOptions) -> ExportedFile:
    """Exports to `path` (.param), weights (.bin) and metadata (.param.json) beside it, and verifies them in ncnn.

    half: float16 weights; ncnn computes in float16 then where the processor can. The input is the blob "images" of one
    image (3, H, W), the outputs are "boxes" (N, 4) and "scores" (N, C). MissingDependencyError without the `ncnn`
    extra; ExportError for a network with a layer that ncnn has not.
    """
    _check(options)
    path = Path(path)
    check_place(path, ".param", "an ncnn model")
    metadata = describe(detector, options)
    graph: nn.Module = ExportGraph(detector)
    _replace_space_to_depth(graph)
    if options.half:
        graph = _SmallPixels(graph, metadata.size)
        _round_kernels(graph)
    with drafted(path, _OTHERS) as draft:
        _convert(graph, metadata, draft)
        described = json.loads(metadata.to_json()) | {CHECKSUM: checksum((draft, draft.with_suffix(".bin")))}
        write_text(description_beside(str(draft)), json.dumps(described) + "\n")
        runtime = NcnnRuntime(draft, threads=1)
        agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, ExportGraph(detector), metadata)
    others = tuple(path.with_suffix(suffix) for suffix in _OTHERS)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=others)


class _SpaceToDepthAsConvolution(nn.Module):
    """Space-to-depth as a convolution whose kernel holds a single 1 for each output: ncnn slices without a step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        squares = torch.eye(4 * channels).reshape(4 * channels, channels, 2, 2)  # what each output takes of a square
        with torch.no_grad():
            places = space_to_depth(torch.arange(4.0 * channels).reshape(1, channels, 2, 2)).flatten().long()
        self.register_buffer("kernel", squares[places])

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(images, self.kernel, stride=2)  # type: ignore[arg-type]  # a buffer is a Tensor


def _replace_space_to_depth(graph: nn.Module) -> None:
    """Of the images, which all stems with it (Focus, ReOrg) rearrange."""
    for parent in list(graph.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SpaceToDepth):
                setattr(parent, name, _SpaceToDepthAsConvolution(3))


class _SmallPixels(nn.Module):
    """The same network, for pixels in 0..1 instead of 0..255, which its first kernel makes up for. Both are exact.

    A kernel for 0..255 is so small that part of it is below the normal numbers of float16, which ncnn takes for 0.
    """

    scale = 2.0**-8

    def __init__(self, graph: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.graph = graph
        called: list[nn.Conv2d] = []
        hooks = [
            module.register_forward_hook(lambda module, *_: called.append(module))
            for module in graph.modules()
            if isinstance(module, nn.Conv2d)
        ]
        with torch.no_grad():
            graph(torch.zeros((1, 3, *size)))
            called[0].weight /= self.scale
        for hook in hooks:
            hook.remove()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.graph(images * self.scale)


def _round_kernels(graph: nn.Module) -> None:
    """Rounds kernels to float16, in float32: pnnx cuts digits off instead, which makes all kernels a little smaller."""
    with torch.no_grad():
        for parameter in graph.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.half())


def _convert(graph: nn.Module, metadata: ExportedMetadata, draft: Path) -> None:
    """Writes the .param and the .bin with pnnx; ExportError with what it says where it fails."""
    import pnnx

    images = torch.zeros((1, 3, *metadata.size))
    with tempfile.TemporaryDirectory(prefix="pnnx.", dir=draft.parent) as folder:
        traced = Path(folder) / "model.pt"
        with quiet(), torch.no_grad():
            torch.jit.trace(graph, images, check_trace=False).save(str(traced))
        shape = ",".join(map(str, images.shape))
        half = metadata.precision == "float16"
        command = [pnnx.EXEC_PATH, traced.name, f"inputshape=[{shape}]", f"fp16={int(half)}"]
        try:
            # Its files are named after the input; what it prints concerns its own passes.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise ExportError(f"pnnx cannot be started: {reason_of(error)}.", "Install pnnx again.") from error
        param, weights = traced.with_suffix(".ncnn.param"), traced.with_suffix(".ncnn.bin")
        if done.returncode != 0 or not param.is_file() or not weights.is_file():
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise ExportError(f"pnnx did not convert the network (exit code {done.returncode}); it said: {said[:300]}")
        write_text(draft, _renamed(param.read_text(encoding="utf-8")))
        weights.rename(draft.with_suffix(".bin"))


def _renamed(param: str) -> str:
    """An ncnn network with our names of inputs and outputs. ExportError for a layer that ncnn does not have.

    A line is: type, name, number of inputs, number of outputs, the names of these, settings.
    """
    magic, counts, *layers = param.splitlines()
    found = []
    for line in layers:
        kind, name, inputs, outputs, *rest = line.split()
        if kind.startswith(_NOT_CONVERTED):
            raise ExportError(f"ncnn has no layer for '{kind}', which this network needs.", "Export to ONNX instead.")
        blobs = int(inputs) + int(outputs)
        rest[:blobs] = [_NAMES.get(blob, blob) for blob in rest[:blobs]]
        found.append(" ".join((f"{kind:<24} {name:<24}", inputs, outputs, *rest)))
    return "\n".join((magic, counts, *found, ""))


def _check(options: ExportOptions) -> None:
    missing: Sequence[str] = [package for package in ("pnnx", "ncnn") if find_spec(package) is None]
    if missing:
        raise missing_package(missing[0], "Exporting to ncnn")
    refuse_nms(options, "An ncnn model", "ncnn has no layer for it that takes boxes of any shape")
    if options.dynamic or options.batch != 1:
        what = "--dynamic" if options.dynamic else f"a batch of {options.batch}"
        raise UsageError(
            f"ncnn runs one image at a time: {what} cannot be chosen.",
            "Leave it away: Onelook runs the images of a batch one after the other.",
        )


# By default another name than OpenVINO's, whose weights are a .bin too.
NCNN = TargetFormat("ncnn", ".param", _OTHERS, _check, export_ncnn, default_suffix=".ncnn.param")
