"""How long a network takes for a batch, and what memory: measured, with everything said that the figures depend on."""

from __future__ import annotations

import gc
import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onelook.data.synthetic import Scenes
from onelook.errors import UsageError
from onelook.ops.nms import RawDetections, with_thresholds

if TYPE_CHECKING:
    from rich.console import Console

    from onelook.predict.backends import Backend

PERCENTILES = (50, 90, 99)
DETECTING = (0.25, 0.45)  # confidence and IoU, as `onelook detect`
_SCENE = 480  # pixels a side of the pictures shown to the network; the frame brings them to its input


@dataclass(frozen=True)
class Setting:
    """What a measurement was made under.

    model: as it was called.  runtime: library and version.  device: its name.  threads: of one run, on a CPU.
    precision: of weights and activations.  size: (height, width) of the input.  batch: images a run.  nms: whether
    choosing boxes is inside the measured time.  form: of the network.  warm_up, runs: batches before and in the
    measurement.
    """

    model: str
    runtime: str
    device: str
    threads: int | None
    precision: str
    size: tuple[int, int]
    batch: int
    nms: Literal["in", "out", "inside the file"]
    form: str
    warm_up: int
    runs: int


@dataclass(frozen=True)
class ModelBenchmark:
    """seconds: of every measured batch, in order.  detections: an image, on average; None without NMS.

    memory: bytes; "process" is the largest resident size so far, libraries included, "model" what making and running
    the network added to it; "device" the largest allocation on a GPU.
    """

    setting: Setting
    seconds: Sequence[float]
    detections: float | None
    memory: dict[str, int]

    @property
    def images_per_second(self) -> float:
        """Images over the time of all measured batches."""
        return self.setting.batch * len(self.seconds) / sum(self.seconds)

    def latency(self) -> dict[str, float]:
        """Milliseconds a batch: mean, fastest, slowest, and the percentiles."""
        times = np.asarray(self.seconds) * 1e3
        known = {"mean": float(times.mean()), "fastest": float(times.min()), "slowest": float(times.max())}
        return known | {f"p{share}": float(np.percentile(times, share)) for share in PERCENTILES}

    def to_dict(self) -> dict[str, Any]:
        """Setting, milliseconds a batch, images a second, memory."""
        return {
            "setting": asdict(self.setting),
            "milliseconds": self.latency(),
            "images_per_second": self.images_per_second,
            "detections_per_image": self.detections,
            "memory": dict(self.memory),
        }

    def show(self, console: Console) -> None:
        """What was measured, then the figures."""
        from rich.table import Table

        now = self.setting
        threads = f", {now.threads} thread{'s' if now.threads != 1 else ''}" if now.threads else ""
        nms = {"in": "NMS in the time", "out": "NMS not in the time", "inside the file": "NMS inside the file"}[now.nms]
        height, width = now.size
        console.print(f"[bold]{now.model}[/bold]  {height}x{width}, batch {now.batch}, {now.precision}, {now.form}")
        console.print(
            f"{now.device}{threads}; {now.runtime}; {nms}; {now.warm_up} batches of warm-up, {now.runs} measured"
        )
        console.print()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        latency = self.latency()
        names = ("mean", *(f"p{share}" for share in PERCENTILES), "fastest", "slowest")
        table.add_column("ms a batch")
        for name in names:
            table.add_column(name, justify="right")
        table.add_row("", *(f"{latency[name]:.2f}" for name in names))
        console.print(table)
        console.print(f"\nimages a second  [bold]{self.images_per_second:.1f}[/bold]")
        if self.detections is not None:
            console.print(f"detections       {self.detections:.1f} an image (NMS takes longer where there are more)")
        for name, what in (("model", "made by the model"), ("process", "whole process"), ("device", "on the device")):
            if name in self.memory:
                console.print(f"memory           {self.memory[name] / 2**20:.0f} MB {what}, at most")


class Untouched:
    """Chooses nothing: the network's boxes and scores are made, and left where they are."""

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        return [self(one, one) for one in range(len(boxes))]


