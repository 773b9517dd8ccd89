"""Processor time from the start of `onelook detect` to its first result, against the bare minimum.

    python benchmarks/startup.py exported exported.onnx photo.jpg      # bare: a script of NumPy, OpenCV, ONNX Runtime
    python benchmarks/startup.py weights yolox_nano.safetensors photo.jpg   # bare: `import torch`

Each run is a process of its own; runs of both alternate, on one thread. User and system time of the processes count,
not wall time, so that other work on the machine disturbs less. Prints the median of the ratios of neighbouring runs
(`exported`), and the median of the differences (`weights`).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

# Decode, letterbox, run, NMS, draw, write the image and the JSON: what `onelook detect` does, and nothing else.
BARE = """
import json, sys
import cv2
import numpy as np
import onnxruntime

model, photo, folder = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
height, width = session.get_inputs()[0].shape[2:]
image = cv2.imread(photo)
ratio = min(height / image.shape[0], width / image.shape[1])
small = cv2.resize(image, (int(image.shape[1] * ratio), int(image.shape[0] * ratio)))
canvas = np.full((height, width, 3), 114, np.uint8)
canvas[: small.shape[0], : small.shape[1]] = small
pixels = canvas[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
boxes, scores = session.run(["boxes", "scores"], {"images": pixels})
labels, best = scores[0].argmax(1), scores[0].max(1)
rows = np.flatnonzero(best >= 0.25)
sides = boxes[0, rows] / ratio
corners = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in sides.tolist()]
kept = cv2.dnn.NMSBoxesBatched(corners, best[rows].tolist(), labels[rows].tolist(), 0.25, 0.45)
found = []
for row in kept:
    x1, y1, x2, y2 = sides[row].tolist()
    label, score = int(labels[rows[row]]), float(best[rows[row]])
    found.append({"box": [x1, y1, x2, y2], "score": score, "label": label})
    cv2.rectangle(image, (int(x1), int(y1)), (int(x2), int(y2)), (0, 0, 255), 2)
    cv2.putText(image, f"{label} {score:.2f}", (int(x1), int(y1)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 255), 1)
cv2.imwrite(folder + "/image.jpg", image)
with open(folder + "/detections.json", "w") as file:
    json.dump([{"source": photo, "detections": found}], file)
"""


def seconds_of(command: Sequence[str], compiled: str) -> float:
    """User and system time of one process. compiled: folder for compiled modules: an installation has them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("exported", "weights"))
    parser.add_argument("model", help="exported ONNX file, or weights file of Onelook's")
    parser.add_argument("photo")
    parser.add_argument("--runs", type=int, default=11)
    given = parser.parse_args()
    times: list[tuple[float, float]] = []
    compiled = tempfile.TemporaryDirectory()
    for number in range(given.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            bare = [sys.executable, "-c", "import torch"]
            if given.kind == "exported":
                bare = [sys.executable, "-c", BARE, given.model, given.photo, folder]
            onelook = [sys.executable, "-m", "onelook", "detect", given.photo, "--model", given.model]
            onelook += ["--device", "cpu", "--threads", "1", "--out", str(Path(folder) / "out")]
            pair = (seconds_of(bare, compiled.name), seconds_of(onelook, compiled.name))
        if number:  # the first pair fills the caches
            times.append(pair)
    compiled.cleanup()
    bare_median, onelook_median = (median(column) for column in zip(*times))
    print(f"bare {bare_median:.3f} s, onelook detect {onelook_median:.3f} s of processor time")
    print(f"ratio {median(ours / theirs for theirs, ours in times):.2f}")
    print(f"difference {median(ours - theirs for theirs, ours in times):.3f} s")


if __name__ == "__main__":
    main()
