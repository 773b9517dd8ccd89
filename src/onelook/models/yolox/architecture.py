"""YOLOX as a value, and its seven published models as rows of numbers (Ge et al. 2021, arXiv 2107.08430)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from onelook.augment.frame import Frame, Letterbox
from onelook.layers.conv import ConvStyle
from onelook.models.detector import Backbone, Detector, Neck, PixelFormat, Pixels
from onelook.models.published import Published, Variant
from onelook.models.yolox.backbone import CspDarknet, Darknet53
from onelook.models.yolox.head import DecoupledHead
from onelook.models.yolox.neck import Fpn, Pafpn
from onelook.models.yolox.official import official_names

CORNER_LETTERBOX = Letterbox()
RAW_BGR = PixelFormat(order="bgr")
# Weights released before August 2021 (official "legacy" files).
NORMALISED_RGB = PixelFormat(divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Yolox:
    """A YOLOX network.

    depth, width: factors on the repeats and channels of the largest published form, both truncated or rounded to whole
    numbers, not to multiples of 8; Darknet-53 has no factors, its head has `width`.  depthwise: separable convolutions
    wherever a 3x3 is (nano).  size: (height, width) that the weights are evaluated at.
    """

    depth: float = 1.0
    width: float = 1.0
    depthwise: bool = False
    backbone: Literal["csp_darknet", "darknet53"] = "csp_darknet"
    activation: str = "silu"
    num_classes: int = 80
    size: tuple[int, int] = (640, 640)
    frame: Frame = CORNER_LETTERBOX
    pixels: PixelFormat = RAW_BGR

    gives: ClassVar[frozenset[str]] = frozenset({"objectness", "cell offsets"})

    def build(self) -> Detector:
        """The detector in training form, initialised as published: nothing pretrained, PyTorch's defaults."""
        style = ConvStyle(self.activation, self.depthwise)
        backbone, neck = self._features(style)
        head = DecoupledHead(neck, int(256 * self.width), self.num_classes, style)
        detector = Detector(Pixels(self.pixels), backbone, neck, head)
        detector.architecture = self
        return detector

    def _features(self, style: ConvStyle) -> tuple[Backbone, Neck]:
        if self.backbone == "darknet53":
            darknet = Darknet53(style)
            return darknet, Fpn(darknet, style)
        repeats = round(3 * self.depth)
        csp_darknet = CspDarknet(int(64 * self.width), max(repeats, 1), style)
        return csp_darknet, Pafpn(csp_darknet, repeats, style)

    def official_names(self) -> dict[str, str]:
        """Our tensor name -> the official repository's, one to one, for the training form."""
        with torch.device("meta"):
            return official_names(self.build().state_dict(), self.backbone)


_RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/"
_TABLE: tuple[tuple[str, Yolox, float, str], ...] = (
    # name, architecture, AP on COCO val2017 of the released weights, their file
    ("yolox-nano", Yolox(0.33, 0.25, depthwise=True, size=(416, 416)), 25.8, "yolox_nano.pth"),
    ("yolox-tiny", Yolox(0.33, 0.375, size=(416, 416)), 32.8, "yolox_tiny.pth"),
    ("yolox-s", Yolox(0.33, 0.50), 40.5, "yolox_s.pth"),
    ("yolox-m", Yolox(0.67, 0.75), 46.9, "yolox_m.pth"),
    ("yolox-l", Yolox(1.00, 1.00), 49.7, "yolox_l.pth"),
    ("yolox-x", Yolox(1.33, 1.25), 51.1, "yolox_x.pth"),
    ("yolox-darknet53", Yolox(backbone="darknet53", activation="leaky_relu"), 47.7, "yolox_darknet.pth"),
)
VARIANTS = tuple(
    Variant(name, "YOLOX", architecture, Published(ap), file, "Apache-2.0", _RELEASE + file)
    for name, architecture, ap, file in _TABLE
)


def legacy(architecture: Yolox) -> Yolox:
    """The same network for weights that expect normalised RGB pixels."""
    return replace(architecture, pixels=NORMALISED_RGB)
