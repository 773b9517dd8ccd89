"""Prints the result of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from onelook.api.export import ExportResult, WrittenWeights


def show_export(result: ExportResult | WrittenWeights, console: Console) -> None:
    """Prints the file, its inputs and outputs, and how it was verified."""
    from onelook.api.export import WrittenWeights

    if isinstance(result, WrittenWeights):
        _show_weights(result, console)
        return
    metadata, agreement = result.exported.metadata, result.exported.agreement
    height, width = metadata.size
    exported = f"Exported {metadata.model} to {result.exported.path} ({result.exported.bytes / 1e6:.1f} MB)"
    console.print(exported, soft_wrap=True, markup=False)
    if result.exported.beside:
        names = ", ".join(file.name for file in result.exported.beside)
        console.print(f"  with       {names}", soft_wrap=True, markup=False)
    console.print(f"  input      {metadata.batch or 'any'} x 3 x {height} x {width}, float32, RGB, 0..255")
    if metadata.nms:
        iou = " (no NMS needed)" if metadata.one_to_one else f" and IoU {metadata.nms['iou']:g}"
        console.print(
            f"  output     detections: at most {metadata.nms['limit']} an image, confidence"
            f" {metadata.nms['confidence']:g}{iou} unless the caller gives others"
        )
    else:
        console.print("  output     boxes and class scores of all rows")
    console.print(f"  precision  {metadata.precision}")
    if result.exported.least_runtime:
        opencv = "" if metadata.nms or metadata.batch is None else "; OpenCV's DNN module 4.8 or newer"
        console.print(f"  runs in    ONNX Runtime {result.exported.least_runtime} or newer{opencv}")
    if result.exported.runs_in:
        console.print(f"  runs in    {result.exported.runs_in}, in which it was verified", markup=False)
    console.print(f"  verified   on {agreement}")
    for note in result.exported.notes:
        console.print(f"  note       {note}", soft_wrap=True, markup=False)


def _show_weights(result: WrittenWeights, console: Console) -> None:
    megabytes = result.path.stat().st_size / 1e6
    console.print(f"Exported {result.model} to {result.path} ({megabytes:.1f} MB)", soft_wrap=True, markup=False)
    console.print(f"  verified   {result.tensors} tensors read back identical; {result.seen:,} images seen in training")
