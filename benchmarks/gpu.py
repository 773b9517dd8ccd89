"""All that is measured on a GPU, in ten minutes at most: tests, steps, trainings, detection. Run it by `gpu.sh`.

Each part is a process of its own with a share of the time; what one leaves goes to the next. Parts write a line for
each result as it is known, and `gpu.json` and `gpu.md` are written again every few seconds: however it ends, what was
measured is there. A part that runs past its time is ended, and the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_table import markdown

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# In the order of their worth: the whole file first, without what compiles for minutes.
TESTS = ("tests/test_cuda.py", "tests/test_cuda_batches.py", "tests/test_tensorrt.py")
RESERVE, REFRESH = 5.0, 3.0  # seconds for the last table; between two tables


@dataclass(frozen=True)
class Part:
    """A part of the measurement. share: of the time.  grace: seconds after its own end until it is killed."""

    name: str
    share: float
    command: tuple[str, ...]
    grace: float = 10.0


def parts(device: str, tiny: bool, data: str | None, names: tuple[str, ...]) -> list[Part]:
    """The chosen parts, in their order."""
    flags = ("--device", device, *(("--tiny",) if tiny else ()))
    pytest = ("-m", "pytest", "-q", "-n0", "-p", "gpu_tests", "-p", "no:cacheprovider", *TESTS)
    every = (
        Part("tests", 0.25, pytest, grace=0.0),
        Part("steps", 0.4, (str(HERE / "gpu_steps.py"), *flags)),
        Part("trainings", 0.2, (str(HERE / "gpu_trainings.py"), *flags, *(("--data", data) if data else ()))),
        Part("detection", 0.15, (str(HERE / "gpu_detection.py"), *flags)),
    )
    return [part for part in every if part.name in names]


class Session:
    """The folder of the results, and what is written there.

    names: of the parts.  limit: seconds for all of them.
    """

    def __init__(self, out: Path, names: list[str], limit: float) -> None:
        self.out, self.names, self.limit, self.begin = out, names, limit, time.monotonic()
        self.ends: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds for the parts that have not run."""
        return self.limit - RESERVE - (time.monotonic() - self.begin)

    def run(self, part: Part, seconds: float) -> None:
        """Runs a part for so many seconds at most."""
        rows, log = self.out / f"{part.name}.jsonl", self.out / f"{part.name}.log"
        paths = [str(ROOT / "src"), str(HERE), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "GPU_TESTS_ROWS": str(rows), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [sys.executable, *part.command]
        if part.name != "tests":
            environment["GPU_PART_END"] = str(time.time() + max(seconds - part.grace, 1))
            command += ["--seconds", f"{max(seconds - part.grace, 1):.0f}", "--rows", str(rows)]
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            # A session of its own: its workers end with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                while process.poll() is None and (left := seconds - (time.monotonic() - started)) > 0:
                    try:
                        process.wait(timeout=min(REFRESH, left))
                    except subprocess.TimeoutExpired:
                        self.write()
            finally:
                ended = process.poll()
                if ended is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        end = "its time was over" if ended is None else f"exit code {ended}"
        self.ends[part.name] = {"seconds": round(time.monotonic() - started, 1), "end": end, "log": str(log)}
        self.write()

    def write(self) -> None:
        """Writes gpu.json and gpu.md from what the parts have written so far."""
        setup = {**describe(), "seconds": round(time.monotonic() - self.begin, 1), "limit": self.limit}
        result = {"setup": setup, "parts": self.ends, "rows": read_rows(self.out, self.names)}
        for name, text in (("gpu.json", json.dumps(result, indent=1) + "\n"), ("gpu.md", markdown(result))):
            waiting = self.out / f"{name}.new"
            waiting.write_text(text, encoding="utf-8")
            waiting.replace(self.out / name)


def read_rows(out: Path, names: list[str]) -> list[dict[str, Any]]:
    """All results so far; a line that was cut is left out."""
    found: list[dict[str, Any]] = []
    for name in names:
        path = out / f"{name}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


_DESCRIBED: dict[str, Any] = {}


def describe() -> dict[str, Any]:
    """The machine and the versions; asked for once."""
    if not _DESCRIBED:
        import torch

        cuda = torch.cuda.is_available()
        _DESCRIBED.update(
            gpu=torch.cuda.get_device_name() if cuda else None,
            gpus=torch.cuda.device_count(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            python=platform.python_version(),
            torch=torch.__version__,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version() if cuda else None,
        )
    return _DESCRIBED


def main() -> None:
    """Runs the parts one after the other."""
    names = ("tests", "steps", "trainings", "detection")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu")), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=570.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", default=list(names), choices=names)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="data set for the whole trainings; made-up scenes unless given")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on any device: shows that every part works")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if any(asked.out.glob("*.jsonl")):
        parser.error(f"'{asked.out}' holds results already; choose another folder with --out.")
    if asked.device.startswith("cuda") and describe()["gpu"] is None:
        parser.error("there is no CUDA device here; --dry-run --device cpu shows that every part works.")
    chosen = parts(asked.device, asked.dry_run, asked.data, tuple(asked.parts))
    session = Session(asked.out, [part.name for part in chosen], asked.seconds)
    for number, part in enumerate(chosen):
        left = session.left
        share = left * part.share / sum(one.share for one in chosen[number:])
        print(f"{part.name}: {share:.0f} of {left:.0f} s", flush=True)
        session.run(part, share)
    print((asked.out / "gpu.md").read_text(encoding="utf-8"))
    print(f"Written: {asked.out / 'gpu.json'} and {asked.out / 'gpu.md'}")


if __name__ == "__main__":
    main()
