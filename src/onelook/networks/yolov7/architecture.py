"""Architecture and the eight published models of YOLOv7 (Wang et al. 2022, arXiv 2207.02696)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from onelook.augment.letterbox import Letterbox, Resize
from onelook.layers.conv import ConvStyle
from onelook.networks.branched_structure import Downsample, ElanStage, ElanStem
from onelook.networks.detector import Detector, OfficialFile, PixelFormat, Pixels
from onelook.networks.published import Published, Variant
from onelook.networks.yolov7.backbone import ElanBackbone
from onelook.networks.yolov7.elan import ElanChain
from onelook.networks.yolov7.head import Anchors, Yolov7Head
from onelook.networks.yolov7.neck import ElanNeck, NeckLevel
from onelook.networks.yolov7.official import official_names, stated_width, without_constants
from onelook.ops.nms import Nms

_ACTIVATIONS = {"silu": "SiLU", "leaky_relu": "LeakyReLU", "relu": "ReLU", "mish": "Mish"}  # as torch calls them

CENTRED_LETTERBOX = Letterbox(anchor="centre", rounding="round")
RGB_FRACTIONS = PixelFormat(divisor=255.0)

TINY_ANCHORS: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
P5_ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
P6_ANCHORS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


@dataclass(frozen=True)
class Yolov7:
    """A YOLOv7 network.

    stem: two or four 3x3 convolutions, or space-to-depth, to stride 4.  stages: channels of the backbone's stages; the
    second is the finest level of the neck's input.  neck: channels of its levels, finest first.
    depth: number of 3x3 convolutions in the chain of every ELAN.  width: factor on the channels of all layers between
    ELANs. The two are compound scaling (fig. 3c), from models of depth 4: x is 1.5 and 1.25.
    step, neck_step: every step-th 3x3 of a chain is concatenated.  neck_block, neck_inner: channels of an ELAN's 1x1 in
    the neck relative to its level at width 1, and of its 3x3 relative to its 1x1.
    down: the downsampling block (`downsample.downsample`); "pool" in the backbone is "conv" in the neck.
    copies: number of parallel ELANs, two in E-ELAN.  pooling, lead: the kind of pyramid pooling, and of the
    convolutions before the head.  auxiliary: width of the auxiliary head's convolutions relative to the lead's, None
    without that head.  partial_auxiliary: whether it reads only the last of the `copies`.  implicit: whether the head
    has implicit knowledge.  rep, rep_identity: positions of RepConvs in all chains (`elan.ElanChain`).
    width_multiple: factor on every channel count, rounded up to multiples of 8: narrower networks, none published.
    size: (height, width) that the weights are evaluated at.
    """

    stem: ElanStem
    stages: tuple[ElanStage, ...]
    neck: tuple[int, ...]
    anchors: Anchors
    depth: int = 4
    width: float = 1.0
    step: int = 2
    neck_step: int = 1
    neck_block: float = 1.0
    neck_inner: float = 0.5
    down: Downsample = "both"
    copies: int = 1
    pooling: Literal["sppcspc", "light"] = "sppcspc"
    lead: Literal["conv", "rep"] = "conv"
    auxiliary: float | None = None
    partial_auxiliary: bool = False
    implicit: bool = True
    rep: tuple[int, ...] = ()
    rep_identity: Literal["planned", "always", "never"] = "planned"
    width_multiple: float = 1.0
    activation: str = "silu"
    num_classes: int = 80
    size: tuple[int, int] = (640, 640)
    frame: Resize = CENTRED_LETTERBOX
    pixels: PixelFormat = RGB_FRACTIONS

    multi_label: ClassVar[bool] = True
    # As published: at most 300 detections of the best 30,000 candidates; evaluation uses every class of a row, and
    # clips boxes to the image.
    detecting: ClassVar[Nms] = Nms(limit=300, pool=30_000)
    evaluating: ClassVar[Nms] = Nms(multi_label=True, limit=300, pool=30_000, clip=True)

    @property
    def provides(self) -> frozenset[str]:
        provided = {"objectness", "anchors"}
        return frozenset(provided if self.auxiliary is None else provided | {"auxiliary"})

    def build(self) -> Detector:
        """Builds the detector in training form, initialised as published: PyTorch's defaults, nothing pretrained."""
        style = ConvStyle(self.activation)
        chain = ElanChain(self.depth, self.step, self.rep, self.rep_identity)
        stages = tuple(
            ElanStage(self._between(stage.entry), self._inside(stage.block), self._between(stage.output), stage.depth)
            for stage in self.stages
        )
        backbone = ElanBackbone(self.stem, stages, chain=chain, down=self.down, style=style, copies=self.copies)
        neck = ElanNeck(
            backbone,
            [self._level(channels) for channels in self.neck],
            replace(chain, step=self.neck_step),
            "conv" if self.down == "pool" else self.down,
            style,
            pooling=self.pooling,
            lead=self.lead,
            copies=self.copies,
            partial=self.partial_auxiliary,
        )
        head = Yolov7Head(neck, self.num_classes, self.anchors, implicit=self.implicit)
        detector = Detector(Pixels(self.pixels), backbone, neck, head)
        detector.architecture = self
        return detector

    def _level(self, channels: int) -> NeckLevel:
        lead = 2 * channels * self.width
        return NeckLevel(
            width=self._between(channels),
            block=self._inside(channels * self.neck_block),
            inner=self._inside(channels * self.neck_block * self.neck_inner),
            lead=self._inside(lead),
            auxiliary=0 if self.auxiliary is None else self._inside(lead * self.auxiliary),
        )

    def _between(self, channels: float) -> int:
        """Returns the channels of a layer between ELANs."""
        return self._inside(channels * self.width)

    def _inside(self, channels: float) -> int:
        """Returns the channels inside an ELAN, which compound scaling does not change."""
        if self.width_multiple == 1:
            return round(channels)
        return math.ceil(round(channels) * self.width_multiple / 8) * 8

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to those of the official repository, one to one, for the training form."""
        with torch.device("meta"):
            return official_names(self.build())

    def official_file(
        self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], kinds: frozenset[str]
    ) -> OfficialFile | None:
        """Returns this network with the anchors and width of the file; None if the file has another activation."""
        used = {name for name, kind in _ACTIVATIONS.items() if f"torch.nn.modules.activation.{kind}" in kinds}
        if used and self.activation not in used:
            return None
        levels = 0 if self.auxiliary is None else len(self.neck)
        kept, anchors = without_constants(tensors, levels)
        found = replace(self, width_multiple=stated_width(settings))
        if anchors is not None and len(anchors) == len(self.neck) and bool((anchors > 0).all()):
            levels_of_file = anchors.tolist()
            found = replace(found, anchors=tuple(tuple((w, h) for w, h in level) for level in levels_of_file))
        return OfficialFile(found, kept)


TINY = Yolov7(
    stem="two",
    stages=(ElanStage(64, 32, 64), ElanStage(64, 64, 128), ElanStage(128, 128, 256), ElanStage(256, 256, 512)),
    neck=(64, 128, 256),
    anchors=TINY_ANCHORS,
    depth=2,
    step=1,
    neck_block=0.5,
    neck_inner=1.0,
    down="pool",
    pooling="light",
    activation="leaky_relu",
    size=(416, 416),
)
YOLOV7 = Yolov7(
    stem="four",
    stages=(ElanStage(128, 64, 256), ElanStage(256, 128, 512), ElanStage(512, 256, 1024), ElanStage(1024, 256, 1024)),
    neck=(128, 256, 512),
    anchors=P5_ANCHORS,
    lead="rep",
)
W6 = Yolov7(
    stem="space_to_depth",
    stages=(
        ElanStage(128, 64, 128),
        ElanStage(256, 128, 256),
        ElanStage(512, 256, 512),
        ElanStage(768, 384, 768),
        ElanStage(1024, 512, 1024),
    ),
    neck=(128, 256, 384, 512),
    anchors=P6_ANCHORS,
    down="conv",
    auxiliary=1.25,
    size=(1280, 1280),
)
X = replace(YOLOV7, depth=6, width=1.25, neck_step=2, neck_inner=1.0, lead="conv")
E6 = replace(W6, depth=6, width=1.25, down="down_c", auxiliary=1.0)
D6 = replace(E6, depth=8, width=1.5)
E6E = replace(E6, copies=2, partial_auxiliary=True)

_RELEASE = "https://github.com/WongKinYiu/yolov7/releases/download/v0.1/"
_TABLE: tuple[tuple[str, Yolov7, float, str | None], ...] = (
    # name, architecture, AP on COCO val2017 at its size (paper, tables 1 and 2), file of the released weights
    ("yolov7-tiny", TINY, 35.2, "yolov7-tiny.pt"),
    ("yolov7-tiny-silu", replace(TINY, activation="silu", size=(640, 640)), 38.7, None),
    ("yolov7", YOLOV7, 51.2, "yolov7.pt"),
    ("yolov7x", X, 52.9, "yolov7x.pt"),
    ("yolov7-w6", W6, 54.6, "yolov7-w6.pt"),
    ("yolov7-e6", E6, 55.9, "yolov7-e6.pt"),
    ("yolov7-d6", D6, 56.3, "yolov7-d6.pt"),
    ("yolov7-e6e", E6E, 56.8, "yolov7-e6e.pt"),
)
VARIANTS = tuple(
    Variant(name, "YOLOv7", architecture, Published(ap), file, "GPL-3.0", None if file is None else _RELEASE + file)
    for name, architecture, ap, file in _TABLE
)
