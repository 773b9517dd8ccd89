"""The metadata of a detector that is exported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onelook.config import to_plain
from onelook.errors import ExportError
from onelook.exported import ExportedMetadata
from onelook.exporting.target import ExportOptions
from onelook.networks.detector import Architecture, Detector
from onelook.networks.variants import VARIANTS
from onelook.ops.nms import Nms
from onelook.version import __version__


def describe(detector: Detector, options: ExportOptions) -> ExportedMetadata:
    """The metadata of a file with raw outputs. Raises a UserError for a size that does not fit the network."""
    architecture = architecture_of(detector)
    size = options.size or architecture.size
    detector.check_sides(*size)
    return replace(
        _metadata(detector, architecture),
        size=size,
        batch=None if options.dynamic else options.batch,
        precision="float16" if options.half else "float32",
    )


def architecture_of(detector: Detector) -> Architecture:
    """The architecture of a detector; ExportError where it has none."""
    if detector.architecture is None:
        raise ExportError(
            "A detector without an architecture cannot be exported: its frame and size are unknown.",
            "Make it with onelook.build(), or set `detector.architecture`.",
        )
    return detector.architecture


def _metadata(detector: Detector, architecture: Architecture) -> ExportedMetadata:
    plain: dict[str, Any] = to_plain(architecture)
    known = (row.name for row in VARIANTS.values() if to_plain(row.architecture) | _free(plain) == plain)
    return ExportedMetadata(
        model=next(known, type(architecture).__name__),
        names=detector.class_names,
        num_classes=architecture.num_classes,
        size=architecture.size,
        frame=to_plain(architecture.frame),
        outputs="raw",
        multi_label=getattr(architecture, "multi_label", False),
        nms=None,
        batch=None,
        precision="float32",
        architecture=plain,
        version=__version__,
        detecting=_own_postprocess(architecture, "detecting"),
        evaluating=_own_postprocess(architecture, "evaluating"),
    )


def _own_postprocess(architecture: Architecture, use: str) -> dict[str, Any] | None:
    """The NMS settings that an architecture has for one use ("detecting", "evaluating"), or None."""
    postprocess = getattr(architecture, use, None)
    return to_plain(postprocess) if isinstance(postprocess, Nms) else None


def _free(plain: dict[str, Any]) -> dict[str, Any]:
    """The settings that may differ from the published variant of the same name."""
    return {key: plain[key] for key in ("num_classes", "size", "frame", "pixels") if key in plain}
