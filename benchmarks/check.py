"""Time of `check` and of opening a data set, against another version of Onelook.

    git worktree add /tmp/before 6596e32
    python benchmarks/check.py /tmp/before/src [data ...] [--images 5000] [--rounds 15]

Beside the data sets that are named it measures a drawn one as YOLO text, Pascal VOC and COCO JSON: tiny JPEG files with
three boxes each. A process of either version stays alive and measures when its turn comes; turns alternate, and so does
who is first. Processor time of all threads counts, so that other work on the machine disturbs less.

check: all of `onelook check`, without the import.  build: opening all splits where no index is kept.  open: opening
them again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

WORK = ("check", "build", "open")
WORKER = """
import inspect, os, shutil, sys, time
from onelook.data import open_dataset, splits
from onelook.data.check import check
try:
    from onelook.reporter import SilentReporter
    silent = {"reporter": SilentReporter()}
except ImportError:
    silent = {}

def options(function):
    return silent if "reporter" in inspect.signature(function).parameters else {}

answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    work, repeat, data = line.rstrip().split(" ", 2)
    if work == "build":
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    names, before = splits(data), time.process_time()
    for _ in range(int(repeat)):
        if work == "check":
            check(data, **options(check))
        else:
            for split in names:
                open_dataset(data, split, **options(open_dataset))
    print((time.process_time() - before) / int(repeat), file=answers, flush=True)
"""


def write_sets(folder: Path, count: int) -> list[Path]:
    """Draws `count` images of 64x48 pixels; the same boxes in three formats."""
    from onelook.data.convert import convert
    from onelook.reporter import SilentReporter

    rng = np.random.default_rng(0)
    first = folder / "coco"
    (first / "train").mkdir(parents=True)
    (first / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        name = f"{number:06}.jpg"
        cv2.imwrite(str(first / "train" / name), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": name, "height": 48, "width": 64})
        for _ in range(3):
            box = [*rng.integers(0, 40, 2).tolist(), *rng.integers(4, 8, 2).tolist()]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": len(annotations) % 2 + 1}
            annotations.append({**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (first / "annotations" / "instances_train.json").write_text(json.dumps(content))
    convert(first, to="yolo", out=folder / "yolo", reporter=SilentReporter())
    convert(first, to="voc", out=folder / "voc", reporter=SilentReporter())
    return [first, folder / "yolo", folder / "voc"]


def start(source: Path, cache: Path) -> subprocess.Popen[str]:
    """A process of one version, which measures what its input names."""
    environment = {**os.environ, "PYTHONPATH": str(source), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", WORKER]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def measured(process: subprocess.Popen[str], work: str, repeat: int, data: Path) -> float:
    """Seconds of processor time of one piece of work."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{work} {repeat} {data}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(processes: Sequence[subprocess.Popen[str]], work: str, data: Path, rounds: int) -> None:
    """Prints the medians of both versions and the median ratio of neighbouring turns."""
    repeat = 20 if work == "open" else 1
    for process in processes:
        measured(process, work, 1, data)  # imports, the system's cache of files, and the index that `open` finds
    times = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        turn = {which: measured(processes[which], work, repeat, data) for which in order}
        times.append((turn[0], turn[1]))
    before, after = (median(column) * 1e3 for column in zip(*times))
    ratio = median(new / old for old, new in times)
    print(f"{data.name:10} {work:6} {before:9.2f} ms before {after:9.2f} ms now   ratio {ratio:.2f}", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="folder `src` of the other version")
    parser.add_argument("data", type=Path, nargs="*", help="data sets")
    parser.add_argument("--images", type=int, default=5000, help="images of the drawn data set; 0 for none")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        drawn = write_sets(Path(folder) / "drawn", given.images) if given.images else []
        for data in drawn:
            data.chmod(0o555)  # each version then keeps its index in its own cache folder, not beside the data
        sources = (given.before.resolve(), Path(__file__).resolve().parents[1] / "src")
        processes = [start(source, Path(folder) / f"cache-{which}") for which, source in enumerate(sources)]
        for data in [*(path.resolve() for path in given.data), *drawn]:
            for work in given.work:
                compare(processes, work, data, given.rounds)
        for process in processes:
            process.communicate()
        for data in drawn:
            data.chmod(0o755)


if __name__ == "__main__":
    main()
