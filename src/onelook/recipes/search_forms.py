"""The forms of searches: what a search for a backbone keeps of a variant, and what it may change.

DAMO-YOLO's is published (sec. 2.1). CSPDarknet (YOLOX, YOLOv4) and ELAN (YOLOv7) have spaces of our own: channels and
depth of every stage of the variant, while stem, kind of stage, activation, neck and head are the variant's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from onelook.nas.branched_space import DarknetSpace, ElanSpace
from onelook.nas.cost import cost
from onelook.nas.evolution import SearchSpace
from onelook.nas.space import MULTIPLE, Space
from onelook.networks.branched_structure import (
    AnyStructure,
    DarknetKind,
    DarknetStage,
    DarknetStructure,
    ElanStage,
    ElanStructure,
)
from onelook.networks.damo_yolo.architecture import DamoYolo
from onelook.networks.detector import Architecture
from onelook.networks.structure import BlockKind, Stage, Structure
from onelook.networks.yolov4.architecture import Yolov4
from onelook.networks.yolov7.architecture import Yolov7
from onelook.networks.yolox.architecture import Yolox

# Outputs and bottlenecks of the initial stages, all of one block; strides 2, 2, 2, 1, 2 (official code).
_RESIDUAL = (32, ((48, 32), (96, 48), (96, 96), (192, 96), (384, 192)))
# The official code has no initial mobile structure: a quarter of the cost of damo-yolo-ns.
_MOBILE = (16, ((16, 32), (24, 48), (32, 64), (40, 80), (64, 128)))
_STRIDES = (2, 2, 2, 1, 2)

_JOINED = (
    "Branches are joined: their variances add up, by which the longest path decides nearly all of the score. What"
    " short paths beside it do for a training is not covered."
)


@dataclass(frozen=True)
class SearchForm(ABC):
    """What a search keeps of a variant. layers: the budget of layers unless another is given."""

    name: str
    architecture: Any
    layers: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the variant's input."""
        size: tuple[int, int] = self.architecture.size
        return size

    @property
    @abstractmethod
    def structure(self) -> AnyStructure:
        """The variant's own backbone."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of blocks; scores are comparable between forms of one kind."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Where the theory of the score does not cover the backbone."""
        return ()

    @abstractmethod
    def space(self, layers: int) -> SearchSpace:
        """The structures to search with a budget of layers, which limits the depth of every stage."""

    @abstractmethod
    def detector(self, structure: Any, size: tuple[int, int]) -> Architecture:
        """The detector with a found backbone: neck and head are the variant's. size: (height, width)."""


@dataclass(frozen=True)
class ChainForm(SearchForm):
    """DAMO-YOLO: chains of blocks. outputs: the published ranges of the stages' outputs, see `Space`."""

    outputs: tuple[tuple[int, int, int], ...] = ()

    @property
    def structure(self) -> Structure:
        architecture: DamoYolo = self.architecture
        return architecture.backbone

    @property
    def kind(self) -> str:
        return self.structure.stages[0].block

    def space(self, layers: int) -> Space:
        own = self.structure
        block: BlockKind = own.stages[0].block
        mobile = block == "k1dwk1"
        stem, rows = _MOBILE if mobile else _RESIDUAL
        kernel = 5 if mobile else 3
        initial = tuple(
            Stage(outputs, width, stride, 1, block, kernel) for (outputs, width), stride in zip(rows, _STRIDES)
        )
        first, deepest = (3, layers // 3 // 3) if mobile else (2, layers // 2 // 4)  # official code
        deepest = max(1, deepest)
        return Space(
            replace(own, stem=stem, stages=initial),
            depths=(min(first, deepest), *([deepest] * (len(rows) - 1))),
            outputs=self.outputs,
            max_channels=1280 if mobile else 2048,
            kernels=(3, 5) if mobile else (3,),
        )

    def detector(self, structure: Any, size: tuple[int, int]) -> Architecture:
        return replace(self.architecture, backbone=structure, size=size)


@dataclass(frozen=True)
class DarknetForm(SearchForm):
    """YOLOX and YOLOv4: CSPDarknet. blocks: its kind, which decides what is searched around the stages."""

    blocks: DarknetKind = "c3"

    @property
    def structure(self) -> DarknetStructure:
        own: Yolox | Yolov4 = self.architecture
        stem, stages = own.csp_darknet_sizes if isinstance(own, Yolox) else own.csp_darknet53_sizes
        return DarknetStructure(stem, stages, self.blocks, own.activation)

    @property
    def kind(self) -> str:
        return self.blocks

    @property
    def remarks(self) -> tuple[str, ...]:
        pyramid = "The max-pooling of the SPP in the last stage is not linear: the score leaves the SPP out."
        return (_JOINED, pyramid) if self.structure.focus else (_JOINED,)

    def space(self, layers: int) -> DarknetSpace:
        own = self.structure
        initial = tuple(DarknetStage(_half(stage.outputs), 1) for stage in own.stages)
        return DarknetSpace(
            replace(own, stem=_half(own.stem), stages=initial),
            depths=_depths([stage.depth for stage in own.stages], layers),
            max_stem=max(64, own.stem),
        )

    def detector(self, structure: Any, size: tuple[int, int]) -> Architecture:
        return replace(self.architecture, stem=structure.stem, stages=structure.stages, size=size)


@dataclass(frozen=True)
class ElanForm(SearchForm):
    """YOLOv7: ELAN, with strides up to 32."""

    @property
    def structure(self) -> ElanStructure:
        own: Yolov7 = self.architecture
        stages = tuple(replace(stage, depth=stage.depth or own.depth) for stage in own.stages)
        return ElanStructure(stages, own.stem, own.down, own.step, own.width, own.activation)

    @property
    def kind(self) -> str:
        own = self.structure
        return f"elan {own.stem} {own.down} {own.step}"

    @property
    def remarks(self) -> tuple[str, ...]:
        return (_JOINED, "Max-pooling between stages is not linear: the score passes it as if it changed nothing.")

    def space(self, layers: int) -> ElanSpace:
        own = self.structure
        initial = tuple(
            ElanStage(_half(stage.entry), _half(stage.block), _half(stage.output), 1) for stage in own.stages
        )
        depths = _depths([stage.depth or 1 for stage in own.stages], layers)
        return ElanSpace(replace(own, stages=initial), depths)

    def detector(self, structure: Any, size: tuple[int, int]) -> Architecture:
        return replace(self.architecture, stages=structure.stages, size=size)


def own_layers(form: SearchForm) -> SearchForm:
    """The form with the layers of its variant as budget."""
    return replace(form, layers=cost(form.structure, 32).layers)


def _half(channels: int) -> int:
    """Half of the channels as a multiple of 8: a quarter of the cost, as DAMO-YOLO's initial structures have."""
    return max(MULTIPLE, channels // 2 // MULTIPLE * MULTIPLE)


def _depths(own: list[int], layers: int) -> tuple[int, ...]:
    """The largest depths: half of the layers shared by all stages, as in DAMO-YOLO, but no less than the variant's."""
    return tuple(max(depth, layers // 2 // len(own)) for depth in own)
