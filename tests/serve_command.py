"""The command `onelook serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import onelook


@contextmanager
def serve_command(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of a server, whose standard output and errors are one stream."""
    line = [sys.executable, "-m", "onelook", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(onelook.__file__).parents[1])}
    started = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert started.stdout is not None
    try:
        lines = []
        for text in started.stdout:
            lines.append(text)
            if "Serving on" in text:
                break
        else:
            pytest.fail("".join(lines))
        yield next(word for word in lines[-1].split() if word.startswith("http")).rstrip("/"), started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
