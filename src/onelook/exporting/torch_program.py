"""Exports a detector to a program of torch.export (.pt2): it runs in PyTorch without this library."""

from __future__ import annotations

from pathlib import Path

import torch

from onelook.exported import METADATA_KEY
from onelook.exporting.describe import describe
from onelook.exporting.graph import ExportGraph
from onelook.exporting.onnx import LARGEST_BATCH, OUTPUTS, quiet
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
from onelook.networks.detector import Detector
from onelook.predict.runtimes.torch_program import TorchProgramRuntime


def export_torch_program(detector: Detector, path: str | Path, options: ExportOptions) -> ExportedFile:
    """Exports to `path` (.pt2), and verifies the file as `torch.export.load` reads it.

    The metadata (`onelook.exported`) is the extra file `onelook.json` of the archive. The program takes images
    (B, 3, H, W) float32 and gives (boxes, scores).
    """
    _check(options)
    path = Path(path)
    check_place(path, ".pt2", "a PyTorch program")
    metadata = describe(detector, options)
    graph = ExportGraph(detector, half=options.half)
    images = torch.zeros((metadata.batch or 2, 3, *metadata.size))  # 2, because a traced 1 would become a constant
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = {"images": {0: batch}} if metadata.batch is None else None
    with drafted(path, ()) as draft:
        with quiet(), torch.no_grad():
            program = torch.export.export(graph, (images,), dynamic_shapes=shapes, strict=False)
            torch.export.save(program, draft, extra_files={f"{METADATA_KEY}.json": metadata.to_json()})
        runtime = TorchProgramRuntime(draft, "cpu")
        agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, ExportGraph(detector), metadata)
    note = (
        f"It is for PyTorch {torch.__version__}: other versions may not load it. Open only .pt2 files that you trust."
    )
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, notes=(note,))


def _check(options: ExportOptions) -> None:
    refuse_nms(options, "A PyTorch program", "PyTorch has no operator for it")


TORCH = TargetFormat("torch", ".pt2", (), _check, export_torch_program)
