"""`onelook export`: a model for a runtime other than PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.export import show_export
from onelook.exported import LEAST_RUNTIME, Target


def export(
    *,
    model: str,
    weights: str | None = None,
    to: str = "onnx",
    nms: bool = False,
    half: bool = False,
    int8: bool = False,
    calibrate: Path | None = None,
    calibration_images: int = 300,
    max_drop: float = 1.0,
    dynamic: bool = False,
    batch: int = 1,
    size: int | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    limit: int = 300,
    least_runtime: str = LEAST_RUNTIME,
    out: Path | None = None,
    overwrite: bool = False,
    report: Path | None = None,
    report_data: Path | None = None,
) -> CommandResult[Any]:
    """Write a model for another runtime, and compare it with PyTorch.

    The inputs are letterboxed or stretched RGB images, float32 0..255, in every precision; the metadata of the file has
    the size, the kind of resizing and the class names. The file is written only after its outputs agree with PyTorch.

    Examples:
        onelook export --model yolox-s --weights yolox_s.pth --to onnx
        onelook export --model runs/a/best.safetensors --nms --dynamic --half --out detector.onnx
        onelook export --model runs/a/best.safetensors --to openvino --half
        onelook export --model runs/a/best.safetensors --to openvino --int8 --calibrate data/mine
        onelook export --model runs/a/best.safetensors --report a.html --report-data data/mine
        onelook export --model runs/b/best.safetensors --to darknet --out b.weights

    Args:
        model: name of a model, a weights file, or the folder of a run.
        weights: weights file for a named model; "none" exports it untrained.
        to: the format: onnx, openvino, ncnn, litert, torch (a program of torch.export), tensorrt or darknet. Without a
            GPU, tensorrt writes the ONNX file and says how the engine is built of it. Darknet's .weights hold the
            training form of a YOLOv4 model in float32 and take no other settings.
        nms: build non-maximum suppression in (onnx and openvino), so that the file gives final detections as evaluation
            counts them; of a model that needs none, its best rows.
        half: float16 weights and features.
        int8: convolutions in 8 bits (onnx, openvino, tensorrt); those that cost most stay in float until the loss of
            AP is at most --max-drop. Needs --calibrate.
        calibrate: data set for --int8: its training split gives the images that ranges are chosen with, its validation
            split the AP that the file is judged by.
        calibration_images: most images that ranges are chosen with.
        max_drop: greatest loss in points of AP: 1 is 0.010.
        dynamic: accept any batch size.
        batch: number of images a run, without --dynamic.
        size: side of the square input, a multiple of the largest stride; the model's own where not given,
            and of an exported ONNX file that file's.
        confidence: least score that built-in suppression keeps, where the caller gives no other.
        iou: greatest overlap that it allows, where the caller gives no other.
        limit: most detections an image that it gives.
        least_runtime: oldest ONNX Runtime that is to read an ONNX file: 1.14 or newer. OpenCV's DNN module, 4.8 or
            newer, reads ONNX files without --nms and --dynamic.
        out: the file to write; the model's name in the current folder where not given.
        overwrite: replace a file that is there already.
        report: HTML page to write about the file: differences from PyTorch by output, AP, latency, sizes, versions,
            and how to run it.
        report_data: data set whose validation split gives the report's AP, up to 300 images; that of --calibrate
            where not given.
    """
    from onelook.api.export import export as write_export

    result = write_export(
        model,
        cast(Target, to),  # any text, since formats that are not written are refused with the reason
        weights=weights,
        nms=nms,
        half=half,
        int8=int8,
        calibrate=calibrate,
        calibration_images=calibration_images,
        max_drop=max_drop,
        dynamic=dynamic,
        batch=batch,
        size=size,
        confidence=confidence,
        iou=iou,
        limit=limit,
        least_runtime=least_runtime,
        out=out,
        overwrite=overwrite,
        report=report,
        report_data=report_data,
        reporter=ConsoleReporter(),
    )
    return CommandResult(result, show_export)
