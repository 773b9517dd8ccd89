"""The table of all named models (variants) of all families."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from onelook.augment.letterbox import Letterbox, Stretch
from onelook.errors import ConfigError, did_you_mean
from onelook.networks.branched_structure import DarknetStage, ElanStage
from onelook.networks.classifier import Classification
from onelook.networks.damo_yolo import architecture as damo_yolo
from onelook.networks.damo_yolo.rep_gfpn import RepGfpn
from onelook.networks.damo_yolo.zero_head import ZeroHead
from onelook.networks.detector import PixelFormat
from onelook.networks.model_file import SUFFIXES, read_model_file
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
            *(yolov7.Yolov7, DarknetStage, ElanStage),
            *(damo_yolo.DamoYolo, Structure, Stage, RepGfpn, ZeroHead),
        )
    },
)


def variant(name: str) -> Variant:
    """Returns the variant with this name, or the model of a model file.

    ConfigError with the nearest names for an unknown one, with file and line for a damaged file.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    if Path(name).suffix.lower() in SUFFIXES:
        return _of_file(Path(name))
    raise ConfigError(
        f"There is no model '{name}'.{did_you_mean(name, VARIANTS)}", "See the names with: onelook models"
    )


def _of_file(path: Path) -> Variant:
    found = read_model_file(path, ARCHITECTURE_TYPES)
    like = VARIANTS.get(found.like)
    if like is None or type(like.architecture) is not type(found.architecture):
        same = ", ".join(n for n, row in VARIANTS.items() if type(row.architecture) is type(found.architecture))
        raise ConfigError(
            f"{path}: 'like' is {found.like!r}, which is no model of the family.", f"Give one of: {same or 'none'}."
        )
    return Variant(found.name, like.family, found.architecture, None, None, like.licence, None, like=like.name)
