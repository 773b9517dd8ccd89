"""The command `onelook serve` in a process of its own, and others that serve until they are ended."""

from __future__ import annotations

import os
import re
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
    with serving_command("serve", *arguments) as started:
        yield started


@contextmanager
def serving_command(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same for a command and its arguments, which print an address when the server is ready."""
    line = [sys.executable, "-m", "onelook", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(onelook.__file__).parents[1])}
    started = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert started.stdout is not None
    try:
        lines = []
        for text in started.stdout:
            lines.append(text)
            if address := re.search(r"http://127\.0\.0\.1:\d+", text):
                break
        else:
            pytest.fail("".join(lines))
        yield address[0], started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
