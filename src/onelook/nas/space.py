"""The structures that MAE-NAS searches, and the random change of one into another (DAMO-YOLO sec. 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from onelook.networks.structure import Stage, Structure

MULTIPLE = 8  # of every number of channels
CHANNEL_FACTORS = (2.0, 1.5, 1.25, 0.8, 0.6, 0.5)
DEPTH_STEPS = (-2, -1, 1, 2)
BOTTLENECK_RATIOS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)  # of depthwise blocks: bottleneck to outputs
LEAST_BOTTLENECK = 0.1  # of the outputs of other blocks
CHANGES = 2  # in succession make a child

T = TypeVar("T")


@dataclass(frozen=True)
class Space:
    """The structures that a search may visit.

    initial: the first structure; its kinds of blocks, strides, and the settings of the network stay as they are.
    depths: the largest depth of every stage.  outputs: least and largest output channels of a stage, by its index;
    stages without an entry are only limited by their neighbours and by `max_channels`.  max_stem: of the stem.
    kernels: of depthwise blocks.  fixed: indices of stages that do not change.

    Channels are multiples of 8, and no stage has fewer outputs than the one before.
    """

    initial: Structure
    depths: tuple[int, ...]
    outputs: tuple[tuple[int, int, int], ...] = ()
    max_channels: int = 2048
    max_stem: int = 32
    kernels: tuple[int, ...] = (3,)
    fixed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.initial.stages)
        if len(self.depths) != count or min(self.depths) < 1:
            raise ValueError(f"a space of {count} stages has {count} largest depths, each at least 1")
        if any(not 0 <= place < count for place in (*self.fixed, *(row[0] for row in self.outputs))):
            raise ValueError(f"a stage of this space has an index from 0 to {count - 1}")

    def contains(self, structure: Structure) -> bool:
        """Whether the search can reach a structure: its form is that of `initial`, and its numbers are in range."""
        form = replace(self.initial, stem=structure.stem, stages=structure.stages)
        same = len(structure.stages) == len(self.initial.stages) and structure == form
        return same and self.fits(structure)

    def fits(self, structure: Structure) -> bool:
        """Whether all numbers of a structure of this form are in range."""
        inputs = structure.stem
        if not is_multiple(inputs) or inputs > self.max_stem:
            return False
        for place, stage in enumerate(structure.stages):
            first = self.initial.stages[place]
            least, most = self._range(place)
            widest = BOTTLENECK_RATIOS[-1] * stage.outputs + MULTIPLE if stage.block == "k1dwk1" else stage.outputs
            if (
                not max(inputs, least) <= stage.outputs <= most
                or not LEAST_BOTTLENECK * stage.outputs <= stage.bottleneck <= widest
                or not (is_multiple(stage.outputs) and is_multiple(stage.bottleneck))
                or stage.depth > self.depths[place]
                or (stage.block, stage.stride) != (first.block, first.stride)
                or stage.kernel not in (first.kernel, *self.kernels)
            ):
                return False
            inputs = stage.outputs
        return True

    @property
    def smallest(self) -> Structure:
        """The structure with the fewest channels and blocks."""
        stages, inputs = [], MULTIPLE
        for place, stage in enumerate(self.initial.stages):
            if place not in self.fixed:
                outputs = max(inputs, self._range(place)[0])
                width = _multiple(outputs * BOTTLENECK_RATIOS[0]) if stage.block == "k1dwk1" else MULTIPLE
                narrow = replace(stage, outputs=outputs, bottleneck=width, depth=1)
                stage = narrow if stage.block == "k1dwk1" else _narrowed(narrow)  # noqa: PLW2901
            stages.append(stage)
            inputs = stage.outputs
        return replace(self.initial, stem=MULTIPLE, stages=tuple(stages))

    def mutate(self, parent: Structure, rng: Random) -> Structure:
        """A child of a structure: two random changes of the stem or a stage, each within the ranges."""
        places = [place for place in range(-1, len(parent.stages)) if place not in self.fixed]
        child = parent
        for _ in range(CHANGES):
            place = pick(places, rng)
            child = self._mutate_stem(child, rng) if place < 0 else self._mutate_stage(child, place, rng)
        return child

    def _range(self, place: int) -> tuple[int, int]:
        """Least and largest outputs of a stage."""
        for stage, least, most in self.outputs:
            if stage == place:
                return least, most
        return MULTIPLE, self.max_channels

    def _mutate_stem(self, parent: Structure, rng: Random) -> Structure:
        channels = scaled(parent.stem, rng)
        return replace(parent, stem=min(channels, self.max_stem, parent.stages[0].outputs))

    def _mutate_stage(self, parent: Structure, place: int, rng: Random) -> Structure:
        """Changes one random property of a stage; the bottleneck of the next stage stays within the new outputs."""
        stage = parent.stages[place]
        depthwise = stage.block == "k1dwk1"
        kinds = ("outputs", "bottleneck", "depth", "kernel") if depthwise else ("outputs", "bottleneck", "depth")
        kind = pick(kinds, rng)
        if kind == "depth":
            depth = min(max(1, stage.depth + pick(DEPTH_STEPS, rng)), self.depths[place])
            return _with_stage(parent, place, replace(stage, depth=depth))
        if kind == "kernel":
            return _with_stage(parent, place, replace(stage, kernel=pick(self.kernels, rng)))
        if kind == "bottleneck" and depthwise:
            width = _multiple(stage.outputs * pick(BOTTLENECK_RATIOS, rng))
            return _with_stage(parent, place, replace(stage, bottleneck=width))
        if kind == "bottleneck":
            return _with_stage(parent, place, _narrowed(replace(stage, bottleneck=scaled(stage.bottleneck, rng))))
        return self._mutate_outputs(parent, place, rng)

    def _mutate_outputs(self, parent: Structure, place: int, rng: Random) -> Structure:
        stage = parent.stages[place]
        inputs = parent.stages[place - 1].outputs if place else parent.stem
        rest = parent.stages[place + 1 :]
        least, most = self._range(place)
        upper = min(most, rest[0].outputs) if rest else most
        outputs = min(max(scaled(stage.outputs, rng), least, inputs), upper)
        ratio = stage.bottleneck / stage.outputs
        if stage.block == "k1dwk1":
            return _with_stage(parent, place, replace(stage, outputs=outputs, bottleneck=_multiple(outputs * ratio)))
        child = _with_stage(parent, place, _narrowed(replace(stage, outputs=outputs)))
        if rest and rest[0].bottleneck > outputs:
            child = _with_stage(child, place + 1, _narrowed(replace(rest[0], bottleneck=outputs)))
        return child


def pick(items: Sequence[T], rng: Random) -> T:
    """A random item, the same in every version of Python."""
    return items[int(rng.random() * len(items))]


def _with_stage(structure: Structure, place: int, stage: Stage) -> Structure:
    if stage == structure.stages[place]:
        return structure
    return replace(structure, stages=(*structure.stages[:place], stage, *structure.stages[place + 1 :]))


def _narrowed(stage: Stage) -> Stage:
    """The stage with a bottleneck of at most its outputs, and at least a tenth of them."""
    least = _multiple(LEAST_BOTTLENECK * stage.outputs + MULTIPLE / 2 - 1e-9)  # rounded up
    return replace(stage, bottleneck=min(max(stage.bottleneck, least), stage.outputs))


def scaled(channels: int, rng: Random) -> int:
    """The channels times a random factor, as a multiple of 8."""
    return _multiple(channels * pick(CHANNEL_FACTORS, rng))


def _multiple(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(MULTIPLE, int(channels / MULTIPLE + 0.5) * MULTIPLE)


def is_multiple(channels: int) -> bool:
    """Whether this is a number of channels of the space."""
    return channels % MULTIPLE == 0
