"""The table of all named models (variants) of all families."""

from __future__ import annotations

from types import MappingProxyType

from onelook.augment.letterbox import Letterbox, Stretch
from onelook.errors import ConfigError, did_you_mean
from onelook.networks.classifier import Classification
from onelook.networks.damo_yolo import architecture as damo_yolo
from onelook.networks.damo_yolo.rep_gfpn import RepGfpn
from onelook.networks.damo_yolo.zero_head import ZeroHead
from onelook.networks.detector import PixelFormat
from onelook.networks.published import Published, Variant
from onelook.networks.structure import Stage, Structure
from onelook.networks.yolov4 import architecture as yolov4
from onelook.networks.yolov7 import architecture as yolov7
from onelook.networks.yolox import architecture as yolox

__all__ = ["ARCHITECTURE_TYPES", "VARIANTS", "Published", "Variant", "variant"]

VARIANTS = MappingProxyType(
    {row.name: row for row in (*yolox.VARIANTS, *yolov4.VARIANTS, *yolov7.VARIANTS, *damo_yolo.VARIANTS)}
)

# All types that a stored architecture may contain: a weights file cannot construct any other type.
ARCHITECTURE_TYPES = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *(yolox.Yolox, yolov4.Yolov4, PixelFormat, Letterbox, Stretch, Classification),
            *(yolov7.Yolov7, yolov7.ElanStage),
            *(damo_yolo.DamoYolo, Structure, Stage, RepGfpn, ZeroHead),
        )
    },
)


def variant(name: str) -> Variant:
    """Returns the variant with this name; ConfigError with the nearest names for an unknown one."""
    if name not in VARIANTS:
        raise ConfigError(
            f"There is no model '{name}'.{did_you_mean(name, VARIANTS)}",
            f"Known models: {', '.join(VARIANTS)}.",
        )
    return VARIANTS[name]
