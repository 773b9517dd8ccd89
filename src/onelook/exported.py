"""The metadata of an exported model file: one JSON document with all that is needed to run the file.

ONNX files store it in `metadata_props` under the key `METADATA_KEY`; formats without metadata get it beside the model
as `<file>.json`. No torch is needed to read it. OpenVINO's files have the key in their runtime information, PyTorch's
programs in their extra file `onelook.json`; ncnn's, LiteRT's and TensorRT's have the document beside
them.

The interface of an exported file (`FORMAT` 1):

    input    images      (B, 3, H, W) float32, RGB, 0..255: letterboxed, not normalised; float32 in fp16 files too
    input    confidence  () float32, only with outputs = "detections": optional, its default is nms["confidence"]
    input    iou         () float32, only with outputs = "detections": optional, its default is nms["iou"]
    outputs = "raw"
             boxes       (B, N, 4) float32 xyxy in pixels of the input, decoded
             scores      (B, N, C) float32 final class scores in [0, 1]
    outputs = "detections": the rows that NMS keeps, best first, padded with zeros to L = nms["limit"] rows (or fewer,
    where the model has fewer rows)
             count       (B,) int64, how many rows of the image are detections
             boxes       (B, L, 4) float32 xyxy in pixels of the input
             scores      (B, L) float32, descending
             labels      (B, L) int64 index into `names`
             A model that was trained one to one needs no NMS: these are then its best rows, there is no input
             `iou`, and nms["iou"] is 1.

ncnn takes one image (3, H, W) and gives boxes (N, 4) and scores (N, C). OpenVINO's `confidence` and `iou` are not
optional.

B is free where `batch` is None. The two optional inputs are initialisers that are also graph inputs: without them, a
runtime uses the defaults. (ONNX Runtime warns of that on loading, unless `log_severity_level` is 3.) The input is
float32 in every file, so that a program need not know the file's precision; boxes are decoded in float32 too, because
float16 resolves only half a pixel above 512.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from onelook.errors import ExportError

# Formats that `onelook.export` knows.
Target = Literal["onnx", "openvino", "ncnn", "litert", "torch", "tensorrt", "darknet"]
LEAST_RUNTIME = "1.14"  # the first ONNX Runtime that runs the operators of exported files
METADATA_KEY = "onelook"
FORMAT = 1
LARGEST_DOCUMENT = 4_000_000  # characters; 10,000 class names fit well within it


@dataclass(frozen=True)
class ExportedMetadata:
    """The metadata of an exported model.

    model: variant name, or the architecture's type.  names: class names, may be empty.
    num_classes: C.  size: (height, width) of the input.  frame: the `Letterbox` or `Stretch`, as plain data
    (`config.to_plain`).  outputs: see the module's docstring.  multi_label: whether one row may be a detection of
    several classes (how the family's NMS treats rows; holds for raw outputs too).  nms: None for raw outputs, else
    confidence, iou, agnostic, multi_label and limit as built in.  batch: fixed batch size, None where it is free.
    precision: of weights and activations. architecture: as plain data.  version: of this library.  detecting,
    evaluating: NMS outside of the file, as plain data, where the family publishes other settings than `multi_label`
    for detection or evaluation; may be missing.  int8: of an 8-bit file, the data of calibration with its fingerprint,
    the AP of the float file and of this one, and the convolutions that are in float; may be missing.
    """

    model: str
    names: tuple[str, ...]
    num_classes: int
    size: tuple[int, int]
    frame: Mapping[str, Any]
    outputs: Literal["raw", "detections"]
    multi_label: bool
    nms: Mapping[str, Any] | None
    batch: int | None
    precision: Literal["float32", "float16", "int8"]
    architecture: Mapping[str, Any]
    version: str
    format: int = FORMAT
    detecting: Mapping[str, Any] | None = None
    evaluating: Mapping[str, Any] | None = None
    int8: Mapping[str, Any] | None = None

    @property
    def one_to_one(self) -> bool:
        """Whether the model needs no NMS: its best rows are its detections."""
        return self.architecture.get("one_to_one") is True

    def to_json(self) -> str:
        """One JSON object with exactly these fields."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str, source: str) -> ExportedMetadata:
        """The metadata in `text`, found in the file `source`; raises ExportError if it is damaged or newer."""
        if len(text) > LARGEST_DOCUMENT:
            raise _damaged(source, f"it has {len(text)} characters")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _damaged(source, str(error)) from error
        if not isinstance(data, dict):
            raise _damaged(source, "it is not a JSON object")
        if isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise ExportError(
                f"'{source}' was exported in format {data['format']}; this version reads up to {FORMAT}.",
                "Update Onelook, or export the model again with this version.",
            )
        for name in _OPTIONAL:
            data.setdefault(name, None)
        wanted = {field.name for field in fields(ExportedMetadata)}
        if missing := sorted(wanted - data.keys()):
            raise _damaged(source, f"'{missing[0]}' is missing")
        for key, (accepts, expected) in _CHECKS.items():
            if not accepts(data[key]):
                raise _damaged(source, f"'{key}' is not {expected}")
        known = {key: data[key] for key in wanted}
        known["names"], known["size"] = tuple(data["names"]), tuple(data["size"])
        if data["names"] and len(data["names"]) != data["num_classes"]:
            raise _damaged(source, f"{len(data['names'])} class names for {data['num_classes']} classes")
        if (data["nms"] is None) != (data["outputs"] == "raw"):
            raise _damaged(source, "'nms' and 'outputs' contradict each other")
        return ExportedMetadata(**known)


def description_beside(path: str) -> str:
    """The path of the metadata of a file whose format holds none."""
    return f"{path}.json"


_OPTIONAL = ("detecting", "evaluating", "int8")  # the first files of this format do not have them


def _damaged(source: str, reason: str) -> ExportError:
    return ExportError(f"The metadata of '{source}' is damaged: {reason}.", "Export the model again.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20


def _nms(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    numbers = (value.get("confidence"), value.get("iou"))
    flags = (value.get("agnostic"), value.get("multi_label"))
    return (
        all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers)
        and all(isinstance(flag, bool) for flag in flags)
        and _is_count(value.get("limit"))
    )


def _postprocess(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("type"), str))


_CHECKS = {
    "detecting": (_postprocess, "null or the settings of a postprocessing"),
    "evaluating": (_postprocess, "null or the settings of a postprocessing"),
    "int8": (lambda value: value is None or isinstance(value, dict), "null or an object"),
    "format": (_is_count, "a positive whole number"),
    "model": (lambda value: isinstance(value, str), "text"),
    "names": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of class names",
    ),
    "num_classes": (_is_count, "a positive whole number"),
    "size": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
        "[height, width]",
    ),
    "frame": (lambda value: isinstance(value, dict) and isinstance(value.get("type"), str), "a letterbox or a stretch"),
    "outputs": (lambda value: value in ("raw", "detections"), "'raw' or 'detections'"),
    "multi_label": (lambda value: isinstance(value, bool), "true or false"),
    "nms": (_nms, "null or the settings of NMS"),
    "batch": (lambda value: value is None or _is_count(value), "null or a positive whole number"),
    "precision": (lambda value: value in ("float32", "float16", "int8"), "a known precision"),
    "architecture": (lambda value: isinstance(value, dict), "an object"),
    "version": (lambda value: isinstance(value, str), "text"),
}
