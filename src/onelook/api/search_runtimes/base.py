"""What a runtime opens for a search with a budget of latency: single convolutions, and whole detectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, thread_time
from typing import ClassVar

import numpy as np

from onelook.devices import processor_name
from onelook.errors import UsageError, missing_package
from onelook.exporting.target import ExportOptions, TargetFormat
from onelook.nas.operators import Operator
from onelook.networks.build import build
from onelook.networks.detector import Architecture
from onelook.predict.runtime import Runtime
from onelook.predict.runtimes.exported import ExportedRuntime

Clock = Callable[[], float]


class MeasuredRuntime(ABC):
    """Opens convolutions and whole detectors, for one image in float32.

    name: as users give it.  device: None or "cpu" is the processor, which is all that most runtimes have.  threads: of
    the processor.  library: with its version.  hardware: what computes.  clock: in seconds; with one thread it is the
    processor's time, which does not count while other programs run.  repeats: how often a call of `convolution`
    computes it.

    Raises MissingDependencyError with the install command where a package is missing, ConfigError for a device that
    this machine does not have, UsageError for one that the runtime does not have.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    work: ClassVar[str] = "search"  # what installs the packages, see `missing_package`
    one_thread_clock: ClassVar[Clock] = staticmethod(thread_time)
    library: str
    repeats: int = 1

    def __init__(self, threads: int, device: str | None = None) -> None:
        for package in self.packages:
            if find_spec(package) is None:
                raise missing_package(package, f"Searching with the runtime '{self.name}'", work=self.work)
        self.threads = threads
        self.hardware = processor_name()
        self.clock: Clock = type(self).one_thread_clock if threads == 1 else perf_counter
        self._open(device)

    def _open(self, device: str | None) -> None:
        if device not in (None, "cpu"):
            raise UsageError(
                f"The runtime '{self.name}' is measured on the CPU only, not on '{device}'.",
                "Leave the device away, or choose the runtime torch.",
            )

    @abstractmethod
    def convolution(self, operator: Operator, activation: str) -> Callable[[], object]:
        """A call that computes a convolution with bias, and its activation."""

    @abstractmethod
    def detector(self, architecture: Architecture, draft: Path) -> Runtime:
        """The whole detector in its deploy form. draft: a path without ending, for files that the runtime needs."""

    def wait(self) -> None:  # noqa: B027  # a processor has finished when a call returns
        """Returns when the device has finished."""


class MeasuredFile(MeasuredRuntime):
    """A runtime of exported files.

    target: the format that detectors are exported to.  opens: the runtime of its files.
    """

    target: ClassVar[TargetFormat]
    opens: ClassVar[type[ExportedRuntime]]

    def detector(self, architecture: Architecture, draft: Path) -> Runtime:
        path = draft.with_suffix(self.target.suffix)
        self.target.write(build(architecture), path, ExportOptions())
        return self.opens(path, "cpu", threads=self.threads)


def random_input(operator: Operator) -> np.ndarray:
    """The input of a convolution for one image: (1, inputs, side, side) float32 in 0..1."""
    shape = (1, operator.inputs, operator.side, operator.side)
    return np.random.default_rng(0).random(shape, np.float32)


def random_kernel(operator: Operator) -> np.ndarray:
    """A kernel (outputs, inputs of a group, kernel, kernel) float32, so small that outputs are about 1/2."""
    kernel, _, inputs, outputs, _, depthwise = operator
    shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
    return np.random.default_rng(0).random(shape, np.float32) / np.float32(np.prod(shape[1:]))
