"""What runs a network: torch, or ONNX Runtime on an exported file. Both take the same batches and give the same.

Nothing here imports torch or onnxruntime until a backend of that kind is made.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.config import from_plain
from onelook.errors import ConfigError, ExportError, UsageError, UserError, missing_package
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.ops.nms import Nms, NmsKind, Postprocess, RawDetections, TopK

if TYPE_CHECKING:
    import torch

    from onelook.models.detector import Detector
    from onelook.models.tta import TestTimeAugmentation


class Backend(Protocol):
    """A network with all that must travel with it.

    size: (height, width) of its input.  frame: how images come into it.  class_names: by label; empty where unknown.
    select: how its output becomes detections unless something else is wanted.  evaluating: the same where a model is
    evaluated, as its published numbers were made.
    """

    size: tuple[int, int]
    frame: Resize
    class_names: tuple[str, ...]
    select: Postprocess
    evaluating: Postprocess

    def __call__(self, batch: np.ndarray, select: Postprocess) -> list[RawDetections]:
        """(B, H, W, 3) uint8 RGB framed images -> what `select` keeps of each, boxes in pixels of the input."""
        ...


def default_postprocess(*, one_to_one: bool, multi_label: bool) -> Postprocess:
    """How detections are made of what a model says: the best rows where it was trained one to one, else NMS."""
    return TopK(multi_label=multi_label) if one_to_one else Nms(multi_label=multi_label)


PostprocessKind = Literal["nms", "best", "diou", "soft"]


def postprocess_of_kind(kind: PostprocessKind, natural: Postprocess) -> Postprocess:
    """NMS of that kind or the best rows, for a model whose own way is `natural`."""
    multi_label = getattr(natural, "multi_label", False)
    if kind == "best":
        return TopK(multi_label=multi_label)
    kinds: dict[str, NmsKind] = {"nms": "iou", "diou": "diou", "soft": "gaussian"}
    if isinstance(natural, Nms):
        return replace(natural, kind=kinds[kind])
    return Nms(multi_label=multi_label, kind=kinds[kind])


def postprocess_steps_of(architecture: Any) -> tuple[Postprocess, Postprocess]:
    """How an architecture's output becomes detections when detecting, and when evaluated.

    An architecture may say so (`detecting`, `evaluating`); else both are natural to its `one_to_one` and `multi_label`.
    """
    natural = default_postprocess(
        one_to_one=getattr(architecture, "one_to_one", False), multi_label=getattr(architecture, "multi_label", False)
    )
    return getattr(architecture, "detecting", natural), getattr(architecture, "evaluating", natural)


class TorchBackend:
    """A detector in torch, on one device.

    detector: left as it is; a deployed copy runs (`deployed=False`: a plain copy, for measuring what deploying gives).
    size: (height, width) of the input, None for the architecture's; a multiple of the largest stride.  half: float16,
    on a GPU only.  tta: copies of every image that are looked at, too. The batch goes to the device as uint8, once, and
    only candidates come back.

    Raises ConfigError for a device that does not exist, a size that does not fit, half precision on a CPU.
    """

    def __init__(
        self,
        detector: Detector,
        device: str | torch.device | None = None,
        *,
        size: tuple[int, int] | None = None,
        half: bool = False,
        deployed: bool = True,
        tta: TestTimeAugmentation | None = None,
    ) -> None:
        import torch

        from onelook.models.deploy import deploy

        if detector.architecture is None:
            raise ConfigError("This detector does not say what it is.", "Make it with onelook.build().")
        self.device = find_device(device)
        if half and self.device.type == "cpu":
            raise ConfigError(
                "Half precision was asked for on a CPU, where it is slow.", "Use a GPU, or leave it away."
            )
        self.size = detector.architecture.size if size is None else size
        self.stride = max(detector.neck.strides)  # the network takes any multiples of it
        _check_multiple(self.size, self.stride)
        self.frame = detector.architecture.frame
        self.class_names = tuple(detector.class_names)
        self.num_classes = detector.architecture.num_classes
        self.select, self.evaluating = postprocess_steps_of(detector.architecture)
        self.tta = tta
        self._dtype = torch.float16 if half else torch.float32
        network = deploy(detector) if deployed else copy.deepcopy(detector).eval()
        # Images arrive with the channels last, so the network stays in that layout: nothing is reordered.
        network = network.to(self.device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detector: Detector = network.requires_grad_(False)

    def __call__(self, batch: np.ndarray, select: Postprocess) -> list[RawDetections]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(batch).to(self.device)
            images = pixels.permute(0, 3, 1, 2).to(self._dtype)
            if self.tta is not None:
                return select.batch(*self.tta(self.detector, images))
            predictions = self.detector(images)
            return select.batch(predictions.boxes, predictions.scores())


class OnnxBackend:
    """A file of `onelook export` in ONNX Runtime; all that it needs to know stands in the file. Needs no torch.

    device: "cpu", or "cuda" where ONNX Runtime has that provider; None is "cpu".  threads: of one run, None is ONNX
    Runtime's choice. A file with NMS inside takes confidence and IoU from `select`; its other settings are the file's,
    and a `select` that contradicts them is a ConfigError. A fixed batch size is filled up or cut into several runs.

    Raises ExportError for files that are damaged or were not exported by Onelook, MissingDependencyError without
    onnxruntime.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, *, threads: int | None = None) -> None:
        self.path = os.fspath(path)
        session = open_session(self.path, device, threads)
        metadata = exported_metadata(session, self.path)
        if metadata is None:
            raise ExportError(
                f"'{self.path}' was not exported by Onelook: it does not say what its inputs and outputs are.",
                "Export the model with `onelook export`, or, where it holds official weights, give the model's name "
                f"and --weights {self.path}.",
            )
        self.metadata = metadata
        self.size = (metadata.size[0], metadata.size[1])
        self.frame = _frame(metadata, self.path)
        self.class_names = metadata.names
        self.num_classes = metadata.num_classes
        natural = default_postprocess(one_to_one=metadata.one_to_one, multi_label=metadata.multi_label)
        self.select: Postprocess = _nms(metadata.detecting, self.path) or natural
        self.evaluating: Postprocess = _nms(metadata.evaluating, self.path) or natural
        if metadata.nms is not None and not metadata.one_to_one:
            inside = {name: metadata.nms[name] for name in ("confidence", "iou", "agnostic", "multi_label")}
            self.select = self.evaluating = Nms(**inside)
        self._session = session
        _check_interface(session, metadata, self.path)

    def __call__(self, batch: np.ndarray, select: Postprocess) -> list[RawDetections]:
        found: list[RawDetections] = []
        for part, count in self._parts(batch):
            if self.metadata.outputs == "raw":
                boxes, scores = self._run(part, ["boxes", "scores"], {})
                found += select.batch(boxes[:count], scores[:count])
            else:
                found += self._detections(part, select)[:count]
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

    def _detections(self, pixels: np.ndarray, select: Postprocess) -> list[RawDetections]:
        """What the NMS inside the file keeps, or the best rows of a model that needs none."""
        values = {"confidence": getattr(select, "confidence", 0.0)}
        if self.metadata.one_to_one:
            if not isinstance(select, TopK):
                raise ConfigError(f"'{self.path}' gives its best rows and cannot use {type(select).__name__}.", _NO_NMS)
        elif isinstance(select, Nms):
            _check_inside(self.path, select, self.metadata.nms or {})
            values["iou"] = select.iou
        else:
            raise ConfigError(f"'{self.path}' has NMS inside and cannot use {type(select).__name__}.", _NO_NMS)
        settings = {name: np.array(value, np.float32) for name, value in values.items()}
        counts, boxes, scores, labels = self._run(pixels, ["count", "boxes", "scores", "labels"], settings)
        found = []
        for row, count in enumerate(counts.tolist()):
            kept = slice(0, min(max(int(count), 0), select.limit or boxes.shape[1]))
            found.append((boxes[row, kept], scores[row, kept], labels[row, kept]))
        return found


