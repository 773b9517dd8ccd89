"""The server at ten times the load that it can serve, on this machine only (127.0.0.1).

    python benchmarks/serving.py yolox-nano.onnx --seconds 60 [--threads 1] [--queue 16] [--factor 10]

Measured in one run, on a machine whose other work is in every number: the bare loop of the runtime (resized pixels to
detections), the server with one request at a time, then with requests at `factor` times the bare loop's rate, one half
before and one half after the watched model file is replaced by a damaged one. Latencies are of the client. The load has
a bounded number of connections, requests and seconds, and goes to the server that the program has started, alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

import onelook
from onelook.data.images import decode_image

CONNECTIONS = 64
MOST_SECONDS = 1800.0


@dataclass
class Load:
    """The answers of a load: latencies of accepted requests in seconds, and how often each status came."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        return float(np.percentile(self.accepted, share)) * 1000 if self.accepted else float("nan")


def image_bytes() -> bytes:
    """A JPEG of 640 x 480 pixels with smooth shapes, as photographs have them."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def bare_rate(model: Path, threads: int | None, seconds: float) -> float:
    """Images a second of the runtime alone, with its postprocessing, on pixels that are resized already."""
    detector = onelook.load(model, threads=threads)
    image = decode_image(image_bytes())
    pixels, placement = detector.frame(image, detector.size)
    settings = detector.settings(0.25, 0.45)
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds or count < 5:
        detector.run([pixels], [placement], settings)
        count += 1
    return count / (time.monotonic() - started)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Sends a request and reads its answer; the status."""
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head[9:12])


async def load(port: int, request: bytes, rate: float | None, seconds: float, connections: int) -> Load:
    """Requests at a rate, or one after the other on each connection (None), until `seconds` are over."""
    result, started = Load(), time.monotonic()
    sent = 0

    async def work() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (now := time.monotonic() - started) < seconds:
            if rate is not None:
                sent += 1
                await asyncio.sleep(max(0.0, sent / rate - now))
            begun = time.monotonic()
            try:
                status = await asyncio.wait_for(ask(reader, writer, request), 60)
            except (OSError, EOFError, asyncio.TimeoutError):
                result.statuses[0] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            result.statuses[status] += 1
            if status == 200:
                result.accepted.append(time.monotonic() - begun)
        writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    result.seconds = time.monotonic() - started
    return result


def memory(process: int) -> float:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start(folder: Path, arguments: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """The server of a folder, and its port."""
    command = [sys.executable, "-m", "onelook", "serve", "--watch", str(folder), "--watch-seconds", "0.5"]
    command += ["--port", "0", "--queue", str(arguments.queue)]
    command += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    log = open(folder.parent / "log", "w+", encoding="utf-8")  # noqa: SIM115  # the process writes to it
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        text = (folder.parent / "log").read_text(encoding="utf-8")
        if "Serving on" in text:
            return process, int(text.split("Serving on http://127.0.0.1:")[1].split()[0])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"The server did not start:\n{(folder.parent / 'log').read_text(encoding='utf-8')}")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All figures."""
    place = folder / "models" / "detector" / "1"
    place.mkdir(parents=True)
    file = Path(shutil.copy(arguments.model, place))
    body = image_bytes()
    head = f"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    before = bare_rate(file, arguments.threads, arguments.bare_seconds)
    process, port = start(folder / "models", arguments)
    try:
        asyncio.run(load(port, request, None, 1.0, 1))  # the first requests import what they need
        unloaded = asyncio.run(load(port, request, None, arguments.bare_seconds, 1))
        memories, parts = [memory(process.pid)], []
        for part in range(2):
            if part == 1:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            rate = arguments.factor * before
            parts.append(asyncio.run(load(port, request, rate, arguments.seconds / 2, CONNECTIONS)))
            memories.append(memory(process.pid))
        alive = process.poll() is None
    finally:
        process.terminate()
        code = process.wait(60)
    after = bare_rate(Path(arguments.model), arguments.threads, arguments.bare_seconds)
    statuses: Counter[int] = parts[0].statuses + parts[1].statuses
    accepted = Load(accepted=parts[0].accepted + parts[1].accepted)
    bare, served = (before + after) / 2, len(accepted.accepted) / sum(part.seconds for part in parts)
    log = (folder / "log").read_text(encoding="utf-8")
    return {
        "bare loop, images/s": (round(before, 1), round(after, 1)),
        "served at saturation, images/s": round(served, 1),
        "served / bare": round(served / bare, 3),
        "offered, requests/s": round(sum(statuses.values()) / sum(part.seconds for part in parts), 1),
        "share of 503": round(statuses[503] / sum(statuses.values()), 4),
        "statuses": dict(statuses),
        "p50, p99 unloaded, ms": (round(unloaded.percentile(50), 1), round(unloaded.percentile(99), 1)),
        "p50, p99 accepted, ms": (round(accepted.percentile(50), 1), round(accepted.percentile(99), 1)),
        "bound of p99, ms": round(2 * unloaded.percentile(99) + 1000 * arguments.queue / served, 1),
        "memory before, half, end, MiB": [round(one) for one in memories],
        "damaged file refused, old one served": '"model refused"' in log and parts[1].statuses[200] > 0,
        "alive at the end": alive,
        "exit code after SIGTERM": code,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an exported file that is one file, such as .onnx")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load")
    parser.add_argument("--bare-seconds", type=float, default=5.0, help="of the bare loop, and of the unloaded server")
    parser.add_argument("--threads", type=int, help="of one run of the network")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--factor", type=float, default=10.0, help="offered load, in rates of the bare loop")
    arguments = parser.parse_args()
    if not 1 <= arguments.seconds <= MOST_SECONDS:
        parser.error(f"--seconds is 1 to {MOST_SECONDS:g}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    for name, value in found.items():
        print(f"{name:40} {json.dumps(value)}")


if __name__ == "__main__":
    main()
