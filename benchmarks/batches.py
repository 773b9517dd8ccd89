"""Times a batch as one run of the network, and as `detect --batch` runs it, in alternation: the ratio is what counts.

python benchmarks/batches.py yolox-nano.onnx yolox-nano.xml --batch 8 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from onelook.api.bench import NoPostprocess
from onelook.api.open import LoadOptions, open_predictor
from onelook.predict.runtimes.exported import ExportedRuntime

TURNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="exported files, of a free batch or of one image")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for file in given.files:
        plain, divided = (open_predictor(file, LoadOptions(threads=given.threads)).runtime for _ in range(2))
        if not isinstance(divided, ExportedRuntime):
            parser.error(f"{file} is no exported file")
        divided.expect_batches(given.batch)
        images = np.random.default_rng(0).integers(0, 255, (given.batch, *plain.size, 3), np.uint8)
        seconds: list[list[float]] = [[], []]
        for _ in range(TURNS + 1):  # the first does not count
            for runtime, found in zip((plain, divided), seconds):
                start = time.perf_counter()
                runtime(images, NoPostprocess())
                found.append(time.perf_counter() - start)
        one, several = (statistics.median(found[1:]) for found in seconds)
        print(
            f"{file}: {given.batch} images in one run {1e3 * one:.0f} ms, in {divided.concurrent} at a time"
            f" {1e3 * several:.0f} ms: {several / one:.2f} times"
        )


if __name__ == "__main__":
    main()