def _check_inside(path: str, select: Nms, inside: Mapping[str, Any]) -> None:
    """ConfigError where `select` wants what the NMS inside the file does otherwise."""
    if select.kind != "iou":
        raise ConfigError(f"'{path}' has NMS inside, which is not of the kind '{select.kind}'.", _NO_NMS)
    for setting in ("agnostic", "multi_label"):
        wanted = getattr(select, setting)
        if wanted != inside[setting]:
            raise ConfigError(f"'{path}' has NMS inside, with {setting}={inside[setting]}, not {wanted}.", _NO_NMS)


_NO_NMS = "Export the model without --nms to choose this freely."


def open_session(path: str, device: str | None = None, threads: int | None = None) -> Any:
    """An ONNX Runtime session; ExportError where the file is no ONNX model, ConfigError for a device it has not."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "onnx", f"Running '{path}'") from error
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
    """What a file of `onelook export` says of itself; None for ONNX files of other origin. ExportError if damaged."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return None if text is None else ExportedMetadata.from_json(text, path)


def find_device(name: str | torch.device | None) -> torch.device:
    """The torch device of that name; None is the first GPU, or the CPU. ConfigError where there is no such device."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(name, str) and name.isdecimal():
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"There is no device '{name}'.", "Devices are cpu, cuda, cuda:1, mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            here = f"this machine has {count}" if count else "torch finds no CUDA GPU here"
            raise ConfigError(f"There is no device '{name}': {here}.", "Use --device cpu, or leave the device away.")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("There is no device 'mps' here.", "Use --device cpu, or leave the device away.")
    elif device.type != "cpu":
        raise ConfigError(f"The device '{name}' is not supported.", "Devices are cpu, cuda, cuda:1, mps.")
    return device


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
            "Use --device cpu, or install onnxruntime-gpu.",
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
    """The description must fit the graph, or boxes would be wrong without a sign."""
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


def _check_multiple(size: tuple[int, int], stride: int) -> None:
    for side in size:
        if side < stride or side % stride:
            below, above = side // stride * stride, (side // stride + 1) * stride
            near = f"{below} or {above}" if below > 0 else above
            raise UsageError(
                f"The input size {size[0]} x {size[1]} does not fit.", f"Use multiples of {stride}: {near}."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
