"""What the server asks of a runtime beside detections: its tensors by name, for the open inference protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onelook.predict.runtime import Runtime
from onelook.predict.runtimes.exported import ExportedRuntime

FAMILIES = {"Yolov4": "YOLOv4", "Yolox": "YOLOX", "Yolov7": "YOLOv7", "DamoYolo": "DAMO-YOLO"}
"""The families by the types of their architectures. A table of its own, because the variants need PyTorch."""


@runtime_checkable
class RawRuntime(Protocol):
    """A runtime that also returns what the network itself computes: PyTorch's."""

    num_classes: int

    def raw(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a network. datatype: as the protocol names it.  shape: -1 is a free side."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class NetworkFacts:
    """What a network is: for `GET /v1/models` and the protocol's metadata.

    family: as its paper calls it.  variant: the published model that it is, such as "yolox-nano"; the architecture's
    name where it is none.
    """

    family: str
    variant: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    runtime: str
    platform: str
    precision: str
    threshold: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def facts_of(runtime: Runtime) -> NetworkFacts:
    """Describes a runtime."""
    metadata = runtime.metadata if isinstance(runtime, ExportedRuntime) else None
    height, width = runtime.size
    batch = -1 if metadata is None or metadata.batch is None else metadata.batch
    inputs = [TensorSpec("images", "FP32", (batch, 3, height, width))]
    if metadata is not None and metadata.outputs == "detections":
        names = ("confidence",) if metadata.one_to_one else ("confidence", "iou")
        inputs += [TensorSpec(name, "FP32", (1,), optional=True) for name in names]
        outputs = [
            TensorSpec("count", "INT64", (batch,)),
            TensorSpec("boxes", "FP32", (batch, -1, 4)),
            TensorSpec("scores", "FP32", (batch, -1)),
            TensorSpec("labels", "INT64", (batch, -1)),
        ]
    else:
        num_classes = getattr(runtime, "num_classes", len(runtime.class_names))
        outputs = [TensorSpec("boxes", "FP32", (batch, -1, 4)), TensorSpec("scores", "FP32", (batch, -1, num_classes))]
    library = runtime.library if isinstance(runtime, ExportedRuntime) else "PyTorch"
    family, variant = _names(runtime)
    return NetworkFacts(
        family=family,
        variant=variant,
        size=(height, width),
        classes=tuple(runtime.class_names),
        runtime=library,
        platform=f"onelook_{library.split()[0].lower()}",
        precision=getattr(runtime, "precision", "float32"),
        threshold=float(getattr(runtime.postprocess, "confidence", 0.25)) or 0.25,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def run_network(runtime: Runtime, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The network's outputs of these names, exactly as the runtime computes them for this input alone."""
    if isinstance(runtime, ExportedRuntime):
        return runtime.run(outputs, feed)
    assert isinstance(runtime, RawRuntime)  # there are no other runtimes than exported files and PyTorch
    named = dict(zip(("boxes", "scores"), runtime.raw(feed["images"])))
    return [named[name] for name in outputs]


def _names(runtime: Runtime) -> tuple[str, str]:
    """The family and the variant."""
    if isinstance(runtime, ExportedRuntime):
        described: Any = runtime.metadata.architecture.get("type")
        variant = runtime.metadata.model
        kind = described if isinstance(described, str) else variant
        return FAMILIES.get(kind, kind), variant
    architecture: Any = getattr(getattr(runtime, "detector", None), "architecture", None)
    if architecture is None:
        return type(runtime).__name__, type(runtime).__name__
    kind = type(architecture).__name__
    from onelook.weights.identify import model_name  # of PyTorch, which runs this network

    return FAMILIES.get(kind, kind), model_name(architecture)
