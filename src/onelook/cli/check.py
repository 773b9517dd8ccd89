"""`onelook check`: what is wrong with a data set, or what this machine has to offer."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook import __version__
from onelook.cli.shown import Shown
from onelook.cli.views.check import show_problems
from onelook.data.check import CheckReport
from onelook.data.check import check as check_data
from onelook.devices import gpus

if TYPE_CHECKING:
    from rich.console import Console

_CORE = ("torch", "numpy", "opencv-python-headless", "safetensors", "hotcoco", "cyclopts", "rich")
_EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow-skinny",),
    "wandb": ("wandb",),
    "supervision": ("supervision",),
    "pillow": ("pillow",),
}


@dataclass(frozen=True)
class Environment:
    """What the library runs on. packages and extras: version by name, None where not installed."""

    system: dict[str, Any]
    packages: dict[str, str | None]
    extras: dict[str, dict[str, str | None]]
    devices: list[dict[str, Any]]
    problems: list[str]

    @property
    def exit_code(self) -> int:
        """1 where something that the library needs is missing or broken."""
        return int(bool(self.problems))

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        found = [
            {"severity": "error", "code": "environment", "file": None, "line": None, "annotation": None}
            | {"message": problem, "remedy": "Install the package again."}
            for problem in self.problems
        ]
        summary = {"system": self.system, "packages": self.packages, "extras": self.extras, "devices": self.devices}
        return {"summary": summary, "problems": found}

    def show(self, console: Console) -> None:
        """Tables of the system, packages, extras and devices."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_header=False, box=None)
        for name, value in {**self.system, **self.packages}.items():
            table.add_row(name, escape(str(value)) if value is not None else "[yellow]not installed[/]")
        for extra, packages in self.extras.items():
            missing = [name for name, version in packages.items() if version is None]
            have = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
            hint = escape(f"pip install 'onelook[{extra}]'") if missing else ""
            table.add_row(f"extra {extra}", " ".join((have, f"[yellow]{hint}[/]" if hint else "")).strip())
        for device in self.devices:
            table.add_row(device["name"], escape(device["description"]))
        console.print(table)
        for problem in self.problems:
            console.print(f"[red]error[/] {escape(problem)}")


def check(data: Path | None = None, /, *, quick: bool = False) -> Shown[CheckReport] | Environment:
    """List every problem of a data set, or, without one, describe this installation.

    Problems are named by file and line or annotation id, each with a remedy. The exit code is 1 where errors were
    found; warnings alone leave it at 0.

    Examples:
        onelook check data/ --json problems.json
        onelook check

    Args:
        data: folder, YAML file or COCO JSON file; without it, the installation is checked.
        quick: judge images by their headers, without decoding them or looking for copies.

    Returns:
        The problems with a summary, or the environment.
    """
    if data is None:
        return environment()
    report = check_data(data, quick=quick)
    return Shown(report, show_problems, report.exit_code)


def environment() -> Environment:
    """Versions, devices, threads and memory of this machine."""
    system: dict[str, Any] = {
        "onelook": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpus": _cpus(),
        "memory": _memory(),
    }
    packages = {name: _version(name) for name in _CORE}
    if packages["opencv-python-headless"] is None:
        packages["opencv-python-headless"] = _version("opencv-python")
    extras = {extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()}
    devices, problems = _torch(system)
    problems += _opencv() + _providers(devices)
    return Environment(system, packages, extras, devices, problems)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str | None:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(system: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        import torch
    except ModuleNotFoundError:
        return [], []  # detecting with exported models needs none
    except (ImportError, OSError) as error:
        return [], [f"torch is installed but cannot be imported: {error}"]
    system["torch threads"] = torch.get_num_threads()
    system["cuda of torch"] = torch.version.cuda or "none (CPU build)"
    return list(gpus()), []


def _opencv() -> list[str]:
    try:
        import cv2
    except (ImportError, OSError) as error:
        return [f"OpenCV cannot be imported: {error}"]
    return [] if hasattr(cv2, "imdecode") else ["OpenCV is installed but incomplete"]


def _providers(devices: list[dict[str, Any]]) -> list[str]:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return []
    except (ImportError, OSError) as error:
        return [f"onnxruntime is installed but cannot be imported: {error}"]
    text = ", ".join(onnxruntime.get_available_providers())
    devices.append({"name": "onnxruntime", "description": text})
    return []
