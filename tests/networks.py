"""Detectors with the deterministic weights of the reference: every tensor is a function of its official name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onelook.models.build import build
from onelook.models.detector import Detector
from shared import SHARED, fill_module, reference


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
    """One golden file: its arrays, and the image as the official network sees it, (1, 3, H, W) in 0..1."""

    arrays: dict[str, np.ndarray]
    image: np.ndarray

    @staticmethod
    def load(family: str, name: str) -> Golden:
        entry = manifest(family)[name]
        with np.load(golden_path(family, name)) as file:
            arrays = {key: file[key] for key in file.files}
        return Golden(arrays, fill_module().image(f"{name}/eval", (1, 3, entry["height"], entry["width"]), 1.0))
