"""What the parts of `gpu.sh` share: results that are written line by line, and the time that is left."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


class Rows:
    """A file of JSON lines, each written when it is known: what comes later, or never, loses none.

    seconds: after which no further measurement begins; `gpu.py` counts from the start of the process (GPU_PART_END).
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        given = os.environ.get("GPU_PART_END")
        seconds = seconds if given is None else min(seconds, float(given) - time.time())
        self.path, self._end = path, time.monotonic() + seconds
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row, and prints it."""
        text = json.dumps(row)
        print(text, flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def measure(self, names: Mapping[str, Any], measurement: Callable[[], Mapping[str, Any]]) -> None:
        """Adds the row of a measurement; one that fails, or has no time left, is a row that says so."""
        if self.left <= 0:
            self.write({**names, "left_out": "no time left"})
            return
        begin = time.monotonic()
        try:
            row = {**names, **measurement()}
        except Exception as error:  # the next measurement may work, and the GPU is there for minutes only
            row = {**names, "error": f"{type(error).__name__}: {error}"[:500]}
        self.write({**row, "seconds": round(time.monotonic() - begin, 2)})


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every part has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0, help="after which no further measurement begins")
    parser.add_argument("--rows", type=Path, help="file of JSON lines to which results are added")
    parser.add_argument("--tiny", action="store_true", help="narrow networks and small images: shows that it works")
    return parser


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def begin_memory(device: torch.device) -> None:
    """Forgets the largest use of the device's memory so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory_gib(device: torch.device) -> float | None:
    """The largest use of the device's memory since `begin_memory`, in GiB; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
