"""The runtimes that a search measures latency in: each computes the same convolution, and refuses what it has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import onelook
from onelook.api import search_latency
from onelook.api.search_latency import LatencyMeter
from onelook.api.search_runtimes import base
from onelook.api.search_runtimes.base import MeasuredRuntime, random_input, random_kernel
from onelook.api.search_runtimes.runtimes import RUNTIMES
from onelook.api.search_runtimes.torch import MeasuredTorch
from onelook.errors import ConfigError, MissingDependencyError, UsageError
from onelook.layers.conv import make_activation
from onelook.nas.operators import Operator
from onelook.recipes.searches import search_form
from onelook.reporter import SilentReporter

OPERATORS = (
    Operator(1, 1, 8, 16, 6),
    Operator(3, 2, 3, 8, 8),
    Operator(5, 2, 8, 8, 10, depthwise=True),
    Operator(3, 1, 16, 16, 5, depthwise=True),
)
ACTIVATIONS = ("relu", "leaky_relu", "silu", "mish")
NEEDED = {"torch": (), "onnx": ("onnx", "onnxscript"), "openvino": ("openvino", "onnx"), "ncnn": ("ncnn", "pnnx")}


def opened(name: str, threads: int = 1) -> MeasuredRuntime:
    for package in NEEDED[name]:
        pytest.importorskip(package)
    before = torch.get_num_threads()
    try:
        return RUNTIMES[name](threads)
    finally:
        torch.set_num_threads(before)


def output(name: str, runtime: MeasuredRuntime, operator: Operator, activation: str) -> np.ndarray:
    """What a call of the convolution computes, (1, outputs, side, side)."""
    run = runtime.convolution(operator, activation)  # kept: it owns the memory of the output
    found = run()
    if name == "ncnn":
        code, values = found  # type: ignore[misc]
        assert code == 0
        return np.array(values)[None]
    first = found if name == "torch" else found[0]  # type: ignore[index]
    return np.asarray(first)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_measured_convolution_computes_what_pytorch_does(name: str) -> None:
    runtime = opened(name)
    for operator in OPERATORS:
        for activation in ACTIVATIONS:
            kernel, stride, inputs, _, _, depthwise = operator
            x, weight = torch.from_numpy(random_input(operator)), torch.from_numpy(random_kernel(operator))
            found = output(name, runtime, operator, activation)
            convolved = functional.conv2d(x, weight, None, stride, kernel // 2, groups=inputs if depthwise else 1)
            expected = make_activation(activation)(convolved)
            np.testing.assert_allclose(
                found, expected.numpy(), rtol=1e-3, atol=1e-4, err_msg=f"{operator} {activation}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", RUNTIMES)
def test_whole_detectors_are_measured(name: str, threads: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened(name)
    form, before = search_form("damo-yolo-ns"), torch.get_num_threads()
    try:
        meter = LatencyMeter(form, 64, name, threads)  # type: ignore[arg-type]
        assert meter.model()(form.structure) > 0
        first, second = meter.measure([form.structure, form.space(28).smallest], lambda done, total, detail="": None)
        assert first > second > 0
        meter.save()
        assert LatencyMeter(form, 64, name, threads).table.known == meter.table.known  # type: ignore[arg-type]
        assert name in meter.path.name and meter.path.stem.endswith(str(threads))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_a_search_measures_in_a_runtime(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened(name)
    settings = {"like": "damo-yolo-ns", "size": 64, "threads": 1, "evaluations": 1, "reporter": SilentReporter()}
    result = onelook.search("latency=1s", runtime=name, out=tmp_path / "a", **settings)  # type: ignore[arg-type]
    assert result.rows[0].within and all(row.measured and row.measured > 0 for row in result.rows)


@pytest.mark.parametrize("name", ["onnx", "openvino", "ncnn"])
def test_a_missing_package_is_named_before_anything_is_measured(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=f"runtime '{name}' needs the package") as error:
        onelook.search("latency=9ms", runtime=name, out=tmp_path / "a", reporter=SilentReporter())  # type: ignore[arg-type]
    assert ("[onnx]" if name == "onnx" else "[export]") in (error.value.remedy or "")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cuda"):
        onelook.search("latency=9ms", device="cuda", out=tmp_path / "a", reporter=SilentReporter())
    assert not list(tmp_path.rglob("*.json"))


def test_a_device_is_for_latency_and_for_pytorch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for a budget of latency"):
        onelook.search("flops=1G", device="cuda", out=tmp_path / "a", reporter=SilentReporter())
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match="'onnx' is measured on the CPU only") as error:
        onelook.search("latency=9ms", device="cuda", runtime="onnx", out=tmp_path / "a", reporter=SilentReporter())
    assert "runtime torch" in (error.value.remedy or "")


def test_the_time_of_a_gpu_ends_when_it_has_finished(monkeypatch, tmp_path: Path) -> None:
    """A call returns at once; the device works 3 ms for each convolution, which only waiting for it shows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    meter = LatencyMeter(search_form("damo-yolo-ns"), 64, "torch", 1)
    now, submitted, devices = [0.0], [0], []

    def convolution(operator: Operator, activation: str):
        def run() -> None:
            submitted[0] += runtime.repeats

        return run

    def finish(device: torch.device) -> None:
        devices.append(device)
        now[0] += 0.003 * submitted[0]
        submitted[0] = 0

    runtime = meter.runtime
    assert isinstance(runtime, MeasuredTorch)
    monkeypatch.setattr(torch.cuda, "synchronize", finish)
    monkeypatch.setattr(runtime, "convolution", convolution)
    runtime.device, runtime.clock, runtime.repeats = torch.device("cuda", 1), lambda: now[0], 20
    assert meter.operator_seconds(OPERATORS[0]) == pytest.approx(0.003)
    assert set(devices) == {torch.device("cuda", 1)} and len(devices) > search_latency._RUNS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that PyTorch can use")
def test_latency_is_measured_on_a_gpu(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    form = search_form("damo-yolo-ns")
    meter = LatencyMeter(form, 64, "torch", None, "cuda")
    assert torch.cuda.get_device_name() in meter.runtime.hardware
    assert meter.operator_seconds(OPERATORS[0]) > 0
    (seconds,) = meter.measure([form.structure], lambda done, total, detail="": None)
    assert seconds > 0
