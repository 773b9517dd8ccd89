"""Maps our tensor names to those of the official YOLOv7 repository, which numbers layers in order of computation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from onelook.layers.focus import SpaceToDepth
from onelook.layers.rep_conv import RepConv
from onelook.networks.detector import Detector
from onelook.networks.renaming import renamed
from onelook.networks.yolov7.downsample import DownC, MaxPool, MpDownsample
from onelook.networks.yolov7.elan import Elan, ExtendedElan
from onelook.networks.yolov7.neck import ElanNeck, TopDownJoin
from onelook.networks.yolov7.sppcspc import LightSppCsp, SppCspc

# A layer of the official list: prefix of our parameter names, and renaming rules. None is a layer without parameters.
Rules = tuple[tuple[str, str], ...]
Layer = tuple[str, Rules] | None

# Our block -> its layers in the official list: names of its parts, and None for a layer without parameters (pooling,
# concatenation, upsampling, addition).
_PARTS: dict[type[nn.Module], tuple[str | None, ...]] = {
    Elan: ("around", "enter", "chain", None, "transition"),
    MpDownsample: (None, "pooled", "reduce", "strided", None),
    TopDownJoin: ("reduce", None, "lateral", None),
    LightSppCsp: ("around", "enter", None, None, None, None, "mix", None, "join"),
    MaxPool: (None,),
    SpaceToDepth: (None,),
}
# Blocks that are one layer in the official list too, with the names of their parts.
_REP = (
    (r"^spatial\.conv\.", "rbr_dense.0."),
    (r"^spatial\.bn\.", "rbr_dense.1."),
    (r"^point\.conv\.", "rbr_1x1.0."),
    (r"^point\.bn\.", "rbr_1x1.1."),
    (r"^skip\.", "rbr_identity."),
)
_DOWN_C = ((r"^keep\.", "cv1."), (r"^strided\.", "cv2."), (r"^pooled\.", "cv3."))
_SPPCSPC = (
    (r"^before\.0\.", "cv1."),
    (r"^around\.", "cv2."),
    (r"^before\.1\.", "cv3."),
    (r"^before\.2\.", "cv4."),
    (r"^after\.0\.", "cv5."),
    (r"^after\.1\.", "cv6."),
    (r"^join\.", "cv7."),
)
_LAYERS: dict[type[nn.Module], Rules] = {RepConv: _REP, DownC: _DOWN_C, SppCspc: _SPPCSPC}
_HEAD = (
    (r"^lead\.(\d)\.conv\.", r"m.\1."),
    (r"^lead\.(\d)\.add$", r"ia.\1.implicit"),
    (r"^lead\.(\d)\.multiply$", r"im.\1.implicit"),
    (r"^lead\.(\d)\.", r"m.\1."),
    (r"^auxiliary\.(\d)\.", r"m2.\1."),
)


def official_names(detector: Detector) -> dict[str, str]:
    """Maps our tensor names to the official ones, for a detector in training form."""
    places = [(index, *layer) for index, layer in enumerate(_layers(detector)) if layer is not None]
    found = {}
    for name in detector.state_dict():
        index, prefix, rules = next(place for place in places if name.startswith(place[1]))
        found[name] = f"model.{index}.{renamed(name.removeprefix(prefix), rules)}"
    return found


def _layers(detector: Detector) -> Iterator[Layer]:
    """Yields the layers of the official list, in order."""
    backbone, neck = detector.backbone, detector.neck
    assert isinstance(neck, ElanNeck)  # the only neck of this family
    for name, part in backbone.named_children():
        yield from _of(part, f"backbone.{name}")
    yield from _of(neck.pool, "neck.pool")
    for index, (route, block) in enumerate(zip(neck.routes, neck.top_down)):
        yield from _of(route, f"neck.routes.{index}")
        yield from _of(block, f"neck.top_down.{index}")
    for index, (down, block) in enumerate(zip(neck.downs, neck.bottom_up)):
        # In both repositories the lateral map is part of the downsampling block's own concatenation, if it has one.
        yield from _of(down, f"neck.downs.{index}")
        if not isinstance(down, MpDownsample):
            yield None
        yield from _of(block, f"neck.bottom_up.{index}")
    yield from _of(neck.lead, "neck.lead")
    yield from _of(neck.auxiliary, "neck.auxiliary")
    yield "head.", _HEAD


def _of(module: nn.Module, name: str) -> Iterator[Layer]:
    """Yields the official layers of one of our modules, in order."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        for child, part in module.named_children():
            yield from _of(part, f"{name}.{child}")
    elif isinstance(module, ExtendedElan):
        yield from _of(module.branches, f"{name}.branches")
        yield from (None for _ in module.branches[1:])
    elif type(module) in _PARTS:
        for place in _PARTS[type(module)]:
            yield from (None,) if place is None else _of(getattr(module, place), f"{name}.{place}")
    else:
        yield f"{name}.", _LAYERS.get(type(module), ())


_HEAD_LAYER = re.compile(r"model\.(\d+)\.((?:m|m2|ia|im)\.\d+\..+|anchors|anchor_grid)")
_WIDEST = 8.0


def without_constants(tensors: Mapping[str, Tensor], auxiliary_levels: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """Removes the anchors from the tensors and numbers the head as in the training form.

    Returns the tensors, and the anchors (L, A, 2) in pixels.  auxiliary_levels: of the training form. The deploy form
    lacks their layers, which come before the head, so its head has a smaller number; only the training form has tensors
    of an auxiliary head (`m2`).
    """
    head = {name: found for name in tensors if (found := _HEAD_LAYER.fullmatch(name))}
    shift = 0 if any(found[2].startswith("m2.") for found in head.values()) else auxiliary_levels
    kept, anchors = {}, None
    for name, tensor in tensors.items():
        if name not in head:
            kept[name] = tensor
        elif head[name][2] == "anchor_grid":
            anchors = tensor.float().flatten(1, -2) if tensor.dim() == 6 else None
        elif head[name][2] != "anchors":  # `anchors` are the same in cells
            kept[f"model.{int(head[name][1]) + shift}.{head[name][2]}"] = tensor
    return kept, anchors


def stated_width(settings: Mapping[str, Any]) -> float:
    """Returns the width multiple of a pickled network, 1 if it has no valid one."""
    width = settings.get("width_multiple", 1.0)
    known = isinstance(width, int | float) and not isinstance(width, bool) and 0 < width <= _WIDEST
    return float(width) if known else 1.0
