"""The index of a data set of COCO's size: time to build, time to open, memory of one process and of a second.

    python benchmarks/index.py [--format coco|yolo] [--images 118000] [--boxes 860000]

A data set is made in a temporary folder (YOLO: with a real label file and a small image file for every image). Every
figure is of a fresh process that imports `onelook.data` and opens the split; memory is read from
`/proc/self/smaps_rollup` (Linux). What a second process adds is its private memory (USS) while the first holds the same
index open.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

LIMITS = {"open_seconds": 1.5, "resident_mb": 150.0, "second_process_mb": 20.0}

_OPEN = """
import json, sys, time
start = time.perf_counter()
from onelook.data import open_dataset
imported = time.perf_counter()
dataset = open_dataset(sys.argv[1], "train")
opened = time.perf_counter()
rows = range(0, len(dataset), max(1, len(dataset) // 1000))
total = sum(len(dataset.boxes(i)) for i in rows)
memory = {}
for line in open("/proc/self/smaps_rollup"):
    words = line.split()
    if words[0] in ("Rss:", "Pss:", "Private_Clean:", "Private_Dirty:"):
        memory[words[0][:-1]] = int(words[1]) / 1024
assert "torch" not in sys.modules and "cv2" not in sys.modules
print(json.dumps({"import": imported - start, "open": opened - imported, "images": len(dataset),
                  "boxes": int(dataset.num_objects.sum()), **memory}), flush=True)
sys.stdin.read()
"""


def make_coco(root: Path, num_images: int, num_boxes: int) -> None:
    """COCO JSON with an outline for every box, as large as the real one; one image file, the others only named."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    (root / "train2017" / "000000000000.jpg").write_bytes(b"")
    owners = np.sort(rng.integers(0, num_images, num_boxes))
    with open(root / "annotations" / "instances_train2017.json", "w") as file:
        images = (
            {"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480, "license": 1} for i in range(num_images)
        )
        file.write('{"images": [' + ", ".join(map(json.dumps, images)) + '], "annotations": [')
        for number, owner in enumerate(owners.tolist()):
            x, y, w, h = (round(v, 2) for v in (rng.random(4) * (400, 300, 200, 150)).tolist())
            outline = np.round((x, y) + rng.random((12, 2)) * (w, h), 2).ravel().tolist()
            entry = {"id": number + 1, "image_id": owner, "category_id": number % 80 + 1, "bbox": [x, y, w, h]}
            entry |= {"area": round(w * h * 0.7, 4), "iscrowd": 0, "segmentation": [outline]}
            file.write((", " if number else "") + json.dumps(entry))
        categories = [{"id": i + 1, "name": f"class {i}"} for i in range(80)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


def make_yolo(root: Path, num_images: int, num_boxes: int) -> None:
    """YOLO text: for every image a label file and a tiny PNG."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    image = _png(64, 48)
    rows = np.sort(rng.integers(0, num_images, num_boxes))
    ends = np.searchsorted(rows, np.arange(num_images + 1))
    values = rng.random((num_boxes, 4)) * 0.4 + 0.3
    for i in range(num_images):
        (root / "images" / "train" / f"{i:06}.png").write_bytes(image)
        lines = (f"{k % 80} {' '.join(f'{v:.6f}' for v in values[k])}" for k in range(ends[i], ends[i + 1]))
        (root / "labels" / "train" / f"{i:06}.txt").write_text("\n".join(lines))
    names = "\n".join(f"  {i}: class {i}" for i in range(80))
    (root / "data.yaml").write_text(f"train: images/train\nnames:\n{names}\n")


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def start(root: Path) -> tuple[subprocess.Popen[str], dict[str, float]]:
    """A process that opens the data set, reports, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OPEN, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the process that opens the data set failed")
    return process, json.loads(line)


def measure(root: Path, times: int = 5) -> dict[str, float]:
    """Builds the index, then opens it several times (the median counts), then in two processes at once."""
    began = time.perf_counter()
    first, built = start(root)
    first.communicate()
    building = time.perf_counter() - began
    opened = []
    for _ in range(times):
        process, figures = start(root)
        process.communicate()
        opened.append(figures)
    holder, alone = start(root)
    second, beside = start(root)
    for process in (holder, second):
        process.communicate()
    return {
        "images": built["images"],
        "boxes": built["boxes"],
        "build_seconds": building,
        "import_seconds": float(np.median([figures["import"] for figures in opened])),
        "open_seconds": float(np.median([figures["open"] for figures in opened])),
        "resident_mb": max(figures["Rss"] for figures in [*opened, alone]),
        "second_process_mb": beside["Private_Clean"] + beside["Private_Dirty"],
        "second_process_pss_mb": beside["Pss"],
        "index_mb": sum(path.stat().st_size for path in (root / ".onelook").glob("*.index")) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("coco", "yolo"), default="coco")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        {"coco": make_coco, "yolo": make_yolo}[options.format](root, options.images, options.boxes)
        figures = measure(root)
    for name, value in figures.items():
        limit = f"  (limit {LIMITS[name]:g})" if name in LIMITS else ""
        print(f"{name:>22}: {value:10,.2f}{limit}")
    missed = [name for name, limit in LIMITS.items() if figures[name] > limit]
    sys.exit(f"over the limit: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
