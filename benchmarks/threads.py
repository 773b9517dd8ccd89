"""Training and detection on busy cores: the default number of threads against fixed numbers.

    python benchmarks/threads.py photos/ --weights yolox_nano.safetensors --exported yolox_nano_exported.onnx --load 6

Starts `--load` processes that only count, and that end by themselves after a while. Meanwhile each of the works runs in
turn with the default and with every fixed number of threads, as a whole command; its images a second are its own
statement, without its start. The last column is the default's speed as a part of the best fixed number's.
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
from pathlib import Path
from statistics import median

from onelook.data.synthetic import Scenes, write_synthetic
from onelook.devices import num_cores, processor_name


def count_until(end: float) -> None:
    """Keeps a core busy until a time of the monotonic clock, or until its parent has ended."""
    parent, number = os.getppid(), 1.0
    while time.monotonic() < end and os.getppid() == parent:
        for _ in range(20_000):
            number = number * 1.0000001 + 1e-9


def speed(command: list[str]) -> float:
    """Images a second of a command of Onelook, as it states them in its JSON."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        full = [sys.executable, "-m", "onelook", *command, "--out", str(Path(folder) / "run"), "--json", str(out)]
        subprocess.run(full, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if command[0] == "train":
            lines = (Path(folder) / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
            rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
            return len(rows) / sum(1 / float(row["images_per_second"]) for row in rows)
        found = json.loads(out.read_text(encoding="utf-8"))
        return float(found["images"]) / float(found["seconds"])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", required=True, help="weights file of a model")
    parser.add_argument("--exported", required=True, help="the same, exported to ONNX")
    parser.add_argument("--load", type=int, default=6, help="processes that keep cores busy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--longest", type=float, default=900.0, help="seconds after which the load ends in any case")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = str(write_synthetic(Path(folder) / "data", Scenes(size=(96, 96)), {"train": 96}))
        train = ["train", data, "--model", "yolox-nano", "--size", "96", "--batch", "8", "--epochs", str(given.epochs)]
        train += ["--device", "cpu", "--workers", "0", "--val-split", "none"]
        detect = ["detect", str(given.photos), "--device", "cpu", "--format", "json", "--model"]
        works = {
            "training": train,
            "detection, PyTorch": [*detect, given.weights, "--runtime", "torch"],
            "detection, exported file": [*detect, given.exported],
        }
        settings = ["default", *map(str, range(1, num_cores() + 1))]
        end = time.monotonic() + given.longest
        busy = [multiprocessing.Process(target=count_until, args=(end,), daemon=True) for _ in range(given.load)]
        for process in busy:
            process.start()
        try:
            print(f"load {given.load} on {num_cores()} cores, {processor_name()}; images a second, medians")
            print(f"{'':26}" + "".join(f"{name:>9}" for name in settings) + "   of best")
            for name, command in works.items():
                found: dict[str, list[float]] = {setting: [] for setting in settings}
                for _ in range(given.rounds):
                    for setting in settings:
                        chosen = [] if setting == "default" else ["--threads", setting]
                        found[setting].append(speed([*command, *chosen]))
                middle = {setting: median(speeds) for setting, speeds in found.items()}
                best = max(middle[setting] for setting in settings[1:])
                print(f"{name:26}" + "".join(f"{middle[one]:9.1f}" for one in settings), end="")
                print(f"{middle['default'] / best:10.2f}", flush=True)
        finally:
            for process in busy:
                process.terminate()
    if time.monotonic() > end:
        print("The load ended before the measurement: give --longest more seconds.", file=sys.stderr)


if __name__ == "__main__":
    main()
