"""The spaces of a search over backbones that join branches: channels and depths of CSPDarknet and of ELAN.

DAMO-YOLO publishes no spaces for them. Channel factors, steps of depth and the multiple of 8 are those of its own space
(sec. 2.1); what a stage has of its own is in the classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from onelook.nas.space import CHANGES, DEPTH_STEPS, LEAST_BOTTLENECK, MULTIPLE, is_multiple, pick, scaled
from onelook.networks.branched_structure import DarknetStage, DarknetStructure, ElanStage, ElanStructure


@dataclass(frozen=True)
class DarknetSpace:
    """CSPDarknets that a search may visit: channels of the stem, and outputs and depth of every stage.

    initial: the first structure; its form stays as it is.  depths: the largest depth of every stage.

    Channels are multiples of 8, and no stage has fewer outputs than the one before.
    """

    initial: DarknetStructure
    depths: tuple[int, ...]
    max_channels: int = 2048
    max_stem: int = 64

    def __post_init__(self) -> None:
        _check_depths(self.depths, len(self.initial.stages))

    def contains(self, structure: DarknetStructure) -> bool:
        """Whether the search can reach a structure."""
        form = replace(self.initial, stem=structure.stem, stages=structure.stages)
        channels = (structure.stem, *(stage.outputs for stage in structure.stages))
        return (
            structure == form
            and len(structure.stages) == len(self.depths)
            and all(map(is_multiple, channels))
            and all(one <= other for one, other in pairwise(channels))
            and channels[0] <= self.max_stem
            and channels[-1] <= self.max_channels
            and all(1 <= stage.depth <= most for stage, most in zip(structure.stages, self.depths))
        )

    @property
    def smallest(self) -> DarknetStructure:
        """The structure with the fewest channels and units."""
        stages = tuple(DarknetStage(MULTIPLE, 1) for _ in self.depths)
        return replace(self.initial, stem=MULTIPLE, stages=stages)

    def mutate(self, parent: DarknetStructure, rng: Random) -> DarknetStructure:
        """A child of a structure: two random changes of the stem or a stage, each within the ranges."""
        child = parent
        for _ in range(CHANGES):
            child = self._changed(child, pick(range(-1, len(self.depths)), rng), rng)
        return child

    def _changed(self, parent: DarknetStructure, place: int, rng: Random) -> DarknetStructure:
        stages = parent.stages
        if place < 0:
            return replace(parent, stem=min(scaled(parent.stem, rng), self.max_stem, stages[0].outputs))
        stage = stages[place]
        if pick(("outputs", "depth"), rng) == "depth":
            new = replace(stage, depth=_other_depth(stage.depth, self.depths[place], rng))
        else:
            least = stages[place - 1].outputs if place else parent.stem
            most = stages[place + 1].outputs if place + 1 < len(stages) else self.max_channels
            new = replace(stage, outputs=min(max(scaled(stage.outputs, rng), least), most))
        return replace(parent, stages=(*stages[:place], new, *stages[place + 1 :]))


@dataclass(frozen=True)
class ElanSpace:
    """ELAN backbones that a search may visit: entry, block, output and depth of every stage.

    initial: the first structure; its form stays as it is.  depths: the largest depth of every stage.

    Channels are multiples of 8 before the factor of compound scaling; no stage has fewer outputs than the one before,
    nor more entry channels than outputs. A block has at most the outputs of its stage, and at least a tenth of them.
    Where max-pooling alone is between two stages, the entry of the second has the outputs of the first.
    """

    initial: ElanStructure
    depths: tuple[int, ...]
    max_channels: int = 2048

    def __post_init__(self) -> None:
        _check_depths(self.depths, len(self.initial.stages))

    def contains(self, structure: ElanStructure) -> bool:
        """Whether the search can reach a structure."""
        stages = structure.stages
        if structure != replace(self.initial, stages=stages) or len(stages) != len(self.depths):
            return False
        least = (0, *(stage.output for stage in stages))
        pooled = self.initial.down == "pool"
        return all(
            all(map(is_multiple, (stage.entry, stage.block, stage.output)))
            and max(before, stage.entry) <= stage.output <= self.max_channels
            and LEAST_BOTTLENECK * stage.output <= stage.block <= stage.output
            and (not pooled or not before or stage.entry == before)
            and stage.depth is not None
            and 1 <= stage.depth <= most
            for stage, before, most in zip(stages, least, self.depths)
        )

    @property
    def smallest(self) -> ElanStructure:
        """The structure with the fewest channels and convolutions."""
        stages = tuple(ElanStage(MULTIPLE, MULTIPLE, MULTIPLE, 1) for _ in self.depths)
        return replace(self.initial, stages=stages)

    def mutate(self, parent: ElanStructure, rng: Random) -> ElanStructure:
        """A child of a structure: two random changes of a stage, each within the ranges."""
        child = parent
        for _ in range(CHANGES):
            child = self._changed(child, pick(range(len(self.depths)), rng), rng)
        return child

    def _changed(self, parent: ElanStructure, place: int, rng: Random) -> ElanStructure:
        stages = list(parent.stages)
        stage = stages[place]
        tied = self.initial.down == "pool" and place > 0
        kind = pick(("block", "output", "depth") if tied else ("entry", "block", "output", "depth"), rng)
        if kind == "depth":
            stages[place] = replace(stage, depth=_other_depth(stage.depth or 1, self.depths[place], rng))
        elif kind == "entry":
            stages[place] = replace(stage, entry=min(scaled(stage.entry, rng), stage.output))
        elif kind == "block":
            stages[place] = _within(replace(stage, block=scaled(stage.block, rng)))
        else:
            least = max(stage.entry, stages[place - 1].output if place else 0)
            most = stages[place + 1].output if place + 1 < len(stages) else self.max_channels
            output = min(max(scaled(stage.output, rng), least), most)
            stages[place] = _within(replace(stage, output=output))
            if self.initial.down == "pool" and place + 1 < len(stages):
                stages[place + 1] = replace(stages[place + 1], entry=output)
        return replace(parent, stages=tuple(stages))


def _check_depths(depths: tuple[int, ...], count: int) -> None:
    if len(depths) != count or min(depths) < 1:
        raise ValueError(f"a space of {count} stages has {count} largest depths, each at least 1")


def _other_depth(depth: int, most: int, rng: Random) -> int:
    return min(max(1, depth + pick(DEPTH_STEPS, rng)), most)


def _within(stage: ElanStage) -> ElanStage:
    """The stage with a block of at most its outputs, and at least a tenth of them."""
    least = -(-stage.output // (10 * MULTIPLE)) * MULTIPLE
    return replace(stage, block=min(max(stage.block, least), stage.output))
