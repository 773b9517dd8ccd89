"""Structures with score and cost, of the official searcher of DAMO-YOLO (reference/damo_yolo/entropy.json)."""

from __future__ import annotations

from dataclasses import dataclass

from onelook.networks.damo_yolo.mae_nas import MAE_RESNET_T
from onelook.networks.structure import BlockKind, Stage, Structure


def structure(stem: int, block: BlockKind, *rows: tuple[int, ...], focus: bool = True) -> Structure:
    """rows: outputs, bottleneck, stride, depth, and the kernel where it is not 3."""
    return Structure(
        stem,
        tuple(Stage(outputs, width, stride, depth, block, *kernel) for outputs, width, stride, depth, *kernel in rows),
        focus=focus,
    )


@dataclass(frozen=True)
class Case:
    """size: side of the detector's input.  random: mean and deviation of the score by random passes, 5 seeds."""

    structure: Structure
    size: int
    score: float
    weighted: tuple[float, float, float]
    layers: int
    flops: float
    parameters: int
    random: tuple[float, float] | None = None


_INITIAL = ((48, 32, 2, 1), (96, 48, 2, 1), (96, 96, 2, 1), (192, 96, 1, 1), (384, 192, 2, 1))
CASES = {
    "T": Case(
        MAE_RESNET_T,
        640,
        1015.1441063007652,
        (26.666883967677563, 51.51112616899966, 936.966096164088),
        19,
        3996953600.0,
        1902736,
        (1014.583550643921, 0.3184792480538253),
    ),
    "tutorial": Case(
        structure(32, "k1kx", (96, 24, 2, 1), (96, 96, 2, 2), (256, 128, 2, 3), (256, 144, 1, 3), (512, 224, 2, 3)),
        640,
        1399.2675807481487,
        (22.651841920543784, 61.10222795774042, 1315.5135108698646),
        25,
        7351091200.0,
        5831696,
        (1397.3203582763672, 0.5661483792773053),
    ),
    "initial k1kx": Case(
        structure(32, "k1kx", *_INITIAL),
        640,
        613.0245911835628,
        (16.439575296073784, 28.458643436905625, 568.1263724505834),
        11,
        2107392000.0,
        1132128,
        (612.6485549926758, 0.47304456738621387),
    ),
    "initial kxkx": Case(
        structure(32, "kxkx", *_INITIAL),
        640,
        707.5052480090201,
        (18.636799873410002, 32.85309259157806, 656.015355544032),
        11,
        4479795200.0,
        1601120,
    ),
    "k1dwk1": Case(
        structure(
            16,
            "k1dwk1",
            *((24, 72, 2, 2), (40, 120, 2, 2, 5), (80, 240, 2, 3, 5), (112, 336, 1, 2), (160, 480, 2, 3, 5)),
            focus=False,
        ),
        640,
        1380.935909316877,
        (26.225844069643426, 59.09580046115463, 1295.614264786079),
        37,
        1353331200.0,
        789568,
    ),
}
