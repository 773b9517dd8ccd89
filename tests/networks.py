"""Detectors with the deterministic weights of the reference: every tensor is a function of its official name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.networks.build import build
from onelook.networks.classifier import Classification
from onelook.networks.damo_yolo.architecture import LEGACY_FRAME, DamoYolo
from onelook.networks.detector import Detector
from onelook.networks.yolov4.architecture import Yolov4
from onelook.networks.yolov7.architecture import Yolov7
from onelook.networks.yolox.architecture import Yolox
from shared import SHARED, fill_module, reference


def before_v030(model: DamoYolo) -> DamoYolo:
    """The same network for weights older than v0.3.0: one more class output, and a letterbox."""
    return replace(model, head=replace(model.head, spare_class=True), frame=LEGACY_FRAME)


def narrow(model: Any) -> Any:
    """The same architecture with few channels and three classes."""
    if isinstance(model, Yolox):
        return replace(model, depth=0.1, width=0.0625, num_classes=3, size=(64, 64))
    if isinstance(model, Yolov4):
        return replace(model, depth=0.1, width=0.125, num_classes=3, size=(64, 64))
    if isinstance(model, Yolov7):
        return replace(model, width_multiple=0.0625 * model.width_multiple, num_classes=3, size=(64, 64))
    if isinstance(model, DamoYolo):
        stages = tuple(replace(stage, outputs=8, bottleneck=8) for stage in model.backbone.stages)
        low, middle, high = (width // 16 for width in model.neck.channels)
        neck = replace(model.neck, channels=(low, middle, high))
        backbone = replace(model.backbone, stem=8, stages=stages)
        return replace(model, backbone=backbone, neck=neck, num_classes=3, size=(64, 64))
    if isinstance(model, Classification):
        return replace(model, network=narrow(model.network), num_classes=3, size=(64, 64))
    raise TypeError(f"no narrow {type(model).__name__}")


@cache
def manifest(family: str) -> dict[str, Any]:
    """The manifest of a family, by model; empty where there is no reference."""
    return json.loads((reference(family) / "manifest.json").read_text()) if SHARED is not None else {}


def goldens(family: str) -> list[str]:
    """The models of a family whose golden outputs are there."""
    return [name for name in manifest(family) if golden_path(family, name).is_file()]


def golden_path(family: str, name: str) -> Path:
    return reference(family) / f"{name}.npz"


def filled_detector(name: str, statistics: dict[str, np.ndarray] | None = None, **build_options: Any) -> Detector:
    """The variant in training form and evaluation mode, filled by official names, with these batch-norm statistics."""
    fill = fill_module().fill
    detector = build(name, **build_options)
    assert detector.architecture is not None
    official = detector.architecture.official_names()
    state = {}
    for ours, tensor in detector.state_dict().items():
        theirs = official[ours]
        if theirs.endswith("num_batches_tracked"):
            state[ours] = tensor
        elif statistics is not None and theirs in statistics:
            state[ours] = torch.from_numpy(statistics[theirs])
        else:
            state[ours] = torch.from_numpy(np.asarray(fill(theirs, tuple(tensor.shape))))
    detector.load_state_dict(state)
    return detector.eval()


@dataclass(frozen=True)
class Golden:
    """One golden file: its arrays, and the input of the official network, (1, 3, H, W) in 0..1."""

    arrays: dict[str, np.ndarray]
    image: np.ndarray

    @staticmethod
    def load(family: str, name: str) -> Golden:
        entry = manifest(family)[name]
        with np.load(golden_path(family, name)) as file:
            arrays = {key: file[key] for key in file.files}
        return Golden(arrays, fill_module().image(f"{name}/eval", (1, 3, entry["height"], entry["width"]), 1.0))
