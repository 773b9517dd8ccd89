"""Signals in a process that opened and closed OpenVINO models."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    detector = build(Yolox(depth=0.33, width=0.125, size=(64, 96))).eval()
    written = TARGETS["openvino"].write(detector, tmp_path_factory.mktemp("openvino") / "model.xml", ExportOptions())
    return str(written.path)


def test_ctrl_c_reaches_a_process_whose_openvino_models_are_gone(path: str) -> None:
    """A core's CPU plugin puts back the signal stack that it found; of two cores, one would put back freed memory."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


OVERWRITTEN = """
import sys
import numpy as np
from onelook.predict.runtimes.openvino import OpenvinoRuntime
runtime = OpenvinoRuntime(sys.argv[1])
feed = {"images": np.full((1, 3, 64, 96), 114, np.float32)}
before = runtime.run(["boxes", "scores"], feed)
with open(sys.argv[1].replace(".xml", ".bin"), "r+b") as weights:
    weights.truncate(100)
print(all(np.array_equal(*pair) for pair in zip(before, runtime.run(["boxes", "scores"], feed))))
"""


def test_a_model_that_runs_outlives_its_file(path: str) -> None:
    """Weights that are mapped into memory would end the process with SIGBUS once their file is overwritten."""
    done = subprocess.run([sys.executable, "-c", OVERWRITTEN, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
