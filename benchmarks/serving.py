"""The server at ten times the load that it can serve, on this machine only (127.0.0.1).

    python benchmarks/serving.py yolox-nano.onnx --threads 1 --seconds 600

Measured one after the other: the bare loop of the runtime (resized pixels to detections), the server with one request
at a time, requests at `--factor` times the bare loop's rate, again one request at a time, again the bare loop. At half
time of the load the watched model file is replaced by a damaged one.

The load is open: requests are due at random moments of a fixed mean rate (a Poisson process), whatever the server does,
and latencies count from these moments, so that a late request of the generator counts against the server. The generator
is a process of its own on the same cores; the shares of the cores that it, the server and everything else took are
printed. The number of connections is bounded, and the load goes to the server that the program has started, alone.

Exit code 1 where one of the demands is missed: served at least 0.9 of the bare loop; the 99th percentile of accepted
requests at most twice that of the unloaded server (the lower one) plus the queue's bound in time (`--queue-ms`, by
default the time of `--queue` images in the bare loop); everything else 503; memory bounded; the damaged file refused;
exit code 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from request_generator import TIMEOUT, load

MOST_SECONDS = 3600.0
LEAST_SERVED = 0.9  # of the bare loop
MOST_GROWTH = 64  # MiB, of the most after two fifths of the load over the most before


# --- the bare loop ---------------------------------------------------------------------------------------------------


def image_bytes() -> bytes:
    """A JPEG of 640 x 480 pixels with smooth shapes, as photographs have them."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def bare_loop(model: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """The runtime alone with its postprocessing, on resized pixels, in `--workers` threads.

    Returns images a second, and the processor's seconds an image.
    """
    import onelook
    from onelook.data.images import decode_image

    image, counts = decode_image(image_bytes()), [0] * arguments.workers
    detectors = [onelook.load(model, threads=arguments.threads) for _ in counts]

    def work(number: int) -> None:
        detector = detectors[number]
        pixels, placement = detector.frame(image, detector.size)
        settings = detector.settings(0.25, 0.45)
        detector.run([pixels], [placement], settings)  # the first run is slower
        ready.wait()
        while time.monotonic() < ends:
            detector.run([pixels], [placement], settings)
            counts[number] += 1

    ends = used = 0.0

    def begin() -> None:
        nonlocal ends, used
        ends, used = time.monotonic() + arguments.bare_seconds, time.process_time()

    ready = threading.Barrier(len(counts), action=begin)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    return sum(counts) / arguments.bare_seconds, used / max(1, sum(counts))


# --- the server ------------------------------------------------------------------------------------------------------


def start(folder: Path, queue_ms: float, arguments: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """The server of a folder, and its port."""
    command = [sys.executable, "-m", "onelook", "serve", "--watch", str(folder), "--watch-seconds", "0.5"]
    command += ["--port", "0", "--queue", str(arguments.queue), "--queue-ms", f"{queue_ms:.0f}"]
    command += ["--workers", str(arguments.workers)]
    command += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    with open(folder.parent / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        text = (folder.parent / "log").read_text(encoding="utf-8")
        if "Serving on" in text:
            return process, int(text.split("Serving on http://127.0.0.1:")[1].split()[0])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"The server did not start:\n{(folder.parent / 'log').read_text(encoding='utf-8')}")


def memory(process: int) -> float:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def used_seconds(process: int) -> float:
    """Processor seconds that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_seconds(port: int) -> float:
    """Seconds that the model's threads have spent in runs of the network so far, by the server's own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as answer:
        lines = answer.read().decode().splitlines()
    name = "onelook_stage_seconds_sum{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and 'stage="inference"' in line)


def busy_seconds() -> float:
    """Processor seconds that all processes of the machine have taken."""
    values = [int(one) for one in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(values) - values[3] - values[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for disks


class Watcher(threading.Thread):
    """Notes the server's memory each second of a load, and damages the model file at half time."""

    def __init__(self, process: int, file: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self.process, self.file, self.seconds = process, file, seconds
        self.memories: list[float] = []

    def run(self) -> None:
        began, damaged = time.monotonic(), False
        while (now := time.monotonic() - began) < self.seconds:
            self.memories.append(memory(self.process))
            if now >= self.seconds / 2 and not damaged:
                self.file.write_bytes(self.file.read_bytes()[: self.file.stat().st_size // 2])
                damaged = True
            time.sleep(1.0)


# --- all figures -----------------------------------------------------------------------------------------------------


def milliseconds(values: list[float]) -> list[float]:
    """The 50th and 99th percentile, and the maximum."""
    return [round(float(one) * 1000, 1) for one in np.percentile(values or [np.nan], (50, 99, 100))]


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, object], dict[str, bool]]:
    """All figures, and the demands with whether they hold."""
    place = folder / "models" / "detector" / "1"
    place.mkdir(parents=True)
    file = Path(shutil.copy(arguments.model, place))
    body = image_bytes()
    request = f"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    before, least = bare_loop(file, arguments)
    queue_ms = arguments.queue_ms or 1000 * arguments.queue / before
    process, port = start(folder / "models", queue_ms, arguments)
    try:
        load(port, request, None, 2.0)  # the first requests import what they need
        unloaded = [load(port, request, None, arguments.unloaded_seconds)]
        watcher = Watcher(process.pid, file, arguments.seconds)
        runs = run_seconds(port)
        busy, used, own, began = busy_seconds(), used_seconds(process.pid), time.process_time(), time.monotonic()
        watcher.start()
        loaded = load(port, request, arguments.factor * before, arguments.seconds)
        took = time.monotonic() - began
        busy, used = busy_seconds() - busy, used_seconds(process.pid) - used
        own, runs = time.process_time() - own, run_seconds(port) - runs
        watcher.join()
        alive = process.poll() is None
        unloaded.append(load(port, request, None, arguments.unloaded_seconds))
    finally:
        process.terminate()
        code = process.wait(60)
    after, _ = bare_loop(Path(arguments.model), arguments)
    alone = [one for part in unloaded for one, _ in part.accepted]
    accepted = [one for one, _ in loaded.accepted]
    bare, served = (before + after) / 2, len(accepted) / loaded.seconds
    bound = 2 * min(milliseconds([one for one, _ in part.accepted])[1] for part in unloaded) + queue_ms
    memories = watcher.memories
    fifth = max(1, len(memories) // 5)
    growth = max(memories[2 * fifth :]) - max(memories[: 2 * fifth])
    log = (folder / "log").read_text(encoding="utf-8")
    figures: dict[str, object] = {
        "bare loop before and after, images/s": (round(before, 1), round(after, 1)),
        "offered, requests/s": round(len(loaded.late) / loaded.seconds, 1),
        "served, images/s": round(served, 1),
        "served / bare loop": round(served / bare, 3),
        "processor ms an image, bare loop and server": (
            round(1000 * least, 1),
            round(1000 * used / max(1, len(accepted)), 1),
        ),
        "share of the time that the network ran": round(runs / loaded.seconds / arguments.workers, 3),
        "answers by status": dict(loaded.statuses),
        "one at a time, ms (50 %, 99 %, most)": milliseconds(alone),
        "the same before and after the load": [milliseconds([one for one, _ in part.accepted]) for part in unloaded],
        "accepted, ms (50 %, 99 %, most)": milliseconds(accepted),
        "the same from when they were sent": milliseconds([one for _, one in loaded.accepted]),
        "refused, ms (50 %, 99 %, most)": milliseconds(loaded.refused),
        "queue's bound, ms": round(queue_ms, 1),
        "bound of the 99 %, ms": round(bound, 1),
        "generator late, ms (50 %, 99 %, most)": milliseconds(loaded.late),
        "requests that waited for a connection": loaded.no_connection,
        "cores": os.cpu_count(),
        "cores of server, generator, all else": [
            round(one / took, 2) for one in (used, loaded.processor, busy - used - loaded.processor - own)
        ],
        "memory at start, half, end, most, MiB": [
            round(one) for one in (memories[0], memories[len(memories) // 2], memories[-1], max(memories))
        ],
        "exit code after SIGTERM": code,
    }
    demands = {
        f"served at least {LEAST_SERVED} of the bare loop": served >= LEAST_SERVED * bare,
        "99 % of the accepted within the bound": milliseconds(accepted)[1] <= bound,
        "every answer 200 or 503": set(loaded.statuses) <= {200, 503},
        f"memory grew by less than {MOST_GROWTH} MiB": growth < MOST_GROWTH,
        "damaged file refused, old one served on": '"model refused"' in log and unloaded[1].statuses[200] > 0,
        "alive at the end, exit code 0": alive and code == 0,
    }
    return figures, demands


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an exported file that is one file, such as .onnx")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load")
    parser.add_argument("--bare-seconds", type=float, default=10.0, help="of the bare loop, before and after")
    parser.add_argument("--unloaded-seconds", type=float, default=15.0, help="of one request at a time")
    parser.add_argument("--threads", type=int, help="of one run of the network")
    parser.add_argument("--workers", type=int, default=1, help="threads that run the network, and the bare loop")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--queue-ms", type=float, help="unless given, the time of --queue images in the bare loop")
    parser.add_argument("--factor", type=float, default=10.0, help="offered load, in rates of the bare loop")
    arguments = parser.parse_args()
    if not 5 <= arguments.seconds <= MOST_SECONDS:
        parser.error(f"--seconds is 5 to {MOST_SECONDS:g}")
    with tempfile.TemporaryDirectory() as folder:
        figures, demands = measure(arguments, Path(folder))
    for name, value in figures.items():
        print(f"{name:44} {json.dumps(value)}")
    for name, holds in demands.items():
        print(f"{'holds ' if holds else 'MISSED'} {name}")
    return 0 if all(demands.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
