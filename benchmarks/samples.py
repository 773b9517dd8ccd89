"""What a training sample costs, in milliseconds and in decodings of one image: measured alternately in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np

from command import run_benchmark
from onelook.augment.yolox import YOLOX_OCTOBER_2021, YOLOX_PAPER, SingleImageAugment, YoloxAugment
from onelook.data import open_dataset
from onelook.data.image_cache import ImageCache
from onelook.data.images import decode_image
from onelook.data.memory import keep_memory
from onelook.data.split import Dataset
from onelook.data.training_images import DrawImages, TrainingImages
from onelook.errors import UsageError
from onelook.types import Sample
from sampling import sample_generator

if TYPE_CHECKING:
    from rich.console import Console

DECODE = "decode one image"
RULES = {"paper": YOLOX_PAPER, "later": YOLOX_OCTOBER_2021}
POOL = 64  # images that the contestants with reuse draw from


@runtime_checkable
class Apart(Protocol):
    """A contestant in a process of its own, which measures itself there."""

    def seconds(self, first: int, stop: int) -> float:
        """The processor's time for the samples `first` to `stop` - 1."""
        ...


Contestant = Callable[[int], object] | Apart  # makes the n-th sample


@dataclass(frozen=True)
class DataBenchmark:
    """seconds: by contestant, the processor's time for a sample in every round (what other processes do counts less).

    rules: which published augmentation.  size: (height, width).  images, samples: of the data set, and of a round.
    """

    data: str
    rules: str
    size: tuple[int, int]
    images: int
    samples: int
    seconds: Mapping[str, Sequence[float]]

    def milliseconds(self, name: str) -> float:
        """A sample's time: the median of the rounds."""
        return float(np.median(self.seconds[name])) * 1e3

    def decodings(self, name: str) -> float:
        """A sample's time in decodings of one image: the median of the rounds' ratios."""
        return self.ratio(name, DECODE)

    def ratio(self, name: str, other: str) -> float:
        """How many times longer one takes than the other: the median of the rounds' ratios."""
        return float(np.median(np.array(self.seconds[name]) / np.array(self.seconds[other])))

    def to_dict(self) -> dict[str, Any]:
        """What was measured, and each contestant's milliseconds and decodings."""
        figures = {
            name: {"milliseconds": self.milliseconds(name), "decodings": self.decodings(name)} for name in self.seconds
        }
        known = {"data": self.data, "rules": self.rules, "size": list(self.size), "images": self.images}
        return {**known, "rounds": len(self.seconds[DECODE]), "samples": self.samples, "figures": figures}

    def show(self, console: Console) -> None:
        """The figures as a table."""
        from rich.table import Table

        rounds = len(self.seconds[DECODE])
        console.print(
            f"[bold]{self.data}[/bold]  {self.images} images, {self.size[0]}x{self.size[1]}, YOLOX's augmentation "
            f"('{self.rules}'), one process, one thread, processor time; medians of {rounds} rounds of {self.samples} "
            "samples\n"
        )
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        table.add_column("a sample")
        for title in ("ms", "decodings", "samples a second"):
            table.add_column(title, justify="right")
        for name in self.seconds:
            time = self.milliseconds(name)
            table.add_row(name, f"{time:.2f}", f"{self.decodings(name):.2f}", f"{1e3 / time:.0f}")
        console.print(table)


