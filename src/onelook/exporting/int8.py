"""8-bit files whose accuracy is measured: convolutions stay in float until the loss of AP is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onelook.errors import ExportError
from onelook.exported import ExportedMetadata
from onelook.exporting.accuracy import Comparison, Int8Report, Trial
from onelook.exporting.graph import ExportGraph
from onelook.exporting.sensitivity import rank_convolutions
from onelook.exporting.target import ExportedFile, ExportOptions
from onelook.networks.detector import Detector
from onelook.reporter import Progress, Reporter

LEAST_AP = 0.01  # below, a loss of AP says nothing about a file
STEPS = (0, 2, 4, 8, 16, 32, 64, 128)  # how many convolutions stay in float, one after the other
IMAGES_FOR_RANKING = 4


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What a model is quantised with.

    images: gives the calibration images anew at each call, (1, 3, H, W) float32 as the network takes them.  count: how
    many they are.  held_out: (I, 3, H, W) float32, other images, on which the file is compared with PyTorch.  judge:
    the AP, 0..1, of an exported file.  compare: times the float file and an 8-bit file.  max_drop: the greatest loss of
    AP, 0..1.  description: of the data, for the metadata.
    """

    images: Callable[[], Iterator[np.ndarray]]
    count: int
    held_out: np.ndarray
    judge: Callable[[Path], float]
    compare: Callable[[Path, Path], Comparison]
    max_drop: float
    description: Mapping[str, Any]
    reporter: Reporter

    def described(self, report: Int8Report) -> dict[str, Any]:
        """The field `int8` of the metadata."""
        return {
            **self.description,
            "ap_float": report.ap_float,
            "ap_int8": report.ap,
            "max_drop": self.max_drop,
            "in_float": list(report.kept),
        }


@dataclass(frozen=True)
class Int8Format:
    """How a target holds 8-bit models. check: raises a UserError for options it cannot hold, or missing packages;
    that a file is not both in float16 and in 8 bits is checked before.
    """

    check: Callable[[ExportOptions], None]
    write: Callable[[Detector, Path, ExportOptions, Quantization], ExportedFile]


class Write(Protocol):
    """Writes the file in which these convolutions, by the names of their weights, are in float, and returns it."""

    def __call__(self, kept: frozenset[str], /) -> Path: ...


def quantize_within(
    write: Write, float_file: Path, rank: Callable[[], Sequence[str]], convolutions: int, quantization: Quantization
) -> Int8Report:
    """Finds how many convolutions have to stay in float, those that cost most first. The last `write` is the result.

    rank: the names of the weights of the `convolutions` that can be in 8 bits, the most costly first; called only when
    the first file loses too much. ExportError, with all trials, where no file of `STEPS` loses `max_drop` at most, or
    where the model finds too little of the data to be judged.
    """
    reporter = quantization.reporter
    ap_float = quantization.judge(float_file)
    reporter.info(f"In float32: AP {ap_float:.4f}.")
    if ap_float < LEAST_AP:
        raise ExportError(
            f"The model has AP {max(ap_float, 0.0):.4f} on this data, so that the cost of 8 bits cannot be measured.",
            "Give --calibrate a data set with the model's own classes, or trained weights.",
        )
    trials: list[Trial] = []
    ranked: Sequence[str] = ()
    for count in STEPS:
        if count >= max(convolutions, 1):
            break
        if count and not ranked:
            ranked = rank()
        kept = tuple(ranked[:count])
        file = write(frozenset(kept))
        trial = Trial(count, quantization.judge(file))
        trials.append(trial)
        where = f"{convolutions - count} of {convolutions} convolutions"
        reporter.info(f"In 8 bits, {where}: AP {trial.ap:.4f} ({trial.ap - ap_float:+.4f}).")
        if ap_float - trial.ap <= quantization.max_drop + 1e-9:  # 0.5 - 0.49 is above 0.01
            comparison = quantization.compare(float_file, file)
            return Int8Report(ap_float, trial.ap, kept, convolutions, tuple(trials), comparison)
    table = "".join(f"\n  {one.kept:4} in float: AP {one.ap:.4f} ({one.ap - ap_float:+.4f})" for one in trials)
    raise ExportError(
        f"With at most {quantization.max_drop:.4f} less than the float file's AP of {ap_float:.4f}, no 8-bit file was"
        f" found, and none was written. Of {convolutions} convolutions:{table}",
        "Allow more with --max-drop, calibrate with more images, or use --half.",
    )


def ranked_weights(
    graph: ExportGraph, quantization: Quantization, allowed: Sequence[str], *, outputs: bool
) -> list[str]:
    """The `allowed` weights of convolutions, the most costly first (`sensitivity.rank_convolutions`)."""
    images = list(islice(quantization.images(), IMAGES_FOR_RANKING))
    with quantization.reporter.progress("ranking layers") as progress:
        ranked = rank_convolutions(graph, images, outputs=outputs, progress=progress)
    return [name for name, _ in ranked if name in set(allowed)]


def batches_of(images: Iterator[np.ndarray], size: int | None, total: int, progress: Progress) -> Iterator[np.ndarray]:
    """The images as batches that a file takes, with progress; the last is filled up with its last image."""
    done = 0
    while part := list(islice(images, size or 1)):
        done += len(part)
        part += [part[-1]] * ((size or 1) - len(part))
        yield np.concatenate(part)
        progress(done, total)


def int8_metadata(metadata: ExportedMetadata, field: Mapping[str, Any] | None) -> ExportedMetadata:
    """The metadata of the 8-bit file of a float file."""
    return replace(metadata, precision="int8", int8=field)
