"""Signals in a process that opened and closed OpenVINO models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from onelook.exporting.target import ExportOptions
from onelook.exporting.targets import TARGETS
from onelook.networks.build import build
from onelook.networks.yolox.architecture import Yolox

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
# What other libraries say while they are imported.
pytestmark = [pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*jit")]

PROGRAM = """
import gc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import faulthandler
faulthandler.enable()
from onelook.predict.runtimes.openvino import OpenvinoRuntime
first, second = (OpenvinoRuntime(sys.argv[1]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_reaches_a_process_whose_openvino_models_are_gone(tmp_path: Path) -> None:
    """A core's CPU plugin puts back the signal stack that it found; of two cores, one would put back freed memory."""
    detector = build(Yolox(depth=0.33, width=0.125, size=(64, 96))).eval()
    path = TARGETS["openvino"].write(detector, tmp_path / "model.xml", ExportOptions()).path
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