def contestants(dataset: Dataset, augment: YoloxAugment, size: tuple[int, int]) -> dict[str, Contestant]:
    """What is measured: reading an image, and samples without and with images that were decoded before."""
    rows = np.arange(len(dataset))
    files = TrainingImages(dataset, rows)
    room = int(dataset.sizes.astype(np.int64).prod(1).sum()) * 3 * 3 // 2
    cached = TrainingImages(dataset, rows, cache=ImageCache(len(dataset), max(room, 1 << 20)))
    for row in rows.tolist():  # what the first epoch would do
        for level in range(4):
            cached.read(row, level)
    single = replace(augment, mix=None)
    order = np.random.default_rng(0).permutation(rows)

    def sampling(images: TrainingImages, pipeline: SingleImageAugment | YoloxAugment) -> Contestant:
        draw = DrawImages(images, size, outlines=False)
        return lambda n: pipeline(images.sample(int(order[n % len(order)]), False), draw, sample_generator(0, 0, n))

    def reusing(pipeline: YoloxAugment) -> Contestant:
        pool = min(POOL, max(4, len(rows) // 4))
        mean = int(dataset.sizes.astype(np.int64).prod(1).mean()) * 3
        cache = ImageCache(len(dataset), max(2 * pool * mean, 8 << 20), rotating=True)
        images = TrainingImages(dataset, rows, cache=cache, whole=True)
        places = np.arange(-pool, 0)

        def make(n: int) -> Sample:
            draw = DrawImages(images, size, rows=order[(n + places) % len(order)], outlines=False)
            first = int(order[n % len(order)])
            return images.make(lambda known: pipeline(known.sample(first, False), draw, sample_generator(0, 0, n)))

        for n in range(len(order) - pool, len(order)):  # fills the pool of sample 0
            make(n)
        return make

    return {
        DECODE: lambda n: decode_image(dataset.path(int(order[n % len(order)]))),
        "one image, framed": sampling(files, SingleImageAugment(augment.hsv, augment.flip)),
        "mosaic": sampling(files, single),
        "mosaic + MixUp": sampling(files, augment),
        "mosaic, cache": sampling(cached, single),
        "mosaic + MixUp, cache": sampling(cached, augment),
        "mosaic, reuse": reusing(single),
        "mosaic + MixUp, reuse": reusing(augment),
    }


def measure(known: Mapping[str, Contestant], rounds: int, samples: int) -> dict[str, list[float]]:
    """Seconds a sample of every contestant in every round; each round, all make the same samples, one after another."""
    seconds: dict[str, list[float]] = {name: [] for name in known}
    keep_memory()  # as in a loader's worker
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for index in range(rounds + 1):  # the first round only warms up
            for name, contestant in known.items():
                spent = time_of(contestant, index * samples, (index + 1) * samples)
                if index:
                    seconds[name].append(spent / samples)
    finally:
        cv2.setNumThreads(threads)
    return seconds


def time_of(contestant: Contestant, first: int, stop: int) -> float:
    """Seconds of the processor for the samples `first` to `stop` - 1."""
    if isinstance(contestant, Apart):
        return contestant.seconds(first, stop)
    start = process_time()
    for n in range(first, stop):
        contestant(n)
    return process_time() - start


def bench_data(
    data: Path,
    split: str,
    rules: str,
    *,
    size: int = 640,
    rounds: int = 20,
    samples: int = 20,
    more: Mapping[str, Contestant] | None = None,
) -> DataBenchmark:
    """Measures YOLOX's augmentation on a data set; `more` contestants take part. Raises UsageError, DataError."""
    for name, value, least in (("size", size, 32), ("rounds", rounds, 1), ("samples", samples, 1)):
        if value < least:
            raise UsageError(f"--{name} is {least} or more, not {value}.")
    dataset = open_dataset(data, split)
    known = {**contestants(dataset, RULES[rules], (size, size)), **(more or {})}
    return DataBenchmark(str(data), rules, (size, size), len(dataset), samples, measure(known, rounds, samples))


def samples_command(
    data: Path,
    /,
    *,
    split: str = "train",
    size: int = 640,
    rules: Literal["paper", "later"] = "paper",
    rounds: int = 20,
    samples: int = 20,
) -> DataBenchmark:
    """What a training sample costs: mosaic, MixUp, with and without images that are kept in memory.

    One process and one thread; all contestants make the same samples in turn. A sample is ready for the batch: uint8
    pixels and its boxes. "cache" has every image decoded; "reuse" draws a mosaic's further images from the last ones.

    Examples:
        python benchmarks/samples.py coco/ --json data.json
        python benchmarks/samples.py coco/ --rules later --size 416

    Args:
        data: A data set: a folder, a YAML file or a COCO JSON file.
        split: The split whose images are used.
        size: Height and width of the training input in pixels.
        rules: YOLOX's augmentation at the date of the released weights, or as it is since October 2021.
        rounds: Rounds that are measured; medians of them are shown.
        samples: Samples of every contestant in a round.

    Returns:
        The figures, in milliseconds and in decodings of one image.
    """
    return bench_data(data, split, rules, size=size, rounds=rounds, samples=samples)


if __name__ == "__main__":
    sys.exit(run_benchmark(samples_command))
