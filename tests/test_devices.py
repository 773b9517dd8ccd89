"""The choice of a device, with GPUs made up: what is chosen, and what is refused with which message."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from onelook.devices import check_precision, choose_device, gpus, widest_float
from onelook.errors import ConfigError
from onelook.training.train_state import RuntimeOptions


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, macos: int = 15) -> None:
    """A machine with so many CUDA GPUs, and an Apple GPU or none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (macos, 0) >= (major, minor))


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(2, False, "cuda"), (1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_the_best_device_is_cuda_then_mps_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, chosen: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device() == choose_device(None) == torch.device(chosen)


def test_a_device_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    for name, device in (("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("1", "cuda:1"), ("mps", "mps")):
        assert choose_device(name) == torch.device(device)
    assert choose_device(torch.device("cuda", 1)) == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "no device 'gpu'"),
        ("", "no device ''"),
        ("cuda:x", "no device 'cuda:x'"),
        ("xpu", "'xpu' is not supported"),
        ("meta", "'meta' is not supported"),
        ("mps", "no device 'mps'"),
        ("cuda:2", "no device 'cuda:2': this machine has 2"),
        ("2", "no device 'cuda:2': this machine has 2"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(ConfigError, match=message) as caught:
        choose_device(name)
    assert "cpu" in caught.value.remedy


def test_a_machine_without_gpus_refuses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    for device in ("cuda", "cuda:0", "0", torch.device("cuda")):
        with pytest.raises(ConfigError, match="PyTorch finds no CUDA GPU here"):
            choose_device(device)
    assert gpus() == []


def test_precisions_that_a_device_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mps=True, macos=13)
    cpu, mps = torch.device("cpu"), torch.device("mps")
    assert check_precision(cpu, "fp32") == check_precision(mps, "fp32") == "fp32"
    assert check_precision(cpu, "bf16") == "bf16" and check_precision(mps, "fp16") == "fp16"
    for device, precision, message in ((cpu, "fp16", "needs a GPU"), (mps, "bf16", "macOS 14")):
        with pytest.raises(ConfigError, match=message):
            check_precision(device, precision)
        with pytest.raises(ConfigError, match=message):
            RuntimeOptions(precision=precision).precision_on(device)
    pretend(monkeypatch, mps=True, macos=14)
    assert check_precision(mps, "bf16") == "bf16"


def test_the_widest_numbers_of_mps_have_32_bits() -> None:
    assert widest_float(torch.device("mps")) == torch.float32
    assert widest_float(torch.device("cpu")) == widest_float(torch.device("cuda")) == torch.float64


def test_gpus_are_listed_under_the_names_that_choose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    info = SimpleNamespace(name="A GPU", total_memory=16 << 30, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: info)
    listed = gpus()
    assert [one["name"] for one in listed] == ["cuda:0", "cuda:1", "mps"]
    assert listed[1]["description"] == "A GPU, 16.0 GiB, compute capability 8.9"
    assert [str(choose_device(one["name"])) for one in listed] == ["cuda:0", "cuda:1", "mps"]
