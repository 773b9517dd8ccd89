"""Images a second of `onelook detect --on ray` with one core and with two, and how far one core's rate is doubled.

    python benchmarks/scale.py yolox-nano.onnx [--images 960] [--rounds 3] [--cores 2]

The whole cluster, the command's process among them, is held to the given cores (CPU affinity); each core has one worker
with one thread. One process without Ray (`--on local`) on one core is measured beside it: the difference is what Ray
costs. The ways take turns, each in a process of its own, and other work on the machine is in every number: compare the
ratios only. A rate counts from the moment when every worker has finished two shards, so that starting is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import cv2
import numpy as np

import onelook
from onelook.reporter import Progress, SilentReporter

SHARD = 16


class Times(SilentReporter):
    """Keeps when how many images were done."""

    def __init__(self) -> None:
        self.done: list[tuple[float, float]] = []

    @contextmanager
    def progress(self, title: str, *, every: float | None = None) -> Iterator[Progress]:
        """Keeps each report."""

        def keep(done: float, total: float, detail: str = "") -> None:
            self.done.append((time.monotonic(), done))

        yield keep

    def rate(self, workers: int) -> float:
        """Images a second, without the first two shards of each worker."""
        (start, before), (end, after) = self.done[2 * workers - 1], self.done[-1]
        return (after - before) / (end - start)


def measure(model: str, images: str, on: str, cores: int, out: str) -> float:
    """Images a second of this process and all that it starts, on the first `cores` cores of the machine."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    times = Times()
    onelook.detect_shards(model, images, out, on=on, shard_size=SHARD, threads=1, device="cpu", reporter=times)
    return times.rate(cores)


def in_a_process(model: str, images: str, on: str, cores: int) -> float:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, model, "--one", json.dumps([images, on, cores, out])]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def write_images(folder: Path, count: int) -> None:
    """JPEG files of 640 x 480 pixels with smooth shapes, as photographs have them."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for number in range(count):
        image = cv2.resize(np.roll(noise, number, 1), (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        images, on, cores, out = json.loads(given.one)
        print(measure(given.model, images, on, cores, out))
        return
    many = f"ray,workers={given.cores},cpus=0.5"
    ways = {"local, 1 core": ("local", 1), "ray, 1 core": ("ray,workers=1,cpus=0.5", 1)}
    ways[f"ray, {given.cores} cores"] = (many, given.cores)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), given.images)
        for _ in range(given.rounds):
            for name, (on, cores) in ways.items():
                rates[name].append(in_a_process(given.model, folder, on, cores))
                print(f"{name}: {rates[name][-1]:.1f} images a second", flush=True)
    found = {name: median(values) for name, values in rates.items()}
    local, one, several = found.values()
    print(f"medians: {', '.join(f'{name} {rate:.1f}' for name, rate in found.items())} images a second")
    print(
        f"scaling efficiency from 1 to {given.cores} cores: {several / one / given.cores:.2f}; "
        f"with Ray and without it on 1 core: {one / local:.2f}"
    )


if __name__ == "__main__":
    main()
