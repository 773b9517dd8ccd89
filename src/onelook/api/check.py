"""`onelook.check` and `onelook.environment`: the problems of a data set, and what this installation can do."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.data.check import CheckReport, read_and_check
from onelook.data.check import check as check_data
from onelook.devices import gpus, num_cores
from onelook.errors import UserError, install_command, reason_of
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr
from onelook.version import __version__

_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*(?:;.*\bextra\s*==\s*["']([\w.-]+)["'])?""")
_OTHER_BUILDS = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}


@dataclass(frozen=True)
class Environment:
    """What is installed on this machine.

    system: versions, processor and memory.  packages: the version of each required package, None where it is not
    installed.  extras: the same for the packages of each optional extra.  devices: what a model can run on.
    problems: what the library needs and is missing or broken.
    """

    system: dict[str, Any]
    packages: dict[str, str | None]
    extras: dict[str, dict[str, str | None]]
    devices: list[dict[str, Any]]
    problems: list[str]

    @property
    def exit_code(self) -> int:
        """1 where something that the library needs is missing or broken."""
        return int(bool(self.problems))

    __repr__ = text_repr

    def __str__(self) -> str:
        known = [f"onelook {self.system['onelook']}", f"Python {self.system['python'].split()[0]}"]
        known += [f"{name} {self.packages[name]}" for name in ("torch", "onnxruntime") if self.packages.get(name)]
        devices = ", ".join(device["name"] for device in self.devices) or "none"
        problems = "; ".join(self.problems) or "none"
        return f"{', '.join(known)}; devices: {devices}; problems: {problems}"

    def to_dict(self) -> dict[str, Any]:
        """Summary and problems, in the layout of `--json`."""
        found = [
            {"severity": "error", "code": "environment", "file": None, "line": None, "annotation": None}
            | {"message": problem, "remedy": f"Install Onelook and its packages again: {install_command()}"}
            for problem in self.problems
        ]
        summary = {"system": self.system, "packages": self.packages, "extras": self.extras, "devices": self.devices}
        return {"summary": summary, "problems": found}


def check(
    data: PathLike, *, quick: bool = False, draw: PathLike | None = None, reporter: Reporter | None = None
) -> CheckReport:
    """Finds the problems of a data set: each with its file and line or annotation id, and a remedy.

    data: folder, YAML file, COCO JSON file, or URL or pattern of shards.  quick: images are judged by their headers,
    without decoding them or looking for copies.  draw: folder to make, for drawings of the images with problems, with
    their boxes and what is wrong, and of a few without; `drawn` of the summary counts them.  reporter: shows the
    progress; None prints plain lines on standard error.

    Raises DataError where there is no data set at all, and where the folder to draw in exists and is not empty.
    """
    check_arguments(check, locals())
    if draw is None:
        return check_data(os.fspath(data), quick=quick, reporter=reporter)
    return _check_and_draw(os.fspath(data), Path(draw).expanduser().absolute(), quick, reporter or PlainReporter())


def _check_and_draw(data: str, folder: Path, quick: bool, reporter: Reporter) -> CheckReport:
    from onelook.data.convert import check_free
    from onelook.data.draw_problems import draw_problems

    check_free(folder, str(folder))
    report, read = read_and_check(data, quick=quick, reporter=reporter)
    try:
        drawn = draw_problems(read, report.problems, folder, reporter)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {reason_of(error)}.", "Name another folder.") from error
    return replace(report, summary={**report.summary, "drawn": {**vars(drawn), "folder": str(drawn.folder)}})


def environment() -> Environment:
    """Versions, devices, threads and memory of this machine."""
    system: dict[str, Any] = {
        "onelook": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpus": num_cores(),
        "memory": _memory(),
    }
    required = _required()
    if required is None:
        system["requirements"] = "unknown: Onelook runs from its source and is not installed"
        required = {}
    found = {extra: {name: _version(name) for name in names} for extra, names in required.items()}
    packages = found.pop("", {})
    problems = [f"the package '{name}' is not installed" for name, version in packages.items() if version is None]
    devices, broken = _torch(system)
    problems += [*broken, *_opencv(), *_providers(devices)]
    return Environment(system, packages, found, devices, problems)


def _required() -> dict[str, list[str]] | None:
    """The packages that the installed Onelook asks for, by extra ("" is none); None where it is not installed."""
    try:
        return requirements(metadata.requires("onelook") or [])
    except metadata.PackageNotFoundError:
        return None


def requirements(lines: Sequence[str]) -> dict[str, list[str]]:
    """The names in requirements such as "torch>=2.6; extra == 'train'", by extra; the extra for development aside."""
    found: dict[str, list[str]] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is not None and match[2] != "dev" and match[1] != "onelook":
            found.setdefault(match[2] or "", []).append(match[1])
    return found


def _memory() -> str | None:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    """The installed version of a package, or of another build of it."""
    for name in (package, *_OTHER_BUILDS.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
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
