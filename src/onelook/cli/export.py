"""`onelook export`: a model for a runtime other than PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from onelook.cli.checks import check_batch, check_thresholds
from onelook.errors import ExportError, UserError
from onelook.exporting.onnx import ExportedFile, export_onnx
from onelook.exporting.openvino import export_openvino
from onelook.models.build import build
from onelook.models.detector import Architecture, Detector
from onelook.ops.nms import Nms
from onelook.weights import load_weights, open_detector
from onelook.weights.darknet import DarknetHeader, header_of, write_darknet

if TYPE_CHECKING:
    from rich.console import Console


_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "darknet": ".weights"}


@dataclass(frozen=True)
class ExportResult:
    """The written file and how far it is from PyTorch."""

    exported: ExportedFile
    format: str

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        metadata, agreement = self.exported.metadata, self.exported.agreement
        return {
            "file": str(self.exported.path),
            "format": self.format,
            "model": metadata.model,
            "size": list(metadata.size),
            "batch": metadata.batch,
            "precision": metadata.precision,
            "outputs": metadata.outputs,
            "nms": dict(metadata.nms) if metadata.nms else None,
            "bytes": self.exported.path.stat().st_size,
            "largest_box_difference": agreement.box,
            "largest_box_difference_of_confident_rows": agreement.confident_box,
            "largest_score_difference": agreement.score,
            "images": agreement.images,
        }

    def show(self, console: Console) -> None:
        """The file, its interface, and the differences."""
        metadata, agreement = self.exported.metadata, self.exported.agreement
        height, width = metadata.size
        megabytes = self.exported.path.stat().st_size / 1e6
        exported = f"Exported {metadata.model} to {self.exported.path} ({megabytes:.1f} MB)"
        console.print(exported, soft_wrap=True, markup=False)
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
        console.print(
            f"  verified   on {agreement.images} images against PyTorch in float32: boxes differ by at most"
            f" {agreement.box:.2g} px ({agreement.confident_box:.2g} px where confident), scores by at most"
            f" {agreement.score:.2g}"
        )


@dataclass(frozen=True)
class WrittenWeights:
    """A weights file of another program: not run, but read back and compared number by number."""

    path: Path
    model: str
    format: str
    tensors: int
    seen: int

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "file": str(self.path),
            "format": self.format,
            "model": self.model,
            "bytes": self.path.stat().st_size,
            "tensors": self.tensors,
            "seen": self.seen,
        }

    def show(self, console: Console) -> None:
        """The file, and what it says of the training."""
        megabytes = self.path.stat().st_size / 1e6
        console.print(f"Exported {self.model} to {self.path} ({megabytes:.1f} MB)", soft_wrap=True, markup=False)
        console.print(f"  verified   {self.tensors} tensors read back identical; {self.seen:,} images seen in training")


def export(
    model: str,
    *,
    weights: str | None = None,
    to: Literal["onnx", "openvino", "ncnn", "tensorrt", "darknet"] = "onnx",
    nms: bool = False,
    half: bool = False,
    int8: bool = False,
    dynamic: bool = False,
    batch: int = 1,
    size: int | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    limit: int = 300,
    out: Path | None = None,
) -> ExportResult | WrittenWeights:
    """Write a model for another runtime, and prove it against PyTorch.

    The file takes framed RGB images, float32 0..255, whatever its precision, and says itself what it needs: frame,
    size, class names. It is run and compared with PyTorch before it appears; where they disagree nothing is written.

    Examples:
        onelook export --model yolox-s --weights yolox_s.pth --to onnx
        onelook export --model runs/a/best.safetensors --nms --dynamic --half --out detector.onnx
        onelook export --model runs/b/best.safetensors --to darknet --out b.weights

    Args:
        model: name of a model, a weights file, or the folder of a run.
        weights: weights file for a named model; "none" exports it untrained.
        to: the runtime's format; ncnn and TensorRT are made from the ONNX file with their own tools. Darknet's .weights
            hold the training form of a YOLOv4 model in float32; of the other settings, only `out` concerns them.
        nms: build non-maximum suppression in, so that the file gives final detections as evaluation counts them; of a
            model that needs none, its best rows.
        half: float16 weights and features.
        int8: 8-bit weights and features (not supported yet).
        dynamic: accept any batch size.
        batch: number of images a run, without --dynamic.
        size: side of the square input, a multiple of the largest stride; the model's own where not given.
        confidence: least score that built-in suppression keeps, where the caller gives no other.
        iou: greatest overlap that it allows, where the caller gives no other.
        limit: most detections an image that it gives.
        out: the file to write; the model's name in the current folder where not given.

    Returns:
        The file and the differences.
    """
    _refuse_unsupported(to, nms, int8)
    check_batch(batch)
    check_thresholds(confidence, iou)
    opened = open_detector(model, None if weights == "none" else weights, untrained=weights == "none")
    detector = opened.detector.eval()
    path = Path(out) if out is not None else Path(opened.name + _SUFFIXES[to])
    sources = [Path(one).resolve() for one in (model, weights) if one is not None]
    if path.resolve() in sources:
        raise UserError(f"The export would overwrite '{path}', which it is made of.", "Give another file with --out.")
    if to == "darknet":
        return _write_darknet(detector, path, sources, opened.name)
    multi_label = getattr(detector.architecture, "multi_label", False)
    suppression = Nms(confidence, iou, multi_label=multi_label, limit=limit) if nms else None
    frame = opened.size if size is None else (size, size)
    if to == "openvino":
        exported = export_openvino(detector, path, half=half, dynamic=dynamic, batch=batch, size=frame)
    else:
        exported = export_onnx(detector, path, nms=suppression, half=half, dynamic=dynamic, batch=batch, size=frame)
    return ExportResult(exported, to)


def _write_darknet(detector: Detector, path: Path, sources: list[Path], name: str) -> WrittenWeights:
    """The file, with the header of the Darknet file that the weights come from, if they do; read back and compared."""
    headers = (header_of(source) for source in sources if source.is_file())
    header = next((one for one in headers if one is not None), DarknetHeader())
    write_darknet(detector, path, header)
    again = build(cast(Architecture, detector.architecture))
    load_weights(again, path)
    state = again.state_dict()
    wrong = [
        key
        for key, tensor in detector.state_dict().items()
        if tensor.is_floating_point() and not torch.equal(tensor.float(), state[key])
    ]
    if wrong:
        raise ExportError(f"'{path}' does not read back: {wrong[0]} differs.", "Try again, to another place.")
    return WrittenWeights(path, name, "darknet", len(state), header.seen)


def _refuse_unsupported(to: str, nms: bool, int8: bool) -> None:
    """ExportError, before anything is loaded, for what this version cannot write."""
    if int8:
        raise ExportError(
            "8-bit export is not supported: it needs calibration, which this version does not have.",
            "Use --half, or quantise the exported ONNX file with the tools of its runtime.",
        )
    other = {"ncnn": "pnnx model.onnx", "tensorrt": "trtexec --onnx=model.onnx --saveEngine=model.engine"}
    if to in other:
        raise ExportError(
            f"This version cannot write {to} files.",
            f"Export to ONNX without --nms, and convert that with the runtime's own tool: {other[to]}",
        )
    if to == "openvino" and nms:
        raise ExportError(
            "An OpenVINO file cannot have suppression built in.",
            "Export without --nms, or to ONNX, which OpenVINO reads.",
        )
