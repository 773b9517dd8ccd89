"""Prepares an 8-bit export: the images it is calibrated with and those it is judged on, its AP and its time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from onelook.api.alternation import alternate
from onelook.api.open import PathLike
from onelook.api.validate import open_evaluated, validate
from onelook.augment.letterbox import Resize
from onelook.data import Dataset, open_dataset, splits
from onelook.data.split_names import usual_splits
from onelook.devices import int8_instructions
from onelook.errors import UsageError
from onelook.exporting.accuracy import Comparison, Int8Report
from onelook.exporting.int8 import Quantization
from onelook.predict.runtimes import exported_runtime
from onelook.reporter import Reporter
from onelook.types import counted

HELD_OUT = 4  # images on which an 8-bit file is compared with PyTorch
TURNS = 20  # of each file when they are timed


@dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """How an 8-bit file is calibrated and judged: the settings of `onelook.export`.

    max_drop: points of AP; 1 is 0.01.
    """

    calibrate: Dataset | PathLike | None = None
    calibration_images: int = 300
    max_drop: float = 1.0

    def check(self, *, int8: bool, half: bool) -> None:
        """UsageError for settings that contradict each other."""
        if not int8:
            if self.calibrate is not None:
                raise UsageError("Images to calibrate with are given, but not --int8.", "Add --int8 (int8=True).")
            if self != Int8Settings():
                raise UsageError("Settings of an 8-bit export are given, but not --int8.", "Add --int8 (int8=True).")
            return
        if half:
            raise UsageError("A file is either in float16 or in 8 bits.", "Give --half or --int8.")
        if self.calibrate is None:
            raise UsageError(
                "8-bit export needs a data set: to choose the ranges of 8 bits with, and to measure what they cost.",
                "Give one with --calibrate DATA (calibrate=...).",
            )
        if self.calibration_images < 1:
            raise UsageError(f"calibration_images is {self.calibration_images}.", "Give 1 or more.")
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"max_drop is {self.max_drop:g} points of AP.", "Give 0 to 100.")


def open_quantization(settings: Int8Settings, frame: Resize, size: tuple[int, int], reporter: Reporter) -> Quantization:
    """Opens the data of an 8-bit export. frame, size: how its images become the input of the network.

    The images for calibration are spread evenly over the training split, those that the file is judged on are the
    validation split; one split is both where there is no other, with a warning.
    """
    assert settings.calibrate is not None  # `Int8Settings.check`
    calibrating, validation = _splits(settings.calibrate, reporter)
    count = min(settings.calibration_images, len(calibrating))
    rows = _spread(len(calibrating), count)

    def images() -> Iterator[np.ndarray]:
        for row in rows:
            yield _input(calibrating, row, frame, size)

    def judge(path: Path) -> float:
        return validate(path, validation, reporter=reporter).stats["AP"]

    fingerprint = hashlib.sha256()
    for image in images():
        fingerprint.update(image.astype(np.uint8).tobytes())
    held_out = [_input(validation, row, frame, size) for row in _spread(len(validation), HELD_OUT)]
    description = {
        "calibrated_on": calibrating.describe(),
        "calibration_images": count,
        "calibration_sha256": fingerprint.hexdigest(),
        "judged_on": validation.describe(),
    }
    number = counted(count, "image")
    reporter.info(f"Calibrating on {number} of {calibrating.describe()}; judging on {validation.describe()}.")
    return Quantization(
        images=images,
        count=count,
        held_out=np.concatenate(held_out),
        judge=judge,
        compare=lambda float_file, int8_file: compare_files(float_file, int8_file, held_out[0]),
        max_drop=settings.max_drop / 100,
        description=description,
        reporter=reporter,
    )


def compare_files(float_file: Path, int8_file: Path, image: np.ndarray, turns: int = TURNS) -> Comparison:
    """Times two files in alternation, one image (1, 3, H, W) at one thread."""
    runs, sizes = {}, {}
    for path in (float_file, int8_file):
        kind = exported_runtime(path)
        assert kind is not None
        runtime = kind(path, threads=1)
        outputs = ["boxes", "scores"] if runtime.metadata.nms is None else ["count", "boxes", "scores", "labels"]
        feed = {"images": np.repeat(image, runtime.metadata.batch or 1, axis=0)}
        runs[path] = lambda runtime=runtime, outputs=outputs, feed=feed: runtime.run(outputs, feed)
        sizes[path] = sum(os.path.getsize(file) for file in runtime.files())
    seconds = alternate({str(path): run for path, run in runs.items()}, turns, warm_up=2, untimed=1)
    float_ms, int8_ms = (1e3 * median(seconds[str(path)]) for path in (float_file, int8_file))
    return Comparison(sizes[float_file], float_ms, int8_ms)


def gain_note(report: Int8Report) -> tuple[str, ...]:
    """A note where 8 bits gain no time on this processor, with what it has for them; else nothing."""
    if report.gains:
        return ()
    found = int8_instructions()
    has = f"it has {', '.join(found)}" if found else "it has no instructions for 8-bit products"
    has = "which instructions it has is not known here" if found is None else has
    ratio = report.comparison.int8_ms / report.comparison.float_ms
    return (f"8 bits gain no time on this processor ({has}): {ratio:.2f} times the time of the float file.",)


def _splits(data: Dataset | PathLike, reporter: Reporter) -> tuple[Dataset, Dataset]:
    """The data set for calibration and the one for judging."""
    if isinstance(data, str | os.PathLike):
        there = splits(os.fspath(data))
        first, second = usual_splits(there)
        if first in there and second in there:
            validation = open_evaluated(data, second, reporter)
            return open_dataset(Path(data), first, reporter=reporter), validation
        only = next((name for name in (second, first) if name in there), second)
        data = open_evaluated(data, only, reporter)
    validation = open_evaluated(data, "val", reporter)
    reporter.warning("There is one split only: the file is judged on the images that it is calibrated with.")
    return validation, validation


def _spread(length: int, count: int) -> list[int]:
    """Rows of a data set, evenly spread, each at most once."""
    return sorted({int(row) for row in np.linspace(0, length - 1, min(count, length))})


def _input(dataset: Dataset, row: int, frame: Resize, size: tuple[int, int]) -> np.ndarray:
    """(1, 3, H, W) float32 RGB 0..255."""
    pixels = frame(dataset.image(row), size)[0]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
