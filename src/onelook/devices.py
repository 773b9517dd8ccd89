"""The devices of this machine: which one is chosen, what it can do, the processor's name and cores.

PyTorch is imported only when a device is chosen: this module is imported where PyTorch is not installed.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from onelook.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "fp16", "bf16"]
"""The floating-point type that a training computes in; weights are float32 in each."""

Layout = Literal["channels-last", "contiguous"]
"""The memory layout of a network and its images."""

_NAMES = "Devices are cpu, cuda, cuda:1 and so on, and mps."
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
_REMEDY = "Use the device cpu, or leave the device out: the best one is chosen then."


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The PyTorch device of this name; None is the best one of this machine: CUDA, else MPS, else the CPU.

    name: "cpu", "cuda", "cuda:1" or "1", "mps". Raises `ConfigError` for a name that is no device, and for a device
    that this machine does not have.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    if isinstance(name, str) and name.isdecimal():
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise ConfigError(f"There is no device '{name}'.", _NAMES) from None
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps":
        if not _has_mps() or device.index:
            raise ConfigError(f"There is no device '{name}': PyTorch finds no such Apple GPU here.", _REMEDY)
    elif device.type != "cpu":
        raise ConfigError(f"The device '{name}' is not supported.", _NAMES)
    return device


def check_precision(
    device: torch.device, precision: Precision, *, cpu_remedy: str = "Use fp32, or a GPU."
) -> Precision:
    """Returns `precision`. Raises `ConfigError` if the device does not support it, or is slow with it.

    cpu_remedy: of the error for fp16 on a CPU, where the caller's users choose fp16 by another option.
    """
    import torch

    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("Half precision (fp16) needs a GPU: a CPU is slow with it.", cpu_remedy)
    if precision == "bf16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported():
                raise ConfigError(f"The GPU '{torch.cuda.get_device_name()}' has no bf16.", "Use fp16 or fp32.")
    if precision == "bf16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ConfigError("The Apple GPU has bf16 from macOS 14 on only.", "Use fp16 or fp32, or update macOS.")
    return precision


def widest_float(device: torch.device) -> torch.dtype:
    """The most precise floating-point type of a device: float64, or float32 on MPS, which has nothing wider."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def gpus() -> list[dict[str, str]]:
    """The GPUs that PyTorch can use here: `name` as `choose_device` takes it, and a `description`."""
    import torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        info = torch.cuda.get_device_properties(number)
        text = f"{info.name}, {info.total_memory / 2**30:.1f} GiB, compute capability {info.major}.{info.minor}"
        found.append({"name": f"cuda:{number}", "description": text})
    if _has_mps():
        found.append({"name": "mps", "description": "Apple GPU"})
    return found


def has_no_gpu() -> bool:
    """Whether the best device is the CPU. Imports PyTorch only where there may be a GPU."""
    if sys.platform.startswith("linux") and not any(map(os.path.exists, _GPU_DRIVERS)):
        return True
    try:
        return choose_device().type == "cpu"
    except ModuleNotFoundError:
        return True


def num_cores() -> int:
    """The number of processor cores that this process may use: by its affinity and its quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, round(quota)))


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The processor time that control groups allow, in cores; None without a limit. Reads versions 1 and 2.

    root: where control groups are mounted.  membership: the file of this process's groups. Every group above limits,
    too; inside a container, the path of the group may be that of the host, of which only the ends exist.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    limits = []
    for line in lines:
        if len(line) != 3 or not (line[1] == "" or "cpu" in line[1].split(",")):
            continue
        tops = [root, root / "unified"] if line[1] == "" else [root / line[1], root / "cpu", root / "cpu,cpuacct"]
        group = PurePosixPath(line[2].lstrip("/"))
        limits += [_quota_of(top / part) for top in tops for part in (group, *group.parents)]
    return min((limit for limit in limits if limit), default=None)


def _quota_of(folder: Path) -> float | None:
    """The limit of one control group, in cores."""
    try:
        if (folder / "cpu.max").is_file():
            quota, _, period = (folder / "cpu.max").read_text(encoding="ascii").strip().partition(" ")
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return None if quota in ("max", "-1") else int(quota) / int(period or 100_000)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def num_cores_per_process() -> int:
    """The cores of each process that torchrun started on this machine; `num_cores` where it started none."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, num_cores() // (int(processes) if processes.isdecimal() and int(processes) else 1))


def processor_name() -> str:
    """The name of the processor, as far as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _check_cuda(device: torch.device) -> None:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        here = f"this machine has {count}" if count else "PyTorch finds no CUDA GPU here"
        raise ConfigError(f"There is no device '{device}': {here}.", _REMEDY)


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def int8_instructions() -> tuple[str, ...] | None:
    """The instructions of this processor for sums of 8-bit products; None where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    listed = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), None)
    known = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return None if listed is None else tuple(name for name in known if name in listed)
