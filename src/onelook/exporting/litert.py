"""Exports a detector to the format of LiteRT (.tflite, TensorFlow Lite until 2024), with its converter for PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

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
from onelook.networks.detector import Detector
from onelook.predict.runtimes.exported import CHECKSUM, checksum
from onelook.predict.runtimes.litert import LitertRuntime

_OTHERS = (".tflite.json",)
# Run by its name, the script's folder would come first where modules are looked for: it has an `onnx.py`.
_RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def export_litert(detector: Detector, path: str | Path, options: ExportOptions) -> ExportedFile:
    """Exports to `path` (.tflite) and metadata (.tflite.json) beside it, and verifies the file in LiteRT.

    half: float16 weights, with which LiteRT computes in float32 on a CPU. The signature has the input "images"
    (B, 3, H, W) float32 and the outputs "boxes" and "scores". MissingDependencyError without the extras `litert` and
    `litert-export`; ExportError where the converter fails.
    """
    _check(options)
    path = Path(path)
    check_place(path, ".tflite", "a LiteRT model")
    metadata = describe(detector, options)
    graph = ExportGraph(detector)
    with drafted(path, _OTHERS) as draft:
        _convert(graph, metadata, draft)
        described = json.loads(metadata.to_json()) | {CHECKSUM: checksum([draft])}
        write_text(description_beside(str(draft)), json.dumps(described) + "\n")
        runtime = LitertRuntime(draft, threads=1)
        agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, graph, metadata)
    others = tuple(path.with_suffix(suffix) for suffix in _OTHERS)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=others)


def _convert(graph: ExportGraph, metadata: ExportedMetadata, draft: Path) -> None:
    """Writes the .tflite with the converter in a process of its own; ExportError with what it says where it fails."""
    program = draft.with_suffix(".pt2")
    images = torch.zeros((metadata.batch or 1, 3, *metadata.size))
    with quiet(), torch.no_grad():
        torch.export.save(torch.export.export(graph, (images,), strict=False), program)
    precision = "half" if metadata.precision == "float16" else "full"
    script = Path(__file__).with_name("litert_conversion.py")
    command = [sys.executable, "-c", _RUN, *(str(one.resolve()) for one in (script, program, draft)), precision]
    try:
        done = subprocess.run(command, cwd=draft.parent, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ExportError(f"LiteRT's converter cannot be started: {reason_of(error)}.") from error
    if done.returncode != 0 or not draft.is_file():
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ExportError(
            f"LiteRT's converter did not convert the network (exit code {done.returncode}); it said: {said[:300]}"
        )


def _check(options: ExportOptions) -> None:
    for package in ("litert_torch", "ai_edge_litert"):
        if find_spec(package) is None:
            raise missing_package(package, "Exporting to LiteRT", work="litert-export")
    refuse_nms(options, "A LiteRT model", "its converter has no operator for it")
    if options.dynamic:
        raise UsageError(
            "A LiteRT model has a fixed batch: --dynamic cannot be chosen.",
            "Leave it away, or give --batch: Onelook cuts larger batches into several runs.",
        )


LITERT = TargetFormat("litert", ".tflite", _OTHERS, _check, export_litert)
