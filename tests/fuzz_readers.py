"""Damaged files for every reader: each ends in a result or in one `UserError`, soon, in little memory; nothing runs.

    python tests/fuzz_readers.py --seconds 600 --seed 1        # with src and tests in PYTHONPATH
    python tests/fuzz_readers.py --seed 1 --only 4711          # one example again

Examples are numbered; seed and number make one again. They run in a process of their own, so that a crash or an endless
loop is a finding like others, after which another process goes on with the next example.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_targets import Target, all_targets
from onelook.errors import UserError

SECONDS = 20.0  # of processor time for one example; the first message that names a likely model builds all of them
MEGABYTES = 700  # that one example may add to the most memory the process has ever had
ADDRESS_SPACE = 6 << 30  # beyond that of the process with all imports
RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
)
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"4294967296", b"9223372036854775808", b"0.1", b"1" * 400, b"null", b"true")
WORDS = (
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"{",
    b"[" * 2000,
    b'"',
    b"../",
    b"/dev/zero",
    b"<",
    b"&a;",
    b": ",
    b"- ",
    b"%n",
    b"\xf0",
)
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four changes. other: another file, of which a part may be put in."""
    for _ in range(int(rng.integers(1, 5))):
        size = len(data)
        first = int(rng.integers(0, size + 1))
        last = min(size, first + int(rng.choice((1, 1, 2, 4, 8, 32, 256, 4096))))
        kind = int(rng.integers(0, 9))
        if kind == 0 and size:
            changed = bytearray(data)
            for place in rng.integers(0, size, int(rng.integers(1, 9))).tolist():
                changed[place] ^= 1 << int(rng.integers(0, 8))
            data = bytes(changed)
        elif kind == 1:
            data = data[:first] + data[last:]
        elif kind == 2:
            data = data[:last] + data[first:last] * int(rng.choice((1, 2, 50))) + data[last:]
        elif kind == 3:
            data = data[:first]
        elif kind == 4:
            width = int(rng.choice((1, 2, 4, 8)))
            value = INTEGERS[int(rng.integers(0, len(INTEGERS)))] & ((1 << 8 * width) - 1)
            order: Any = ("little", "big")[int(rng.integers(0, 2))]
            data = data[:first] + value.to_bytes(width, order) + data[first + width :]
        elif kind == 5:
            data = data[:first] + WORDS[int(rng.integers(0, len(WORDS)))] + data[first:]
        elif kind == 6:
            data = data[:first] + rng.bytes(last - first) + data[last:]
        elif kind == 7:
            data = _with_another_number(data, rng)
        else:
            begin = int(rng.integers(0, len(other) + 1))
            data = data[:first] + other[begin : begin + 64] + data[last:]
    return data


def _with_another_number(data: bytes, rng: np.random.Generator) -> bytes:
    """One run of digits of a text is replaced."""
    digits = np.frombuffer(data, np.uint8)
    places = np.flatnonzero((digits >= 48) & (digits <= 57))
    if not len(places):
        return data
    first = last = int(rng.choice(places))
    while last < len(data) and data[last : last + 1].isdigit():
        last += 1
    return data[:first] + NUMBERS[int(rng.integers(0, len(NUMBERS)))] + data[last:]


class Watch:
    """What a reader may not do: start programs, connect, write outside of its folder."""

    def __init__(self) -> None:
        self.folder, self.seen = "", list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event.startswith(RUNS):
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.path.abspath(arguments[0]).startswith((self.folder, "/dev/null")):
                self.seen.append(f"writes {arguments[0]}")

    @contextmanager
    def inside(self, folder: Path) -> Iterator[list[str]]:
        """Watches; yields what has been seen."""
        self.folder, self.seen = str(folder), []
        try:
            yield self.seen
        finally:
            self.folder = ""


def damaged(target: Target, others: list[bytes], rng: np.random.Generator, folder: Path) -> None:
    """Writes the files of a target, one of them damaged."""
    name = target.damaged[int(rng.integers(0, len(target.damaged)))]
    other = others[int(rng.integers(0, len(others)))]
    for file, content in target.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(content, other, rng) if file == name else content)


def run_example(targets: dict[str, Target], seed: int, number: int, watch: Watch) -> tuple[str, str]:
    """The name of the reader, and how it ended: "read", "refused", or what is wrong."""
    rng = np.random.default_rng((seed, number))
    name = list(targets)[int(rng.integers(0, len(targets)))]
    others = [next(iter(target.files.values())) for target in targets.values()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        damaged(targets[name], others, rng, folder / "data")
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        begun, memory, result = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "read"
        with watch.inside(folder) as seen:
            try:
                targets[name].read(folder / "data")
            except UserError as error:
                result = "refused" if error.message.strip() else "an error without a message"
            except Exception:
                result = traceback.format_exc()
        if seen:
            result = "; ".join(seen)
        elif (seconds := time.process_time() - begun) > SECONDS:
            result = f"took {seconds:.0f} s"
        elif (more := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10) > MEGABYTES:
            result = f"took {more} MB"
    return name, result


def work(seed: int, first: int, seconds: float) -> None:
    """The child process: one line before and one after every example."""
    logging.disable(logging.CRITICAL)
    targets, watch, end = all_targets(), Watch(), time.monotonic() + seconds
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, size + ADDRESS_SPACE))
    answers, sys.stdout = sys.stdout, sys.stderr
    while time.monotonic() < end:
        print(f"begin {first}", file=answers, flush=True)
        signal.alarm(int(6 * SECONDS))  # without a handler it ends the process, wherever that is
        name, result = run_example(targets, seed, first, watch)
        signal.alarm(0)
        print(f"end {name}: {result!r}", file=answers, flush=True)
        first += 1


def fuzz(seed: int, seconds: float) -> tuple[Counter[str], dict[int, str]]:
    """Counts of results by reader, and findings by the number of their example."""
    counts, findings, number, end = Counter[str](), dict[int, str](), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        command = [sys.executable, "-B", __file__, "--child", str(number), "--seed", str(seed)]
        command += ["--seconds", str(end - time.monotonic())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            open_example = False
            for line in process.stdout or ():
                word, _, rest = line.rstrip("\n").partition(" ")
                open_example = word == "begin"
                if open_example:
                    number = int(rest)
                    continue
                name, _, result = rest.partition(": '")
                plain = result.rstrip("'") if result.rstrip("'") in ("read", "refused") else "WRONG"
                counts[f"{name}: {plain}"] += 1
                if plain == "WRONG":
                    findings[number] = rest
                    print(f"example {number}: {rest}", flush=True)
            if process.wait() and open_example:
                findings[number] = f"the process ended with {process.returncode}"
                print(f"example {number}: {findings[number]}", flush=True)
            number += 1
    return counts, findings


def main() -> int:
    """Runs and prints what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one example")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        work(given.seed, given.child, given.seconds)
        return 0
    if given.only is not None:
        print(*run_example(all_targets(), given.seed, given.only, Watch()), sep=": ")
        return 0
    counts, findings = fuzz(given.seed, given.seconds)
    for name in sorted({name.rpartition(": ")[0] for name in counts}):
        read, refused, wrong = (counts[f"{name}: {word}"] for word in ("read", "refused", "WRONG"))
        print(f"{name:40} {read:6} read {refused:6} refused {wrong:4} wrong")
    print(f"{counts.total()} examples, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
