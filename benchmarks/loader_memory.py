"""Memory of the loader's workers on a data set of COCO's size: what 2,000 samples each add to a process.

    python benchmarks/loader_memory.py [--images 118000] [--boxes 860000] [--samples 2000] [--workers 2] [--size 640]

A COCO data set is made in a temporary folder: its image files are links to a few real ones. Memory is read from
`/proc/PID/smaps_rollup` (Linux) when a worker has made its first batch, and when the workers together have made
`samples` for each. "own" is what no other process shares (USS), "dirty" the part of it that is not a clean page of a
mapped file. The samples are YOLOX's mosaic and MixUp.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import cv2

from index import make_coco
from onelook.augment.yolox import YOLOX_PAPER
from onelook.data import open_dataset
from onelook.data.loader import Loader
from onelook.data.synthetic import Scenes

LIMIT = 30.0  # MB a worker may grow by
FILES = 40


def memory(process: int | str) -> dict[str, float]:
    """MB of a process: resident, proportional share, own, dirty."""
    found = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name[:-1]] = int(value) / 1024
    own = found["Private_Clean"] + found["Private_Dirty"]
    return {"resident": found["Rss"], "share": found["Pss"], "own": own, "dirty": found["Private_Dirty"]}


def link_images(folder: Path, count: int) -> None:
    """Every image that the annotations name, as a link to one of a few JPEG files of 640 x 480."""
    scenes = Scenes(size=(480, 640))
    (folder / "real").mkdir()
    for number in range(FILES):
        cv2.imwrite(str(folder / "real" / f"{number}.jpg"), scenes("memory", number).image[..., ::-1])
    place = folder / "train2017"
    for number in range(count):
        link = place / f"{number:012}.jpg"
        link.unlink(missing_ok=True)
        os.symlink(folder / "real" / f"{number % FILES}.jpg", link)


def children() -> list[int]:
    """The worker processes."""
    import multiprocessing

    return [worker.pid for worker in multiprocessing.active_children() if worker.pid is not None]


def main() -> None:
    """Makes the data set, runs the workers, prints; exits with 1 where a worker grows too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 118_000), ("boxes", 860_000), ("samples", 2000), ("workers", 2), ("size", 640)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_coco(root, options.images, options.boxes)
        link_images(root, options.images)
        dataset = open_dataset(root, "train")
        batch, side = 16, (options.size, options.size)
        before: dict[int, dict[str, float]] = {}
        with Loader(dataset, side, batch, workers=options.workers) as loader:
            for number, _ in enumerate(loader.epoch(0, YOLOX_PAPER, 0)):
                if number == options.workers:  # each has made one
                    before = {worker: memory(worker) for worker in children()}
                    parent = memory("self")
                if number * batch >= options.samples * options.workers + options.workers * batch:
                    break
            after = {worker: memory(worker) for worker in before}
        print("parent   ", {name: round(value, 1) for name, value in parent.items()})
        worst = 0.0
        for worker, first in before.items():
            grown = {name: round(after[worker][name] - first[name], 1) for name in first}
            worst = max(worst, grown["own"])
            print("worker   ", {name: round(value, 1) for name, value in after[worker].items()}, "grew by", grown)
    kept = bool(before) and worst < LIMIT
    print(json.dumps({"grown_mb": worst, "limit_mb": LIMIT, "samples_a_worker": options.samples, "kept": kept}))
    raise SystemExit(not kept)


if __name__ == "__main__":
    main()
