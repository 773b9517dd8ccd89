"""Architecture and published models of YOLOv4 (Bochkovskiy et al. 2020, arXiv 2004.10934; Wang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from onelook.layers.conv import ConvStyle
from onelook.layers.weighted_sum import Normalization, Residual, residual_sum
from onelook.networks.branched_structure import DarknetStage
from onelook.networks.detector import Backbone, Detector, Neck, PixelFormat, Pixels
from onelook.networks.published import Published, Variant
from onelook.networks.yolov4.backbone import CspTiny
from onelook.networks.yolov4.bifpn import BiFpn
from onelook.networks.yolov4.csp_darknet53 import CspDarknet53, Unit, csp_darknet53_sizes
from onelook.networks.yolov4.csp_resnext50 import CspResnext50
from onelook.networks.yolov4.head import Anchors, Coordinates, Yolov4Head
from onelook.networks.yolov4.neck import Fusion, TinyFpn
from onelook.networks.yolov4.official import official_names
from onelook.networks.yolov4.pan import Attention, Context, Pan
from onelook.ops.nms import Nms

FRACTIONS = PixelFormat(divisor=255.0)
STRETCH = Stretch("linear_aligned")
LETTERBOX = Letterbox(128, "centre", rounding="whole", interpolation="linear_aligned")

# Pixels of the input, whatever its size; of 512 x 512 images, k-means on COCO (sec. 4.3, "optimized anchors").
ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
# The smallest of the six, (10, 14), belongs to no level, and (81, 82) to both: as published.
TINY_ANCHORS: Anchors = (((23, 27), (37, 58), (81, 82)), ((81, 82), (135, 169), (344, 319)))


@dataclass(frozen=True)
class Yolov4:
    """A YOLOv4 network, with the parts of the paper's "bag of specials" as settings.

    backbone: "csp_darknet" is CSPDarknet-53 with a plain residual unit as first stage (YOLOv4-CSP).  neck: "csp_pan"
    has cross stage partial blocks, "bifpn" weighted sums, "tiny" is top-down only.  width, depth: factors on channels
    and repeats (the tiny parts have no repeats).  activation, neck_activation: of the backbone, and of neck and head.
    context: blocks that enlarge the receptive field of the coarsest level, for `Pan` and `BiFpn`: "spp" or "aspp", and
    "rfb" after it.  attention: gate in each branch before a prediction layer, for "pan" and "csp_pan": "pointwise" is
    the paper's SAM, "spatial" CBAM's.  fusion: between the outputs of the neck ("asff", "sfam").
    residual, residual_normalization: sums of the backbone's units, see `WeightedSum` (MiWRC).  unit: the residual units
    of the Darknets, see `darknet_unit` (table 5 of YOLOv7); all published files have "dark".

    anchors: (width, height) in pixels for every level, finest first; two or three levels in the tiny neck.
    grid_scales: for every level, the range of centres relative to their cell.  coordinates: see `Yolov4Head`.
    gaussian: predicts uncertainties (the paper's G).  implicit: implicit knowledge around the prediction layers;
    YOLOv4-CSP with it and with SiLU is YOLOR-CSP.  size: (height, width) that the weights are evaluated at.
    norm_momentum: weight of a new batch in batch norm's running statistics.  nms: overlap that suppresses a detection,
    unless another is asked for ("diou" is the paper's; sec. 3.4).

    stem, stages: channels of the stem, and the five stages, of a CSPDarknet-53 with sizes of its own (`onelook
    search`); without them both factors decide. Those still decide of neck and head.
    """

    backbone: Literal["csp_darknet53", "csp_darknet", "csp_resnext50", "tiny"] = "csp_darknet53"
    neck: Literal["pan", "csp_pan", "bifpn", "tiny"] = "pan"
    width: float = 1.0
    depth: float = 1.0
    activation: str = "mish"
    neck_activation: str = "leaky_relu"
    context: tuple[Context, ...] = ("spp",)
    attention: Attention | None = None
    fusion: Fusion | None = None
    residual: Residual = "plain"
    residual_normalization: Normalization = "relu"
    unit: Unit = "dark"
    anchors: Anchors = ANCHORS
    grid_scales: tuple[float, ...] = (1.2, 1.1, 1.05)
    coordinates: Coordinates = "exponential"
    gaussian: bool = False
    implicit: bool = False
    num_classes: int = 80
    size: tuple[int, int] = (608, 608)
    frame: Resize = STRETCH
    pixels: PixelFormat = FRACTIONS
    norm_momentum: float = 0.01
    nms: Literal["iou", "diou"] = "iou"
    stem: int | None = None
    stages: tuple[DarknetStage, ...] = ()

    multi_label: ClassVar[bool] = True  # a row may be a detection of several classes in the published evaluation

    def __post_init__(self) -> None:
        if not 1 / 32 <= self.width <= 16 or not 0 < self.depth <= 16 or not 0 < self.norm_momentum <= 1:
            raise ValueError("width is from 1/32 to 16, depth above 0, at most 16, norm_momentum above 0, at most 1")
        if len(set(self.context)) < len(self.context) or {"spp", "aspp"} <= set(self.context):
            raise ValueError(f"context has spp or aspp, once, and may have rfb, once; not {self.context}")
        if (self.stem is None) != (not self.stages) or len(self.stages) not in (0, 5):
            raise ValueError("a CSPDarknet-53 with sizes of its own has channels of the stem, and five stages")
        self._check_anchors()
        self._check_used()

    def _check_anchors(self) -> None:
        """Raises ValueError unless every level has a grid scale and the same number of anchors, at least one."""
        levels = (2, 3) if self.neck == "tiny" else (3,)
        if len(self.anchors) not in levels or not self.anchors[0] or len({len(own) for own in self.anchors}) > 1:
            allowed = " or ".join(str(level) for level in levels)
            raise ValueError(f"the neck '{self.neck}' has {allowed} levels, each with the same number of anchors")
        if min(side for own in self.anchors for anchor in own for side in anchor) <= 0:
            raise ValueError("the sides of an anchor are pixels above 0")
        if len(self.grid_scales) != len(self.anchors):
            raise ValueError(f"grid_scales has {len(self.grid_scales)} levels, and anchors has {len(self.anchors)}")

    def _check_used(self) -> None:
        """Raises ValueError for a setting that the chosen parts do not have, which would silently have no effect."""
        tiny = self.neck == "tiny"
        unused = {
            "attention": self.attention is not None and self.neck not in ("pan", "csp_pan"),
            "fusion": self.fusion is not None and tiny,
            "context": self.context not in ((), ("spp",)) and tiny,  # the tiny models' rows keep the default
        }
        for name, is_unused in unused.items():
            if is_unused:
                raise ValueError(f"the neck '{self.neck}' has no {name}")
        if self.backbone == "tiny" and self.residual != "plain":
            raise ValueError("the tiny backbone has no residual sums that could be weighted")
        if self.unit != "dark" and self.backbone not in ("csp_darknet53", "csp_darknet"):
            raise ValueError(f"the backbone '{self.backbone}' has no Darknet units")
        if self.stages and self.backbone not in ("csp_darknet53", "csp_darknet"):
            raise ValueError(f"the backbone '{self.backbone}' has no stages of its own")
        if self.unit in ("reversed", "reversed_rep") and self.residual != "plain":
            raise ValueError("reversed units have plain sums")

    @property
    def detecting(self) -> Nms:
        """How rows become detections."""
        return Nms(multi_label=self.multi_label, kind=self.nms)

    @property
    def evaluating(self) -> Nms:
        """The same for validation: Darknet's `detector valid` clips boxes to the image."""
        return replace(self.detecting, clip=True)

    @property
    def provides(self) -> frozenset[str]:
        provided = {"objectness", "anchors", "box offsets", f"{self.coordinates} sides"}
        return frozenset(provided | {"uncertainty"} if self.gaussian else provided)

    def build(self) -> Detector:
        """Builds the detector in training form, initialised as published: uniform kernels, variance 2 / 3 / fan-in."""
        style = ConvStyle(self.neck_activation, eps=1e-5, momentum=self.norm_momentum)
        backbone = self._backbone()
        neck = self._neck(backbone, style)
        head = Yolov4Head(
            neck,
            self.anchors,
            self.grid_scales,
            self.num_classes,
            style,
            expand=self.neck != "tiny",
            coordinates=self.coordinates,
            coarse_first=self.neck == "tiny",
            gaussian=self.gaussian,
            implicit=self.implicit,
        )
        detector = Detector(Pixels(self.pixels), backbone, neck, head)
        initialise(detector)
        detector.architecture = self
        return detector

    def _backbone(self) -> Backbone:
        style = ConvStyle(self.activation, eps=1e-5, momentum=self.norm_momentum)
        join = partial(residual_sum, self.residual, self.residual_normalization, 1)
        if self.backbone == "csp_resnext50":
            return CspResnext50(self.width, self.depth, style, join)
        if self.backbone == "tiny":
            return CspTiny(self.width, style)
        stem, stages = self.csp_darknet53_sizes
        return CspDarknet53(stem, stages, style, join, first=self.backbone == "csp_darknet53", unit=self.unit)

    @property
    def csp_darknet53_sizes(self) -> tuple[int, tuple[DarknetStage, ...]]:
        """Channels of the stem, and the stages, of a CSPDarknet-53."""
        return csp_darknet53_sizes(self.width, self.depth) if self.stem is None else (self.stem, self.stages)

    def _neck(self, backbone: Backbone, style: ConvStyle) -> Neck:
        if self.neck == "tiny":
            return TinyFpn(backbone, self.width, style, levels=len(self.anchors))
        sizes = {"width": self.width, "depth": self.depth}
        if self.neck == "bifpn":
            return BiFpn(backbone, style, **sizes, context=self.context, fusion=self.fusion)
        csp = self.neck == "csp_pan"
        settings = {"context": self.context, "attention": self.attention, "fusion": self.fusion}
        return Pan(backbone, style, **sizes, csp=csp, **settings)  # type: ignore[arg-type]

    @property
    def numbered(self) -> bool:
        """Whether Darknet's file format, an ordered list of convolutions with batch norm, can hold this network."""
        return not self.implicit and self.unit in ("dark", "reversed")

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to numbered names of the published files (see `official`), one to one.

        For the training form. Networks that these files cannot hold keep our names.
        """
        with torch.device("meta"):
            detector = self.build()
        return official_names(detector) if self.numbered else {name: name for name in detector.state_dict()}


def initialise(detector: Detector) -> None:
    """Initialises kernels uniformly within sqrt(2 / fan-in) and biases with 0 (Darknet).

    He et al. 2015 have a range sqrt(3) times larger.
    """
    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            bound = (2 / module.weight[0].numel()) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


CSP = Yolov4(
    "csp_darknet",
    "csp_pan",
    neck_activation="mish",
    grid_scales=(2.0, 2.0, 2.0),
    coordinates="sigmoid",
    size=(512, 512),
    frame=LETTERBOX,
)
TINY = Yolov4("tiny", "tiny", activation="leaky_relu", anchors=TINY_ANCHORS, grid_scales=(1.05, 1.05), size=(416, 416))
XMISH = replace(CSP, width=1.25, depth=1.25, size=(640, 640))
TINY_3L = replace(TINY, anchors=ANCHORS, grid_scales=(1.05,) * 3, size=(608, 608))
_OLD, _NEW = "darknet_yolo_v3_optimal", "darknet_yolo_v4_pre"  # folders of the releases
_TABLE: tuple[tuple[str, Yolov4, float | None, str | None, str | None, str | None], ...] = (
    # name, architecture, AP on COCO test-dev of the released weights, their file, the file of the first layers only,
    # and the folder of both if they have one
    ("yolov4", Yolov4(), 43.5, "yolov4.weights", "yolov4.conv.137", _OLD),
    ("yolov4-tiny", TINY, None, "yolov4-tiny.weights", "yolov4-tiny.conv.29", _NEW),
    ("yolov4-tiny-3l", TINY_3L, None, None, None, None),
    ("yolov4-csp", CSP, 46.2, "yolov4-csp.weights", "yolov4-csp.conv.142", _NEW),
    ("yolov4x-mish", XMISH, 50.1, "yolov4x-mish.weights", "yolov4x-mish.conv.166", _NEW),
    (
        "csresnext50-panet-spp",
        Yolov4("csp_resnext50", activation="leaky_relu"),
        43.2,
        "csresnext50-panet-spp-original-optimal_final.weights",
        "csresnext50-panet-spp.conv.112",
        None,
    ),
)
_RELEASE = "https://github.com/AlexeyAB/darknet/releases/download/"


def _url(folder: str | None, file: str | None) -> str | None:
    """Returns the address of a released file."""
    return None if folder is None or file is None else f"{_RELEASE}{folder}/{file}"


VARIANTS = tuple(
    Variant(
        name,
        "YOLOv4",
        architecture,
        None if ap is None else Published(ap, "test-dev2017"),
        file,
        "public domain (Darknet)",
        _url(folder, file),
        _url(folder, backbone) or backbone,
    )
    for name, architecture, ap, file, backbone, folder in _TABLE
)
