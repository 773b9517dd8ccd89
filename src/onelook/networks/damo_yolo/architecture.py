"""Architecture and the seven published models of DAMO-YOLO (Xu et al. 2022, arXiv 2211.15444)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.layers.conv import ConvStyle
from onelook.networks.damo_yolo.backbone import SearchedBackbone
from onelook.networks.damo_yolo.mae_nas import (
    MAE_CSP_L,
    MAE_CSP_M,
    MAE_RESNET_S,
    MAE_RESNET_T,
    MOBILE_NL,
    MOBILE_NM,
    MOBILE_NS,
)
from onelook.networks.damo_yolo.official import official_names
from onelook.networks.damo_yolo.rep_gfpn import RepGfpn, initialise_separable
from onelook.networks.damo_yolo.zero_head import ZeroHead
from onelook.networks.detector import Detector, OfficialFile, PixelFormat, Pixels
from onelook.networks.published import Published, Variant
from onelook.networks.structure import Structure

RAW_RGB = PixelFormat()
# Of weights released before v0.3.0: the aspect ratio is kept, with black padding right and bottom.
LEGACY_FRAME = Letterbox(fill=0, anchor="corner")
_LEGACY_ROWS = 81  # of their class layers: COCO's classes, and one unused


@dataclass(frozen=True)
class DamoYolo:
    """A DAMO-YOLO network.

    backbone: a structure, from MAE-NAS or written by hand.  neck, head: their settings.  size: (height, width) that the
    weights are evaluated at.
    """

    backbone: Structure
    neck: RepGfpn
    head: ZeroHead = ZeroHead()
    num_classes: int = 80
    size: tuple[int, int] = (640, 640)
    frame: Resize = Stretch()
    pixels: PixelFormat = RAW_RGB

    provides: ClassVar[frozenset[str]] = frozenset({"bins", "anchor-free"})
    multi_label: ClassVar[bool] = True  # every class of a prior above the threshold is a detection (official code)

    def build(self) -> Detector:
        """Builds the detector in training form, initialised as published."""
        style = ConvStyle(self.neck.activation)
        backbone = SearchedBackbone(self.backbone, style)
        neck = self.neck.build(backbone, style)
        initialise_separable(neck)
        head = self.head.build(neck, self.num_classes, replace(style, activation=self.neck.activation))
        detector = Detector(Pixels(self.pixels), backbone, neck, head)
        detector.architecture = self
        return detector

    def scaled(self, *, depth: float = 1.0, width: float = 1.0) -> DamoYolo:
        """Returns a smaller or larger network of the same form: numbers of channels and blocks times the factors.

        Channels become multiples of 8, at least 8; a stage has at least one block.
        """

        def channels(count: int) -> int:
            return max(8, round(count * width / 8) * 8)

        stages = tuple(
            replace(
                stage,
                outputs=channels(stage.outputs),
                bottleneck=channels(stage.bottleneck),
                depth=max(1, round(stage.depth * depth)),
            )
            for stage in self.backbone.stages
        )
        low, middle, high = (channels(count) for count in self.neck.channels)
        return replace(
            self,
            backbone=replace(self.backbone, stem=channels(self.backbone.stem), stages=stages),
            neck=replace(self.neck, channels=(low, middle, high), depth=self.neck.depth * depth),
        )

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to those of the official repository, one to one, for the training form."""
        with torch.device("meta"):
            return official_names(self.build().state_dict(), csp=self.backbone.csp)

    def official_file(
        self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], kinds: frozenset[str]
    ) -> OfficialFile:
        """Reads a file; from weights older than v0.3.0 removes the unused class, and sets their letterbox.

        An architecture with `spare_class` keeps it.
        """
        rows = {name for name in tensors if name.startswith("head.gfl_cls.")}
        old = rows and all(tensors[name].dim() and len(tensors[name]) == _LEGACY_ROWS for name in rows)
        if self.head.spare_class or not old:
            return OfficialFile(self, dict(tensors))
        kept = {name: tensor[: _LEGACY_ROWS - 1] if name in rows else tensor for name, tensor in tensors.items()}
        return OfficialFile(replace(self, frame=LEGACY_FRAME), kept)


_NANO_HEAD = ZeroHead(bins=8, kernel=1)
_NANO_SIZE = (416, 416)


def _nano_neck(*channels: int) -> RepGfpn:
    low, middle, high = channels
    return RepGfpn((low, middle, high), depth=0.5, activation="silu", depthwise=True)


_TABLE: tuple[tuple[str, DamoYolo, float, str], ...] = (
    # name, architecture, AP on COCO val2017 of the released weights (without distillation), their file
    (
        "damo-yolo-ns",
        DamoYolo(MOBILE_NS, _nano_neck(40, 80, 160), _NANO_HEAD, size=_NANO_SIZE),
        32.3,
        "ckpt/before_distill/damoyolo_nano_small.pth",
    ),
    (
        "damo-yolo-nm",
        DamoYolo(MOBILE_NM, _nano_neck(64, 128, 256), _NANO_HEAD, size=_NANO_SIZE),
        38.2,
        "ckpt/before_distill/damoyolo_nano_middle.pth",
    ),
    (
        "damo-yolo-nl",
        DamoYolo(MOBILE_NL, _nano_neck(80, 160, 320), _NANO_HEAD, size=_NANO_SIZE),
        40.5,
        "ckpt/before_distill/damoyolo_nano_large.pth",
    ),
    (
        "damo-yolo-t",
        DamoYolo(MAE_RESNET_T, RepGfpn((64, 128, 256))),
        42.0,
        "clean_model_0317/damoyolo_tinynasL20_T_420.pth",
    ),
    (
        "damo-yolo-s",
        DamoYolo(MAE_RESNET_S, RepGfpn((128, 256, 512), hidden=0.75)),
        46.0,
        "clean_model_0317/damoyolo_tinynasL25_S_460.pth",
    ),
    (
        "damo-yolo-m",
        DamoYolo(MAE_CSP_M, RepGfpn((128, 256, 512), depth=1.5, activation="silu")),
        49.2,
        "clean_model_0317/damoyolo_tinynasL35_M_492.pth",
    ),
    (
        "damo-yolo-l",
        DamoYolo(MAE_CSP_L, RepGfpn((128, 256, 512), depth=2.0, activation="silu")),
        50.8,
        "clean_model_0317/damoyolo_tinynasL45_L_508.pth",
    ),
)
# The authors' addresses, as published; they no longer answer.
_RELEASE = "https://idstcv.oss-cn-zhangjiakou.aliyuncs.com/DAMO-YOLO/release_model/"
VARIANTS = tuple(
    Variant(name, "DAMO-YOLO", architecture, Published(ap), file.rpartition("/")[2], "Apache-2.0", _RELEASE + file)
    for name, architecture, ap, file in _TABLE
)
