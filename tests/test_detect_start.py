"""The start of `onelook detect` with an exported file loads no more than one image in it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from onelook.predict.runtimes import RUNTIMES, exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.predict.writers import WRITERS, writer_of
from onnx_models import write_model

# What threads, processes, checksums, archives and mail are for; each takes a millisecond or more to load.
HEAVY = (
    *("asyncio", "concurrent.futures", "csv", "email", "_hashlib", "importlib.metadata", "logging", "multiprocessing"),
    *("queue", "random", "shutil", "socket", "subprocess", "tempfile", "zipfile"),
    *("cyclopts", "rich", "yaml", "PIL", "onnx", "torch"),
)
# What other models, sources and formats are for.
OTHER = (
    *("onelook.api.cached_onnx", "onelook.data.cache", "onelook.data.index", "onelook.networks"),
    *("onelook.predict.capture", "onelook.predict.video", "onelook.predict.runtimes.openvino", "onelook.tracking.mot"),
    *("onelook.predict.runtimes.tensorrt", "onelook.predict.writers.coco", "onelook.predict.writers.crops"),
)
# The libraries come first: what they load themselves, in any of their versions, costs nothing more.
PROGRAM = """
import json, sys
import cv2, numpy, onnxruntime
before = {*sys.modules}
from onelook.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("loaded", *sorted({*sys.modules} - before))
"""


def loaded(*arguments: object) -> set[str]:
    """The modules that a command loads beside the libraries."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, an image, and a folder."""
    folder = tmp_path_factory.mktemp("start")
    cv2.imwrite(str(folder / "a.png"), np.full((128, 96, 3), 255, np.uint8))
    return write_model(folder / "small.onnx"), folder / "a.png", folder


def test_one_image_in_an_exported_file_loads_only_what_it_needs(paths: tuple[Path, Path, Path]) -> None:
    model, image, folder = paths
    found = loaded("detect", image, "--model", model, "--device", "cpu", "--threads", "1", "--out", folder / "out")
    assert "onelook.predict.runtimes.onnx" in found and (folder / "out" / "images" / "a.jpg").is_file()
    assert found.isdisjoint(HEAVY) and found.isdisjoint(OTHER), sorted(found & {*HEAVY, *OTHER})


def test_several_images_are_decoded_by_threads(paths: tuple[Path, Path, Path]) -> None:
    model, image, folder = paths
    again = image.with_name("b.png")
    again.write_bytes(image.read_bytes())
    found = loaded(
        "detect", image, again, "--model", model, "--threads", "1", "--out", folder / "two", "--format", "csv"
    )
    assert {"concurrent.futures", "csv"} <= found
    assert len((folder / "two" / "detections.csv").read_text(encoding="utf-8").splitlines()) == 5


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_every_ending_of_an_exported_file_has_a_runtime(suffix: str) -> None:
    kind = exported_runtime(f"Model{suffix.upper()}")
    assert kind is not None and issubclass(kind, ExportedRuntime) and kind is not ExportedRuntime


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_has_a_writer(name: str) -> None:
    writer = writer_of(name)
    assert isinstance(getattr(writer, "needs_images"), bool)  # noqa: B009  # of the class
    assert all(callable(getattr(writer, method)) for method in ("add", "close", "discard"))
