"""`onelook.benchmark`: latency, throughput and memory of a model, with all settings that the figures depend on."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from onelook.api.open import Model, PathLike, check_torch, has_torch, names_onelook, open_network
from onelook.config import check_arguments
from onelook.data.synthetic import Scenes
from onelook.devices import choose_device, processor_name
from onelook.errors import UsageError
from onelook.ops.nms import RawDetections, with_thresholds
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import Runtime
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.threads import chosen_threads, limit_torch_threads
from onelook.types import text_repr

PERCENTILES = (50, 90, 99)
DETECTING = (0.25, 0.45)  # confidence and IoU, as `onelook detect`
_SCENE = 480  # pixels a side of the images before they are fitted into the network's input


@dataclass(frozen=True)
class Setting:
    """The settings of a measurement.

    model: its name.  runtime: library and version.  device: its name.  threads: of one run, on a CPU.
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
    """Latency, throughput and memory of a model.

    setting: what it was measured under.  seconds: of every measured batch, in order.  detections: an image, on average;
    None without NMS.
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
        return latency_of(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Setting, milliseconds a batch, images a second, memory."""
        return {
            "setting": asdict(self.setting),
            "milliseconds": self.latency(),
            "images_per_second": self.images_per_second,
            "detections_per_image": self.detections,
            "memory": dict(self.memory),
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        latency = self.latency()
        return f"{self.setting.model}: {latency['p50']:.2f} ms a batch (median), {self.images_per_second:.1f} images/s"


def latency_of(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: mean, fastest, slowest, and the percentiles."""
    times = np.asarray(seconds) * 1e3
    known = {"mean": float(times.mean()), "fastest": float(np.min(times)), "slowest": float(np.max(times))}
    return known | {f"p{share}": float(np.percentile(times, share)) for share in PERCENTILES}


class NoPostprocess:
    """Keeps no detections: the network computes boxes and scores, and they stay on the device."""

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        return [self(one, one) for one in range(len(boxes))]


def measure(
    runtime: Runtime, setting: Setting, started_with: int, *, wait: Callable[[], None] = lambda: None
) -> ModelBenchmark:
    """Times `setting.runs` batches, after `setting.warm_up` batches that do not count.

    started_with: resident bytes before the model was made.  wait: returns when the device has finished.
    """
    batch = scene_images(runtime, setting.batch)
    postprocess = NoPostprocess() if setting.nms == "out" else with_thresholds(runtime.postprocess, *DETECTING)
    found: list[RawDetections] = []
    seconds = []
    for _ in range(setting.warm_up):
        runtime(batch, postprocess)
    wait()
    gc.collect()
    gc.disable()  # a collection in the middle would be a slow batch that is not the network's
    try:
        for _ in range(setting.runs):
            start = perf_counter()
            found = runtime(batch, postprocess)
            wait()
            seconds.append(perf_counter() - start)
    finally:
        gc.enable()
    detections = None if setting.nms == "out" else sum(len(scores) for _, scores, _ in found) / len(found)
    peak = peak_memory()
    return ModelBenchmark(setting, seconds, detections, {"model": max(0, peak - started_with), "process": peak})


def scene_images(runtime: Runtime, count: int) -> np.ndarray:
    """(count, H, W, 3) uint8: synthetic scenes, fitted into the input of the network."""
    scenes = Scenes(size=(_SCENE, _SCENE))
    return np.stack([runtime.frame(scenes("bench", index).image, runtime.size)[0] for index in range(count)])


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    try:  # getrusage counts the process that started this one as well, where that was larger
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class BenchConfig:
    """The settings of a measurement: see `benchmark`."""

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
                raise UsageError(f"'{name.replace('_', '-')}' is {least} or more, not {value}.")


def benchmark(
    model: Model,
    *,
    weights: PathLike | None = None,
    size: int | None = None,
    batch: int = 1,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    nms: Literal["in", "out"] = "in",
    form: Literal["deploy", "training"] = "deploy",
    runs: int = 50,
    warm_up: int = 10,
) -> ModelBenchmark:
    """Measures latency, throughput and memory of a network, from resized images to boxes.

    model: a name, a weights or exported file, the folder of a run, a `Detector` or a loaded detector. A name without
    weights is freshly initialised.  nms: whether the time includes postprocessing (confidence 0.25, IoU 0.45).
    form: the form that inference uses, or the one that training uses.  runs, warm_up: batches that are measured, and
    batches before that do not count.

    The time of a batch begins with uint8 images in the size of the input and ends with boxes in its pixels. Raises
    UsageError for settings that contradict each other.
    """
    check_arguments(benchmark, locals())
    config = BenchConfig(size, batch, device, threads, half, nms, form, runs, warm_up)
    if isinstance(model, Predictor) and isinstance(model.runtime, ExportedRuntime):
        model = model.runtime.path
    kind = exported_runtime(model) if isinstance(model, str | os.PathLike) else None
    if kind is not None and isinstance(model, str | os.PathLike):
        foreign = kind.holds_weights and os.path.isfile(model) and not names_onelook(Path(model))
        if not (foreign and has_torch()):  # with PyTorch, the weights of a foreign file can be used
            return _benchmark_exported(kind, os.fspath(model), weights, config)
    return _benchmark_torch(model, weights, config)


def describe_runtime(runtime: Any, *, half: bool = False) -> dict[str, str]:
    """What a model runs with: "runtime" (library and version), "device" and "precision".

    half: as it was asked for, of PyTorch.
    """
    if isinstance(runtime, ExportedRuntime):
        name = processor_name() if runtime.device_name == "cpu" else runtime.device_name
        return {"runtime": runtime.library, "device": name, "precision": runtime.precision}
    import torch

    names = {"cpu": processor_name, "cuda": lambda: torch.cuda.get_device_name(runtime.device)}
    name = names.get(runtime.device.type, lambda: str(runtime.device))()
    return {
        "runtime": f"PyTorch {torch.__version__}",
        "device": name,
        "precision": "float16" if half else "float32",
    }


def _benchmark_exported(
    kind: type[ExportedRuntime], path: str, weights: PathLike | None, config: BenchConfig
) -> ModelBenchmark:
    half = config.half and not kind.chooses_precision
    for name, given in (("half", half), ("weights", weights), ("size", config.size)):
        if given:
            raise UsageError(f"'{name}' cannot be chosen for an exported file: it is built in.", "Leave it away.")
    before = peak_memory()
    threads = config.threads or chosen_threads()
    runtime = kind(path, config.device, threads=threads, half=config.half)
    inside = runtime.metadata.outputs == "detections"
    if inside and config.nms == "out":
        raise UsageError(f"'{path}' has NMS inside, so it cannot be left out.", "Export without NMS.")
    cpu = runtime.device_name == "cpu"
    setting = Setting(
        model=path,
        **describe_runtime(runtime),
        threads=threads if cpu else None,
        size=runtime.size,
        batch=config.batch,
        nms="inside the file" if inside else config.nms,
        form="exported",
        warm_up=config.warm_up,
        runs=config.runs,
    )
    return measure(runtime, setting, before)


def _benchmark_torch(model: Model, weights: PathLike | None, config: BenchConfig) -> ModelBenchmark:
    check_torch("benchmark")
    import torch

    from onelook.predict.runtimes.torch import TorchRuntime

    if choose_device(config.device).type == "cpu":
        limit_torch_threads(config.threads)
    before = peak_memory()
    opened = open_network(model, weights, untrained=True)  # an untrained network takes the same time
    size = opened.size if config.size is None else (config.size, config.size)
    deployed = config.form == "deploy"
    runtime = TorchRuntime(opened.detector, config.device, size=size, half=config.half, deployed=deployed)
    cuda = runtime.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(runtime.device)
    cpu = runtime.device.type == "cpu"
    setting = Setting(
        model=os.fspath(model) if isinstance(model, str | os.PathLike) else opened.name,
        **describe_runtime(runtime, half=config.half),
        threads=torch.get_num_threads() if cpu else None,
        size=runtime.size,
        batch=config.batch,
        nms=config.nms,
        form=f"{config.form} form",
        warm_up=config.warm_up,
        runs=config.runs,
    )
    found = measure(runtime, setting, before, wait=torch.cuda.synchronize if cuda else lambda: None)
    if cuda:
        found.memory["device"] = torch.cuda.max_memory_allocated(runtime.device)
    return found
