"""Shards against a folder: the first opening, and reading images, alternately in one process (processor time).

    python benchmarks/shards.py coco_mini [--split val] [--rounds 5]

The data set is written as shards into a temporary folder. Images are decoded from the folder, from the shards, and from
the shards through fsspec (a file:// address, so what is measured is the library, not a network).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from onelook.data import open_dataset
from onelook.data.convert import convert
from onelook.data.images import decode_image
from onelook.data.members import read_image_file
from onelook.data.memory import keep_memory
from onelook.data.split import Dataset
from onelook.errors import UserError
from onelook.reporter import SilentReporter

LIMIT = 1 << 30
QUIET = SilentReporter()


def milliseconds(dataset: Dataset, *, decode: bool) -> float:
    """Processor time of an image, on average."""
    start = time.process_time()
    for i in range(len(dataset)):
        if decode:
            decode_image(dataset.image_file(i))
        else:
            read_image_file(dataset.image_file(i), LIMIT)
    return 1000 * (time.process_time() - start) / len(dataset)


def first_opening(data: str, split: str, cache: Path) -> tuple[Dataset, float]:
    """The data set, and the processor time of an image in building its index."""
    os.environ["XDG_CACHE_HOME"] = str(cache)
    start = time.process_time()
    dataset = open_dataset(data, split, reporter=QUIET)
    return dataset, 1000 * (time.process_time() - start) / len(dataset)


def main() -> None:
    """Writes the shards, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.process_time()
        convert(options.data, to="shards", out=root / "shards", shard_size="20MB", reporter=QUIET)
        written = time.process_time() - start
        local, opening = first_opening(str(root / "shards"), options.split, root / "one")
        remote, _ = first_opening(f"file://{root}/shards", options.split, root / "two")
        sources = {"folder": open_dataset(options.data, options.split, reporter=QUIET), "shards": local, "URL": remote}
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(options.rounds):
            for kind, decode in (("read", False), ("decode", True)):
                for name, dataset in sources.items():
                    found.setdefault(kind, {}).setdefault(name, []).append(milliseconds(dataset, decode=decode))
        bytes_of_image = sum(path.stat().st_size for path in (root / "shards").glob(f"{options.split}-*.tar")) / len(
            local
        )
        index = local.index.path
        result: dict[str, Any] = {
            "images": len(local),
            "bytes_of_an_image": round(bytes_of_image),
            "index_bytes_of_an_image": None if index is None else round(index.stat().st_size / len(local)),
            "write_ms": round(1000 * written / len(local), 3),
            "index_ms": round(opening, 3),
        }
        for kind, times in found.items():
            medians = {name: statistics.median(values) for name, values in times.items()}
            result[kind] = {name: round(value, 3) for name, value in medians.items()}
            ratios = {name: [a / b for a, b in zip(values, times["folder"])] for name, values in times.items()}
            result[f"{kind}_against_folder"] = {n: round(statistics.median(r), 3) for n, r in ratios.items()}
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