def measure(
    backend: Backend, setting: Setting, started_with: int, *, wait: Callable[[], None] = lambda: None
) -> ModelBenchmark:
    """Times `setting.runs` batches of a backend, after `setting.warm_up` that do not count.

    started_with: resident bytes before the model was made.  wait: returns when the device has finished.
    """
    batch = pictures(backend, setting.batch)
    select = Untouched() if setting.nms == "out" else with_thresholds(backend.select, *DETECTING)
    found: list[RawDetections] = []
    seconds = []
    for _ in range(setting.warm_up):
        backend(batch, select)
    wait()
    gc.collect()
    gc.disable()  # a collection in the middle would be a slow batch that is not the network's
    try:
        for _ in range(setting.runs):
            start = perf_counter()
            found = backend(batch, select)
            wait()
            seconds.append(perf_counter() - start)
    finally:
        gc.enable()
    detections = None if setting.nms == "out" else sum(len(scores) for _, scores, _ in found) / len(found)
    peak = peak_memory()
    return ModelBenchmark(setting, seconds, detections, {"model": max(0, peak - started_with), "process": peak})


def pictures(backend: Backend, count: int) -> np.ndarray:
    """(count, H, W, 3) uint8: made-up scenes in the backend's frame."""
    scenes = Scenes(size=(_SCENE, _SCENE))
    return np.stack([backend.frame(scenes("bench", index).image, backend.size)[0] for index in range(count)])


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """The name of the CPU, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Wish:
    """What to measure: see `onelook bench model`."""

    model: str
    weights: Path | None = None
    size: int | None = None
    batch: int = 1
    device: str | None = None
    threads: int | None = None
    half: bool = False
    nms: Literal["in", "out"] = "in"
    form: Literal["deploy", "training"] = "deploy"
    runs: int = 50
    warm_up: int = 10

    def __post_init__(self) -> None:
        limits = {"batch": 1, "runs": 1, "warm_up": 0, "threads": 1, "size": 32}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} is {least} or more, not {value}.")


def bench_model(wish: Wish) -> ModelBenchmark:
    """Makes the network that is wished for and measures it. Raises UsageError for wishes that contradict each other."""
    if wish.model.lower().endswith(".onnx"):
        return _bench_onnx(wish)
    return _bench_torch(wish)


def _bench_onnx(wish: Wish) -> ModelBenchmark:
    for name, given in (("half", wish.half), ("weights", wish.weights), ("size", wish.size)):
        if given:
            raise UsageError(f"--{name} cannot be chosen for an exported file: it is built in.", "Leave it away.")
    from onelook.predict.backends import OnnxBackend

    before = peak_memory()
    backend = OnnxBackend(wish.model, wish.device, threads=wish.threads)
    import onnxruntime

    inside = backend.metadata.outputs == "detections"
    if inside and wish.nms == "out":
        raise UsageError(f"'{wish.model}' has NMS inside, so it cannot be left out.", "Export without --nms.")
    cpu = wish.device in (None, "cpu")
    setting = Setting(
        model=wish.model,
        runtime=f"ONNX Runtime {onnxruntime.__version__}",
        device=processor() if cpu else str(wish.device),
        threads=(wish.threads or available_cores()) if cpu else None,
        precision=backend.metadata.precision,
        size=backend.size,
        batch=wish.batch,
        nms="inside the file" if inside else wish.nms,
        form="exported",
        warm_up=wish.warm_up,
        runs=wish.runs,
    )
    return measure(backend, setting, before)


def _bench_torch(wish: Wish) -> ModelBenchmark:
    import torch

    from onelook.predict.backends import TorchBackend
    from onelook.weights import open_detector

    if wish.threads is not None:
        torch.set_num_threads(wish.threads)
    before = peak_memory()
    opened = open_detector(wish.model, wish.weights, untrained=True)  # an untrained network takes the same time
    size = opened.size if wish.size is None else (wish.size, wish.size)
    backend = TorchBackend(opened.detector, wish.device, size=size, half=wish.half, deployed=wish.form == "deploy")
    cuda = backend.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(backend.device)
    cpu = backend.device.type == "cpu"
    setting = Setting(
        model=wish.model,
        runtime=f"PyTorch {torch.__version__}",
        device=torch.cuda.get_device_name(backend.device) if cuda else processor() if cpu else str(backend.device),
        threads=torch.get_num_threads() if cpu else None,
        precision="float16" if wish.half else "float32",
        size=backend.size,
        batch=wish.batch,
        nms=wish.nms,
        form=f"{wish.form} form",
        warm_up=wish.warm_up,
        runs=wish.runs,
    )
    found = measure(backend, setting, before, wait=torch.cuda.synchronize if cuda else lambda: None)
    if cuda:
        found.memory["device"] = torch.cuda.max_memory_allocated(backend.device)
    return found
