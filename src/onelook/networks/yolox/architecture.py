"""Architecture and the seven published models of YOLOX (Ge et al. 2021, arXiv 2107.08430)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from onelook.augment.letterbox import Letterbox, Resize
from onelook.layers.conv import ConvStyle
from onelook.networks.branched_structure import DarknetStage
from onelook.networks.detector import Backbone, Detector, Neck, PixelFormat, Pixels
from onelook.networks.published import Published, Variant
from onelook.networks.yolox.backbone import CspDarknet, Darknet53, csp_darknet_sizes
from onelook.networks.yolox.decoupled_head import CoupledLevel, DecoupledLevel
from onelook.networks.yolox.head import Anchors, YoloxHead
from onelook.networks.yolox.neck import Fpn, Pafpn
from onelook.networks.yolox.official import official_names

# The nine anchors of YOLOv3 (sec. 2.3), clustered on COCO at 416 pixels.
YOLOV3_ANCHORS: Anchors = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
CORNER_LETTERBOX = Letterbox()
RAW_BGR = PixelFormat(order="bgr")
# For weights released before August 2021 (official "legacy" files): Yolox(..., pixels=NORMALISED_RGB).
NORMALISED_RGB = PixelFormat(divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Yolox:
    """A YOLOX network, or one of the networks that the paper compares it with.

    depth, width: factors on the repeats and channels of YOLOX-L, truncated or rounded to whole numbers, not to
    multiples of 8 (Darknet-53 is published with 1 only).  depthwise: separable convolutions in place of every 3x3
    (nano).  size: (height, width) that the weights are evaluated at.

    head, anchors, one_to_one: the steps of table 2.  head: "coupled" is YOLOv3's.  anchors: (width, height) of the
    anchor boxes in pixels, the same number for each of the three levels; None for an anchor-free head.  one_to_one:
    whether the head has a branch that selects one prior for each object, so that no NMS is needed.

    stem, stages: channels of the stem, and the four stages, of a CSPDarknet with sizes of its own (`onelook search`);
    without them both factors decide. Those still decide of neck and head.
    """

    depth: float = 1.0
    width: float = 1.0
    depthwise: bool = False
    backbone: Literal["csp_darknet", "darknet53"] = "csp_darknet"
    activation: str = "silu"
    num_classes: int = 80
    size: tuple[int, int] = (640, 640)
    frame: Resize = CORNER_LETTERBOX
    pixels: PixelFormat = RAW_BGR
    head: Literal["decoupled", "coupled"] = "decoupled"
    anchors: Anchors | None = None
    one_to_one: bool = False
    stem: int | None = None
    stages: tuple[DarknetStage, ...] = ()

    def __post_init__(self) -> None:
        if (self.stem is None) != (not self.stages) or len(self.stages) not in (0, 4):
            raise ValueError("a CSPDarknet with sizes of its own has channels of the stem, and four stages")
        if self.stages and self.backbone != "csp_darknet":
            raise ValueError(f"the backbone '{self.backbone}' has no stages of its own")
        if self.anchors is not None and (len(self.anchors) != 3 or len(set(map(len, self.anchors))) != 1):
            raise ValueError("anchors are (width, height) pairs, the same number for each of the three levels")

    @property
    def provides(self) -> frozenset[str]:
        """What the head provides besides boxes and classes."""
        kind = {"cell offsets", "anchor-free"} if self.anchors is None else {"anchors"}
        return frozenset({"objectness", *kind, *(("one to one",) if self.one_to_one else ())})

    def build(self) -> Detector:
        """Builds the detector in training form, initialised as published: PyTorch's defaults, nothing pretrained."""
        style = ConvStyle(self.activation, self.depthwise)
        backbone, neck = self._features(style)
        kind = DecoupledLevel if self.head == "decoupled" else CoupledLevel
        hidden, anchors = int(256 * self.width), 1 if self.anchors is None else len(self.anchors[0])
        levels = [
            kind(inputs, hidden, self.num_classes, style, anchors=anchors, selects=self.one_to_one)
            for inputs in neck.channels
        ]
        head = YoloxHead(levels, neck.strides, self.num_classes, self.anchors)
        detector = Detector(Pixels(self.pixels), backbone, neck, head)
        detector.architecture = self
        return detector

    def _features(self, style: ConvStyle) -> tuple[Backbone, Neck]:
        if self.backbone == "darknet53":
            darknet = Darknet53(style, self.depth, self.width)
            return darknet, Fpn(darknet, style)
        repeats = round(3 * self.depth)
        channels, stages = self.csp_darknet_sizes
        csp_darknet = CspDarknet(channels, stages, style)
        return csp_darknet, Pafpn(csp_darknet, repeats, style)

    @property
    def csp_darknet_sizes(self) -> tuple[int, tuple[DarknetStage, ...]]:
        """Channels of the stem, and the stages, of the CSPDarknet."""
        if self.stem is not None:
            return self.stem, self.stages
        channels = int(64 * self.width)
        return channels, csp_darknet_sizes(channels, max(round(3 * self.depth), 1))

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to those of the official repository, one to one, for the training form.

        Parts that the repository does not have (coupled levels, selectors) keep our names.
        """
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
