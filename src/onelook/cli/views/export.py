"""Prints the result of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from onelook.types import counted

if TYPE_CHECKING:
    from onelook.api.export import ExportResult, WrittenWeights
    from onelook.exporting.accuracy import Int8Report


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
        opencv = "" if metadata.nms or metadata.int8 or metadata.batch is None else "; OpenCV's DNN module 4.8 or newer"
        console.print(f"  runs in    ONNX Runtime {result.exported.least_runtime} or newer{opencv}")
    if result.exported.runs_in:
        console.print(f"  runs in    {result.exported.runs_in}, in which it was verified", markup=False)
    console.print(f"  verified   on {agreement}")
    if result.exported.int8 is not None:
        _show_int8(result, result.exported.int8, console)
    for note in result.exported.notes:
        console.print(f"  note       {note}", soft_wrap=True, markup=False)
    if result.report is not None:
        console.print(f"  report     {result.report}", soft_wrap=True, markup=False)


def _show_int8(result: ExportResult, report: Int8Report, console: Console) -> None:
    metadata, compared = result.exported.metadata.int8 or {}, report.comparison
    in_8_bits = report.convolutions - len(report.kept)
    console.print(f"  8 bits     {in_8_bits} of {report.convolutions} convolutions; the head's last ones are in float")
    images, source = counted(metadata["calibration_images"], "image"), metadata["calibrated_on"]
    console.print(f"  ranges     of {images} of {source}", soft_wrap=True, markup=False)
    console.print(f"  judged     on {metadata['judged_on']}", soft_wrap=True, markup=False)
    console.print("             precision       AP       MB   ms an image, 1 thread, in alternation")
    for name, ap, size, milliseconds in (
        ("float32", report.ap_float, compared.float_bytes, compared.float_ms),
        ("int8", report.ap, result.exported.bytes, compared.int8_ms),
    ):
        console.print(f"             {name:9} {ap:8.4f} {size / 1e6:8.1f} {milliseconds:8.1f}")


def _show_weights(result: WrittenWeights, console: Console) -> None:
    megabytes = result.path.stat().st_size / 1e6
    console.print(f"Exported {result.model} to {result.path} ({megabytes:.1f} MB)", soft_wrap=True, markup=False)
    console.print(f"  verified   {result.tensors} tensors read back identical; {result.seen:,} images seen in training")
