"""Latency in PyTorch, on the processor or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from onelook.api.search_runtimes.base import MeasuredRuntime, random_input, random_kernel
from onelook.devices import choose_device, gpus
from onelook.layers.conv import make_activation
from onelook.nas.operators import Operator
from onelook.networks.build import build
from onelook.networks.detector import Architecture
from onelook.predict.runtime import Runtime
from onelook.predict.runtimes.torch import TorchRuntime

# A GPU computes while the processor submits the next convolution, as inside a network: waiting for it after each would
# measure the waiting.
_REPEATS_ON_GPU = 20


class MeasuredTorch(MeasuredRuntime):
    """PyTorch without a graph compiler. device: as `choose_device` takes it; None is the CPU."""

    name = "torch"

    def _open(self, device: str | None) -> None:
        self.device = choose_device(device or "cpu")
        self.library = str(torch.__version__)
        if self.device.type == "cpu":
            torch.set_num_threads(self.threads)
            return
        described = {one["name"]: one["description"] for one in gpus()}
        index = "" if self.device.type == "mps" else f":{self.device.index or 0}"
        self.hardware = described[f"{self.device.type}{index}"]
        self.clock, self.repeats = perf_counter, _REPEATS_ON_GPU

    def convolution(self, operator: Operator, activation: str) -> Callable[[], object]:
        kernel, stride, inputs, outputs, _, depthwise = operator
        groups = inputs if depthwise else 1
        layer = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups)
        layer.weight.data = torch.from_numpy(random_kernel(operator))
        layer.bias.data = torch.zeros(outputs)  # type: ignore[union-attr]
        layer = layer.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.from_numpy(random_input(operator)).to(self.device, memory_format=torch.channels_last)
        activate = make_activation(activation)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                for _ in range(self.repeats - 1):
                    activate(layer(x))
                return activate(layer(x))

        return run

    def detector(self, architecture: Architecture, draft: Path) -> Runtime:
        return TorchRuntime(build(architecture), self.device, in_place=True)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
