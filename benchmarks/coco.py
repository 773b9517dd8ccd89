"""COCO files: opening annotations for the first time and later, and scoring a results file, as whole processes.

    python benchmarks/coco.py open [--images 118000] [--boxes 860000] [--corners 8] [--others]
    python benchmarks/coco.py score [--images 5000] [--boxes 36800] [--detections 300000] [--rounds 9]

`open` prints processor time and peak memory of a process that opens a data set in Python, first and later;
`--others` adds pycocotools and hotcoco, where they are installed. `score` runs `onelook score` and a script that calls
hotcoco in turn, and prints the median of the rounds' ratios. Processor time is user and system time of the process,
with one thread. Modules are compiled to byte code before, as in an installed package.

The files are made like those of COCO 2017: annotations in no order, an outline for each, one crowd in a hundred with
run lengths, image ids and category ids with gaps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

_OPEN = "import sys, onelook; print(len(onelook.open_dataset(sys.argv[1], split='train')))"
_PYCOCOTOOLS = "import sys; from pycocotools.coco import COCO; print(len(COCO(sys.argv[1]).imgs))"
_HOTCOCO = "import sys; from hotcoco import COCO; print(len(COCO(sys.argv[1]).get_img_ids()))"
_HOTCOCO_SCORE = """
import sys
from hotcoco import COCO, COCOeval
truth = COCO(sys.argv[1])
evaluator = COCOeval(truth, truth.load_res(sys.argv[2]), "bbox")
evaluator.evaluate()
evaluator.accumulate()
evaluator.summarize()
"""


def make_annotations(path: Path, num_images: int, num_boxes: int, corners: int) -> dict[str, Any]:
    """Writes a COCO file and returns its content. corners: most that an outline has, at least 3."""
    rng = np.random.default_rng(0)
    image_ids = np.sort(rng.choice(num_images * 5, num_images, replace=False)).tolist()
    category_ids = np.sort(rng.choice(np.arange(1, 91), 80, replace=False)).tolist()
    boxes = np.round(rng.random((num_boxes, 4)) * (400, 300, 200, 150) + (0, 0, 2, 2), 2)
    areas = np.round(boxes[:, 2] * boxes[:, 3] * 0.7, 4).tolist()
    owners, labels = rng.integers(0, num_images, num_boxes).tolist(), rng.integers(0, 80, num_boxes).tolist()
    counts = rng.integers(3, corners + 1, num_boxes).tolist()
    images = [
        {"license": number % 8, "file_name": f"{number:012}.jpg", "height": 480, "width": 640, "id": number}
        for number in image_ids
    ]
    annotations = []
    for row, (x, y, w, h) in enumerate(boxes.tolist()):
        outline: Any = [np.round(rng.random((counts[row], 2)) * (w, h) + (x, y), 2).ravel().tolist()]
        crowd = row % 100 == 99
        annotations.append(
            {
                "segmentation": {"counts": [row, 306_000, 1_200], "size": [480, 640]} if crowd else outline,
                "area": areas[row],
                "iscrowd": int(crowd),
                "image_id": image_ids[owners[row]],
                "bbox": [x, y, w, h],
                "category_id": category_ids[labels[row]],
                "id": row + 1,
            }
        )
    categories = [{"supercategory": "thing", "id": number, "name": f"class {number}"} for number in category_ids]
    content = {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return content


def make_detections(path: Path, content: dict[str, Any], count: int) -> None:
    """Writes a results file: detections near annotated objects, of which seven in ten have another class."""
    rng = np.random.default_rng(1)
    objects, categories = content["annotations"], [category["id"] for category in content["categories"]]
    near = np.sort(rng.integers(0, len(objects), count)).tolist()
    moved = rng.normal(0, 8, (count, 4)).tolist()
    scores, wrong = rng.random(count).tolist(), (rng.random(count) < 0.7).tolist()
    found = []
    for row, thing in enumerate(near):
        box = [round(max(side + step, 1), 3) for side, step in zip(objects[thing]["bbox"], moved[row])]
        category = categories[row % len(categories)] if wrong[row] else objects[thing]["category_id"]
        entry = {"image_id": objects[thing]["image_id"], "category_id": category, "bbox": box}
        found.append({**entry, "score": round(scores[row], 5)})
    path.write_text(json.dumps(sorted(found, key=lambda entry: entry["image_id"])))


def make(folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """Writes the files in a process of its own: what this one has taken counts for every process that it starts."""
    annotations, detections = folder / "instances_train2017.json", folder / "detections.json"
    counts = (options.images, options.boxes, options.corners, options.detections)
    process = multiprocessing.get_context("spawn").Process(target=_make, args=(annotations, detections, counts))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the files could not be made")
    return annotations, detections


def _make(annotations: Path, detections: Path, counts: Sequence[int]) -> None:
    *shape, num_detections = counts
    content = make_annotations(annotations, *shape)
    if num_detections:
        make_detections(detections, content, num_detections)


def run(command: Sequence[str | Path], byte_code: Path) -> tuple[float, float]:
    """(processor seconds, peak MB) of a command's process."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings |= {"PYTHONPYCACHEPREFIX": str(byte_code), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, env=surroundings)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))[:200]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure_opening(root: Path, options: argparse.Namespace) -> None:
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    annotations, _ = make(root / "annotations", options)
    size, python = annotations.stat().st_size / 1e6, sys.executable
    print(f"{options.images} images, {options.boxes} boxes, {size:.0f} MB")
    (root / "train2017" / f"{first_image(annotations)}").write_bytes(b"")
    byte_code = root / "byte code"
    time.sleep(3)  # the contents of a file that was written a moment ago are compared too: see `data/cache.py`
    run([python, "-c", "import onelook.data.dataset"], byte_code)
    print("first:  {:6.2f} s, {:5.0f} MB".format(*run([python, "-c", _OPEN, root], byte_code)))
    later = [run([python, "-c", _OPEN, root], byte_code) for _ in range(options.rounds)]
    print(f"later:  {median(row[0] for row in later):6.2f} s, {max(row[1] for row in later):5.0f} MB")
    for name, script in (("pycocotools", _PYCOCOTOOLS), ("hotcoco", _HOTCOCO)) if options.others else ():
        print("{}: {:6.2f} s, {:5.0f} MB".format(name, *run([python, "-c", script, annotations], byte_code)))


