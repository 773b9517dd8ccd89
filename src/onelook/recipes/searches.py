"""The published settings of MAE-NAS (DAMO-YOLO sec. 2.1): where a search begins, and what it may change.

Every search has the form of a variant: its kind of blocks, stem, activation, neck and head. Only the stem's channels
and the stages are searched. The other families have no space: the blocks of CSPDarknet (YOLOX), CSPDarknet53 (YOLOv4)
and ELAN (YOLOv7) join branches by concatenation, for which the entropy of a chain of convolutions is not defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from onelook.errors import ConfigError, did_you_mean
from onelook.nas.space import Space
from onelook.networks.damo_yolo.architecture import DamoYolo
from onelook.networks.detector import Architecture
from onelook.networks.structure import BlockKind, Stage, Structure
from onelook.networks.variants import VARIANTS, variant

FAMILIES = {"damo-yolo": "damo-yolo-t"}  # family: the variant whose form its searches have, unless another is named

# Outputs and bottlenecks of the initial stages, all of one block; strides 2, 2, 2, 1, 2 (official code).
_RESIDUAL = (32, ((48, 32), (96, 48), (96, 96), (192, 96), (384, 192)))
# The official code has no initial mobile structure: a quarter of the cost of damo-yolo-ns.
_MOBILE = (16, ((16, 32), (24, 48), (32, 64), (40, 80), (64, 128)))
_STRIDES = (2, 2, 2, 1, 2)

_SMALL = ((1, 64, 96), (3, 128, 192), (4, 256, 384))
_LARGE = ((1, 64, 128), (3, 128, 256), (4, 256, 512))
# variant: budget of layers, and the ranges of outputs of the stages with strides 8, 16 and 32. The official code has 20
# layers for T, 25 for S, 35 for M. L and the Nano models have no published ones: taken are their own layers.
_PUBLISHED: Mapping[str, tuple[int, tuple[tuple[int, int, int], ...]]] = {
    "damo-yolo-t": (20, _SMALL),
    "damo-yolo-s": (25, _LARGE),
    "damo-yolo-m": (35, _LARGE),
    "damo-yolo-l": (45, _LARGE),
    "damo-yolo-ns": (28, ()),
    "damo-yolo-nm": (28, ()),
    "damo-yolo-nl": (31, ()),
}


@dataclass(frozen=True)
class SearchForm:
    """What a search keeps of a variant. layers: the budget of layers unless another is given."""

    name: str
    layers: int
    architecture: DamoYolo

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the variant's input."""
        return self.architecture.size

    @property
    def structure(self) -> Structure:
        """The variant's own backbone."""
        return self.architecture.backbone

    def space(self, layers: int) -> Space:
        """The structures to search with a budget of layers, which limits the depth of every stage (official code)."""
        own = self.structure
        block: BlockKind = own.stages[0].block
        mobile = block == "k1dwk1"
        stem, rows = _MOBILE if mobile else _RESIDUAL
        kernel = 5 if mobile else 3
        initial = tuple(
            Stage(outputs, width, stride, 1, block, kernel) for (outputs, width), stride in zip(rows, _STRIDES)
        )
        first, deepest = (3, layers // 3 // 3) if mobile else (2, layers // 2 // 4)
        deepest = max(1, deepest)
        return Space(
            replace(own, stem=stem, stages=initial),
            depths=(min(first, deepest), *([deepest] * (len(rows) - 1))),
            outputs=_PUBLISHED[self.name][1],
            max_channels=1280 if mobile else 2048,
            kernels=(3, 5) if mobile else (3,),
        )

    def detector(self, structure: Structure, size: tuple[int, int]) -> Architecture:
        """The detector with a found backbone: neck and head are the variant's. size: (height, width)."""
        return replace(self.architecture, backbone=structure, size=size)


def search_form(name: str) -> SearchForm:
    """The form of a variant's search; ConfigError for variants without one."""
    if name not in _PUBLISHED:
        if name in VARIANTS:
            raise ConfigError(
                f"MAE-NAS does not cover the backbone of {name}: its score is that of a chain of convolutions.",
                f"Give one of: {', '.join(_PUBLISHED)}.",
            )
        raise ConfigError(
            f"There is no search in the form of '{name}'.{did_you_mean(name, _PUBLISHED)}",
            f"Give one of: {', '.join(_PUBLISHED)}.",
        )
    return SearchForm(name, _PUBLISHED[name][0], cast(DamoYolo, variant(name).architecture))


def family_form(family: str) -> str:
    """The variant whose form a family's searches have; ConfigError for a family without one."""
    if family not in FAMILIES:
        raise ConfigError(
            f"There is no search for the family '{family}'.{did_you_mean(family, FAMILIES)}",
            f"MAE-NAS covers: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[family]


def published_structures(like: SearchForm) -> dict[str, Structure]:
    """The published backbones of the family whose blocks are of the same kind, by the names of their variants."""
    block = like.structure.stages[0].block
    forms = (search_form(name) for name in _PUBLISHED)
    return {form.name: form.structure for form in forms if form.structure.stages[0].block == block}
