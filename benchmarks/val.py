"""A whole `onelook val` against a bare loop of decode + letterbox + forward pass on the same images; prints the ratio.

    python benchmarks/val.py DATA --weights yolox_nano.onnx [--model yolox-nano] [--size 416] [--batch 8] [--rounds 9]

Both run in turn in one process; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

from onelook.bench.evaluate import bare_forward, bench_val
from onelook.data import open_dataset
from onelook.predict.load import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="yolox-nano")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--split", default="val")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    predictor = load(given.model, weights=given.weights, size=given.size)
    dataset = open_dataset(given.data, split=given.split)
    select = predictor.settings(0.01, 0.65)
    forward = bare_forward(predictor.backend)
    found = bench_val(predictor.backend, forward, dataset, select, batch=given.batch, rounds=given.rounds)
    found.show(Console())
    print("load average", *(f"{value:.1f}" for value in os.getloadavg()))


if __name__ == "__main__":
    main()
