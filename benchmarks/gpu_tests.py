"""A pytest plugin (`-p gpu_tests`) that writes the outcome of each test as it ends, to the file in GPU_TESTS_ROWS."""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest after each phase of a test; the phase of the test itself counts, and others that fail."""
    skipped_before = report.when == "setup" and report.skipped
    if report.when != "call" and not report.failed and not skipped_before:
        return
    row = {"part": "tests", "test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
    if report.failed:
        row["error"] = str(report.longreprtext)[-1500:]
    with open(os.environ["GPU_TESTS_ROWS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