def first_image(annotations: Path) -> str:
    """The name of the first image, which must be there: the folder of the images is found by it."""
    with annotations.open() as file:
        return file.read(1000).split('"file_name": "')[1].split('"')[0]


def measure_scoring(root: Path, options: argparse.Namespace) -> None:
    annotations, detections = make(root, options)
    hotcoco: list[str | Path] = [sys.executable, "-c", _HOTCOCO_SCORE, annotations, detections]
    onelook: list[str | Path] = [sys.executable, "-m", "onelook", "score", annotations, detections]
    rounds = [(run(hotcoco, root / "byte code"), run(onelook, root / "byte code")) for _ in range(options.rounds + 1)]
    rounds = rounds[1:]  # the first one compiles
    for name, column in (("hotcoco", 0), ("onelook score", 1)):
        seconds, memory = (median(row[column][part] for row in rounds) for part in (0, 1))
        print(f"{name:>13}: {seconds:6.3f} s, {memory:5.0f} MB")
    print(f"ratio: {median(ours[0] / theirs[0] for theirs, ours in rounds):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    opening, scoring = kinds.add_parser("open"), kinds.add_parser("score")
    for kind, images, boxes in ((opening, 118_000, 860_000), (scoring, 5_000, 36_800)):
        kind.add_argument("--images", type=int, default=images)
        kind.add_argument("--boxes", type=int, default=boxes)
        kind.add_argument("--rounds", type=int, default=9)
    opening.add_argument("--corners", type=int, default=8)
    opening.add_argument("--others", action="store_true")
    opening.set_defaults(detections=0)
    scoring.add_argument("--detections", type=int, default=300_000)
    scoring.set_defaults(corners=40)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory() as folder:
        (measure_opening if options.kind == "open" else measure_scoring)(Path(folder), options)


if __name__ == "__main__":
    main()
