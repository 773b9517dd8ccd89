"""The ONNX file that runs in place of PyTorch on a CPU: when it is made, when it is used, and when it is made again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onelook
from onelook.api import cached_onnx, runtime_choice
from onelook.api.cached_onnx import CachedOnnx, is_whole
from onelook.api.open import LoadOptions, OpenedPredictor, open_predictor
from onelook.api.runtime_choice import RuntimeName, exported_where_it_pays, open_cached
from onelook.errors import ExportError, UsageError, UserError, install_command
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.reporter import SilentReporter
from onnx_models import write_model
from spread_detector import own_data, shallow_detector

OPTIONS = LoadOptions(device="cpu", size=64)


class Lines(SilentReporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights in a folder of their own; the user's cache is a folder beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "nano.safetensors"
    onelook.save_weights(onelook.build("yolox-nano"), path)
    return path


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Simulates the process of the export: it writes the small model. The commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        write_model(Path(command[-1]))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def opened(weights: Path, runtime: RuntimeName = "auto", reporter: SilentReporter | None = None) -> object:
    return open_cached(weights, OPTIONS, runtime, reporter or SilentReporter()).runtime


def test_a_file_that_was_made_is_used_until_the_weights_change(weights: Path, exports: list[list[str]]) -> None:
    assert not isinstance(opened(weights), OnnxRuntime)
    assert isinstance(opened(weights, "onnx"), OnnxRuntime)
    said = Lines()
    assert isinstance(opened(weights, "auto", said), OnnxRuntime)
    assert not isinstance(opened(weights, "torch"), OnnxRuntime)
    assert len(exports) == 1
    assert "--runtime torch" in said.lines[0]
    assert (weights.parent / "nano.safetensors.cpu-64x64.onnx").is_file()
    onelook.save_weights(onelook.build("yolox-nano"), weights)  # other random weights
    assert not isinstance(opened(weights), OnnxRuntime)
    assert isinstance(opened(weights, "onnx"), OnnxRuntime)
    assert len(exports) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda _: b""])
def test_a_damaged_file_is_made_again(
    weights: Path, exports: list[list[str]], damage: Callable[[bytes], bytes]
) -> None:
    opened(weights, "onnx")
    (file,) = weights.parent.glob("*.onnx")
    file.write_bytes(damage(file.read_bytes()))
    said = Lines()
    assert not isinstance(opened(weights, "auto", said), OnnxRuntime)
    assert str(file) in said.lines[0] and "--runtime onnx" in said.lines[0]
    assert isinstance(opened(weights, "onnx"), OnnxRuntime)
    assert len(exports) == 2


@pytest.mark.parametrize("threads", [0, 10**8])
def test_a_wrong_number_of_threads_is_told_before_the_export(
    weights: Path, exports: list[list[str]], threads: int
) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}"):
        open_cached(weights, replace(OPTIONS, threads=threads), "onnx", SilentReporter())
    assert not exports


def test_the_export_takes_no_modules_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    missing = CachedOnnx("1" * 64, (tmp_path / "a.onnx",), {"model": "nowhere.pt", "weights": None, "size": None})
    with pytest.raises(ExportError, match=r"nowhere\.pt"):
        missing.make(120.0)


def test_the_record_of_a_file_is_an_entry_of_its_metadata(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx")
    key = "5" * 64
    path.write_bytes(path.read_bytes() + cached_onnx._record(key, path.read_bytes()))
    assert is_whole(path, key)
    assert not is_whole(path, "6" * 64)
    assert onnx.load(path).metadata_props[-1].key == "onelook.cached"
    assert OnnxRuntime(path).metadata.names == ("cat", "dog")


def test_a_place_that_cannot_be_written_is_left_for_the_users_cache(tmp_path: Path, exports: list[list[str]]) -> None:
    (tmp_path / "file").touch()
    cached = CachedOnnx("1" * 64, (tmp_path / "file" / "a.onnx", tmp_path / "cache" / "a.onnx"), {})
    assert cached.make(1.0) == tmp_path / "cache" / "a.onnx" == cached.find()
    assert exports


def slow_run(weights: Path, monkeypatch: pytest.MonkeyPatch, reporter: SilentReporter, images: int = 1000) -> object:
    """The runtime for a run in which PyTorch takes a second an image."""
    monkeypatch.setattr(runtime_choice, "_seconds_an_image", lambda predictor, batch: 1.0)
    predictor = open_predictor(weights, OPTIONS)
    return exported_where_it_pays(predictor, OPTIONS, "auto", reporter, images=lambda: images, batch=1).runtime


def test_an_export_is_made_where_a_run_is_long(
    weights: Path, exports: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Lines()
    assert not isinstance(slow_run(weights, monkeypatch, said, images=59), OnnxRuntime)
    assert not exports
    assert not said.lines
    assert isinstance(slow_run(weights, monkeypatch, said, images=60), OnnxRuntime)
    assert len(exports) == 1
    assert "60 s" in said.lines[0]


def test_an_export_that_takes_too_long_is_not_begun_again(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run(command: list[str], *, timeout: float, **_: object) -> None:
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    said = Lines()
    assert not isinstance(slow_run(weights, monkeypatch, said), OnnxRuntime)
    assert limits == [500.0]  # half of what PyTorch would take
    assert "longer than 500 s" in said.lines[-1]
    slow_run(weights, monkeypatch, said)
    assert len(limits) == 1
    slow_run(weights, monkeypatch, said, images=2000)  # has twice the time
    assert len(limits) == 2
    assert not list(weights.parent.glob("*.onnx"))


def test_a_file_that_does_not_agree_is_not_used(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(returncode=1, stderr="The exported model does not agree with PyTorch.")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    said = Lines()
    assert not isinstance(slow_run(weights, monkeypatch, said), OnnxRuntime)
    assert "does not agree" in said.lines[-1]
    kept = json.loads((weights.parent / "nano.safetensors.cpu-64x64.onnx.failed.json").read_text(encoding="utf-8"))
    assert kept["seconds"] is None
    count = len(said.lines)
    slow_run(weights, monkeypatch, said, images=10**6)
    assert len(said.lines) == count
    with pytest.raises(UserError, match="does not agree"):
        opened(weights, "onnx")


def test_the_weights_of_a_run_have_one_file_however_they_are_named(weights: Path) -> None:
    best = weights.rename(weights.with_name("best.safetensors"))
    by_file, by_folder = (
        cached_onnx.cached_onnx("yolox-nano", replace(OPTIONS, weights=one)) for one in (best, best.parent)
    )
    assert by_file is not None and by_folder is not None
    assert (by_folder.key, by_folder.places) == (by_file.key, by_file.places)


def test_a_file_that_is_made_ends_the_record_of_a_failure(weights: Path, exports: list[list[str]]) -> None:
    cached = cached_onnx.cached_onnx(weights, OPTIONS)
    assert cached is not None
    cached._failed("no time", 1.0)
    assert cached.failure() is not None
    opened(weights, "onnx")
    assert cached.failure() is None and not list(weights.parent.glob("*.failed.json"))


def test_without_the_packages_pytorch_runs_and_the_command_is_said(
    weights: Path, exports: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_choice, "find_spec", lambda name: None)
    said = Lines()
    assert not isinstance(slow_run(weights, monkeypatch, said), OnnxRuntime)
    assert install_command("onnx") in said.lines[0]
    assert not exports
    with pytest.raises(UserError, match="onnx"):
        opened(weights, "onnx")


def test_settings_that_an_exported_graph_lacks_keep_pytorch(weights: Path) -> None:
    for options in (LoadOptions(device="cpu", tta=True), LoadOptions(device="cuda")):
        with pytest.raises(UsageError, match="runtime 'onnx'"):
            open_cached(weights, options, "onnx", SilentReporter())
    with pytest.raises(UsageError, match="no runtime"):
        open_cached(weights, OPTIONS, "tensorflow", SilentReporter())  # type: ignore[arg-type]


def test_the_source_of_a_cached_detector_is_its_weights(weights: Path, exports: list[list[str]]) -> None:
    detector = onelook.load(weights, size=64, device="cpu", runtime="onnx")
    assert isinstance(detector.runtime, OnnxRuntime)
    assert isinstance(detector, OpenedPredictor)
    assert detector.source.model == weights
    assert detector.source.stamps[0][0] == str(weights)
    assert exports


@pytest.mark.slow
def test_detect_and_val_give_the_same_in_onnx_runtime(weights: Path, tmp_path: Path) -> None:
    """With scores that differ by more than rounding, which decides what NMS keeps of equal ones."""
    detector = shallow_detector((64, 64))
    data = own_data(detector, tmp_path / "data", (64, 64), {"val": (0, 4)})
    onelook.save_weights(detector, weights)
    given: dict[str, Any] = {"size": 64, "device": "cpu", "reporter": SilentReporter()}
    torch_ap = onelook.validate(weights, data, runtime="torch", **given).to_dict()
    onnx_ap = onelook.validate(weights, data, runtime="onnx", **given).to_dict()
    assert torch_ap["stats"] == pytest.approx(onnx_ap["stats"], abs=1e-3)
    assert torch_ap["stats"]["AP"] > 0.5
    files = list(weights.parent.glob("*.onnx"))
    changed = [file.stat().st_mtime_ns for file in files]
    image = data / "val" / "000.png"
    found = onelook.load(weights, size=64, device="cpu", runtime="onnx").detect(image, confidence=0.1)
    expected = onelook.load(weights, size=64, device="cpu").detect(image, confidence=0.1)
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
    assert [file.stat().st_mtime_ns for file in files] == changed
