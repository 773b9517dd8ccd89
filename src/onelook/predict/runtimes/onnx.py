"""ONNX Runtime: runs a file of `onelook export`. Needs no PyTorch; onnxruntime is imported when a file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.config import from_plain
from onelook.errors import ConfigError, ExportError, UserError, missing_package
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.ops.nms import Nms, Postprocess, RawDetections, TopK, clips
from onelook.predict.runtime import default_postprocess

_NO_NMS = "Export the model without NMS to choose this freely."


class ForeignFileError(ExportError):
    """An ONNX file that Onelook did not export. It may hold weights."""


class OnnxRuntime:
    """A file of `onelook export` in ONNX Runtime. The file describes itself: size, class names, NMS.

    device: "cpu", or "cuda" where ONNX Runtime has that provider; None is "cpu".  threads: of one run, None is ONNX
    Runtime's choice. A file with NMS inside takes confidence and IoU from `postprocess`; its other settings are the
    file's, and a `postprocess` that contradicts them is a ConfigError. A fixed batch size is filled up or cut into
    several runs.

    Raises ExportError for damaged files, ForeignFileError for files that Onelook did not export,
    MissingDependencyError without onnxruntime.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, *, threads: int | None = None) -> None:
        self.path = os.fspath(path)
        # The weights of a foreign file may go to a device that ONNX Runtime does not have: first its origin counts.
        session = open_session(self.path, "cpu", threads)
        metadata = exported_metadata(session, self.path)
        if metadata is None:
            raise ForeignFileError(
                f"'{self.path}' was not exported by Onelook: it has no description of its inputs and outputs.",
                "Export the model with `onelook export`, or, where it holds official weights, give the model's name "
                "and this file as weights.",
            )
        if device not in (None, "cpu"):
            session = open_session(self.path, device, threads)
        self.metadata = metadata
        self.size = (metadata.size[0], metadata.size[1])
        self.frame = _frame(metadata, self.path)
        self.class_names = metadata.names
        self.num_classes = metadata.num_classes
        default = default_postprocess(one_to_one=metadata.one_to_one, multi_label=metadata.multi_label)
        self.postprocess: Postprocess = _nms(metadata.detecting, self.path) or default
        self.evaluating: Postprocess = _nms(metadata.evaluating, self.path) or default
        if metadata.nms is not None and not metadata.one_to_one:
            inside = {name: metadata.nms[name] for name in ("confidence", "iou", "agnostic", "multi_label")}
            self.postprocess = Nms(**inside)
            self.evaluating = Nms(**inside, clip=clips(self.evaluating))
        self._session = session
        _check_interface(session, metadata, self.path)

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        found: list[RawDetections] = []
        for part, count in self._parts(batch):
            if self.metadata.outputs == "raw":
                boxes, scores = self._run(part, ["boxes", "scores"], {})
                found += postprocess.batch(boxes[:count], scores[:count])
            else:
                found += self._detections(part, postprocess)[:count]
        return found

    def _parts(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """The batch as (b, 3, H, W) float32 in pieces the file can take, and how many images of each are real."""
        step = self.metadata.batch or max(len(batch), 1)
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            pixels = np.zeros((self.metadata.batch or len(part), 3, *part.shape[1:3]), np.float32)
            pixels[: len(part)] = part.transpose(0, 3, 1, 2)
            yield pixels, len(part)

    def _run(self, pixels: np.ndarray, outputs: list[str], settings: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return list(self._session.run(outputs, {"images": pixels, **settings}))
        except Exception as error:  # onnxruntime raises classes of its own, made at run time
            raise ExportError(
                f"'{self.path}' cannot be run: {_first_line(error)}", "Export the model again."
            ) from error

    def _detections(self, pixels: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        """The detections of a file with NMS inside, or of a model that needs none."""
        values = {"confidence": getattr(postprocess, "confidence", 0.0)}
        if self.metadata.one_to_one:
            if not isinstance(postprocess, TopK):
                raise ConfigError(
                    f"'{self.path}' gives its best rows and cannot use {type(postprocess).__name__}.", _NO_NMS
                )
        elif isinstance(postprocess, Nms):
            _check_inside(self.path, postprocess, self.metadata.nms or {})
            values["iou"] = postprocess.iou
        else:
            raise ConfigError(f"'{self.path}' has NMS inside and cannot use {type(postprocess).__name__}.", _NO_NMS)
        settings = {name: np.array(value, np.float32) for name, value in values.items()}
        counts, boxes, scores, labels = self._run(pixels, ["count", "boxes", "scores", "labels"], settings)
        found = []
        for row, count in enumerate(counts.tolist()):
            kept = slice(0, min(max(int(count), 0), postprocess.limit or boxes.shape[1]))
            found.append((boxes[row, kept], scores[row, kept], labels[row, kept]))
        return found


def _check_inside(path: str, postprocess: Nms, inside: Mapping[str, Any]) -> None:
    """ConfigError where `postprocess` differs from the NMS inside the file in a setting that is built in."""
    if postprocess.kind != "iou":
        raise ConfigError(f"'{path}' has NMS inside, which is not of the kind '{postprocess.kind}'.", _NO_NMS)
    for setting in ("agnostic", "multi_label"):
        wanted = getattr(postprocess, setting)
        if wanted != inside[setting]:
            raise ConfigError(f"'{path}' has NMS inside, with {setting}={inside[setting]}, not {wanted}.", _NO_NMS)


def open_session(path: str, device: str | None = None, threads: int | None = None) -> Any:
    """An ONNX Runtime session; ExportError where the file is no ONNX model, ConfigError for a device it has not."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", f"Running '{path}'") from error
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ExportError(f"The model '{path}' {what}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise ExportError(f"The model '{path}' may not be read: permission denied.", "Change the file's permissions.")
    if not os.path.getsize(path):
        raise ExportError(f"The model '{path}' is empty (0 bytes).", "Download or export it again.")
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own, made at run time
        said = _first_line(error)
        if "Protobuf parsing failed" in said:
            said = "it is damaged, cut off, or no ONNX file."
        raise ExportError(
            f"'{path}' is not an ONNX model that can be run: {said}", "Download or export it again."
        ) from error


def exported_metadata(session: Any, path: str) -> ExportedMetadata | None:
    """The metadata of a file of `onelook export`; None for ONNX files of other origin. ExportError if damaged."""
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise ExportError(
            f"The description inside '{path}' is damaged: it is not UTF-8 text.", "Export it again."
        ) from None
    return None if text is None else ExportedMetadata.from_json(text, path)


def _providers(device: str | None, available: list[str]) -> list[Any]:
    name = "cpu" if device is None else str(device)
    if name == "cpu":
        return ["CPUExecutionProvider"]
    kind, _, index = name.partition(":")
    if name.isdecimal():
        kind, index = "cuda", name
    if kind != "cuda" or (index and not index.isdecimal()):
        raise ConfigError(f"There is no device '{name}' for ONNX files.", "Devices are cpu, cuda, cuda:1.")
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"There is no device '{name}': the installed ONNX Runtime runs on the CPU only.",
            "Use the device cpu, or install onnxruntime-gpu.",
        )
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _frame(metadata: ExportedMetadata, path: str) -> Resize:
    frame = _described(metadata.frame, {"Letterbox": Letterbox, "Stretch": Stretch}, path)
    assert isinstance(frame, Letterbox | Stretch)  # from_plain makes nothing else of a mapping with a type
    return frame


def _nms(plain: Mapping[str, Any] | None, path: str) -> Nms | None:
    nms = None if plain is None else _described(plain, {"Nms": Nms}, path)
    assert nms is None or isinstance(nms, Nms)  # as above
    return nms


def _described(plain: Mapping[str, Any], types: Mapping[str, type], path: str) -> object:
    try:
        return from_plain(plain, types)
    except UserError as error:
        raise ExportError(f"The description inside '{path}' is damaged: {error.message}", "Export it again.") from error


def _check_interface(session: Any, metadata: ExportedMetadata, path: str) -> None:
    """ExportError where the metadata does not match the graph, so that boxes would be wrong."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    wanted = {"boxes", "scores"} if metadata.outputs == "raw" else {"count", "boxes", "scores", "labels"}
    problem = ""
    if "images" not in inputs:
        problem = "the model has no input 'images'"
    elif not wanted <= outputs:
        problem = f"the model has no output '{sorted(wanted - outputs)[0]}'"
    elif inputs["images"].type != "tensor(float)":
        problem = f"its input is {inputs['images'].type}, not tensor(float)"
    else:
        batch, channels, *sides = inputs["images"].shape
        if channels != 3 or tuple(sides) != tuple(metadata.size):
            problem = f"its input has the shape {inputs['images'].shape}"
        elif isinstance(batch, int) and batch != metadata.batch:
            problem = f"its batch size is {batch}"
    if problem:
        raise ExportError(f"'{path}' does not fit its own description: {problem}.", "Export the model again.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
