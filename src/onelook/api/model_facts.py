"""What is known of a model without running it: the built-in model that it is, its cost, its published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from onelook.config import from_plain
from onelook.errors import ConfigError
from onelook.networks.coco_names import COCO_CLASSES
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture, Detector
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import ARCHITECTURE_TYPES, VARIANTS
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.recipes.records import printed_rows
from onelook.report.comparison import PublishedFigures
from onelook.weights.identify import model_name
from onelook.weights.own_format import limited_parameters
from onelook.weights.problems import UnreadableFile

_MOST_TENSORS = 5000  # of a network that an exported file describes; the largest built-in one has some 1,300


@dataclass(frozen=True)
class ModelFacts:
    """variant: "" for no built-in model.  parameters, gflops: of the deploy form; None where they are unknown."""

    variant: str
    parameters: int | None
    gflops: float | None


def is_variant(name: str) -> bool:
    """Whether this is the name of a built-in model."""
    return name in VARIANTS


def model_facts(runtime: Any) -> ModelFacts:
    """The facts of the model that a runtime runs. An exported file's network is built from its description."""
    if isinstance(runtime, ExportedRuntime):
        name = runtime.metadata.model
        architecture: object
        try:
            architecture = from_plain(runtime.metadata.architecture, ARCHITECTURE_TYPES)
        except ConfigError:
            architecture = None
    else:
        detector: Detector = runtime.detector
        architecture = detector.architecture
        name = "" if detector.architecture is None else model_name(detector.architecture)
    parameters, gflops = _cost(architecture, runtime.size)
    return ModelFacts(name if name in VARIANTS else "", parameters, gflops)


def _cost(architecture: object, size: tuple[int, int]) -> tuple[int | None, float | None]:
    """Parameters and GFLOPs; None for what is no architecture, or cannot be built."""
    if not isinstance(architecture, Architecture):
        return None, None
    try:
        with torch.device("meta"), limited_parameters(_MOST_TENSORS):  # shapes without values
            deployed = deploy(architecture.build())
            return count_parameters(deployed), count_gflops(deployed, size)
    except (ConfigError, UnreadableFile, TypeError, ValueError, RuntimeError, ArithmeticError):
        return None, None


def published_figures(
    variant: str, size: tuple[int, int], model_names: Sequence[str], data_names: Sequence[str]
) -> PublishedFigures | None:
    """What is published of a model; None for other classes than COCO's, and other input sizes (height, width)."""
    same = set(model_names) == set(data_names) == set(COCO_CLASSES)
    if variant not in VARIANTS or not same or size != VARIANTS[variant].architecture.size:
        return None
    published = VARIANTS[variant].published
    rows = tuple(
        {"source": table.source, "setting": table.setting, "cells": dict(zip(table.columns, row))}
        for table, row in printed_rows(variant)
        if not table.name.endswith(("-text", "-files"))
    )
    if published is None:
        return PublishedFigures(None, "", rows) if rows else None
    return PublishedFigures(published.ap / 100, published.split, rows)
