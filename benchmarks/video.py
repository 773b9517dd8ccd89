"""Detection in a video: whether decoding and network overlap, and the latency in real time.

    python benchmarks/video.py clip.mp4 --model yolox_nano.onnx
    python benchmarks/video.py clip.mp4 --model yolox_nano.onnx --live

Sides take turns: decoding alone (with resizing), the network alone (with postprocessing) on the same frames, and both
as `onelook detect` runs them. The ratio is the time of both to that of the slower side in the same turn; its median
counts. It needs two free cores. The ratio of processor times, of both to the sum of the sides, says what reading in a
thread costs, and does not need them; nor does --wait, where the network waits instead of computing, as it does for a
GPU.
With --live the clip is played at its own rate instead, and what `--live` measures of itself is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from command import run_benchmark
from onelook.api.alternation import alternate
from onelook.api.load import load
from onelook.devices import num_cores, processor_name
from onelook.errors import UsageError
from onelook.ops.nms import Postprocess, RawDetections
from onelook.predict.latency import Latencies
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import Runtime
from onelook.predict.sources import Excerpt, PreparedImage, find_sources
from onelook.predict.video import read_video
from onelook.threads import free_cores

if TYPE_CHECKING:
    from rich.console import Console

CONFIDENCE, IOU = 0.25, 0.45


@dataclass(frozen=True)
class VideoBench:
    """Milliseconds a frame of each side, the ratios, and the setup; with --live latencies instead."""

    milliseconds: dict[str, float]
    ratio: float | None
    processor_ratio: float | None
    setup: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "milliseconds": self.milliseconds,
            "ratio": self.ratio,
            "processor_ratio": self.processor_ratio,
            "setup": self.setup,
        }

    def show(self, console: Console) -> None:
        for name, value in self.milliseconds.items():
            console.print(f"{name:<28} {value:8.2f} ms")
        if self.ratio is not None:
            console.print(f"{'both / the slower':<28} {self.ratio:8.3f}")
            console.print(f"{'processor: both / the sum':<28} {self.processor_ratio:8.3f}")
        console.print(", ".join(f"{name} {value}" for name, value in self.setup.items()), highlight=False)


def video(
    clip: Path,
    *,
    model: str,
    size: int | None = None,
    frames: int = 200,
    rounds: int = 9,
    batch: int = 1,
    threads: int = 1,
    wait: float = 0.0,
    live: bool = False,
    track: bool = False,
) -> VideoBench:
    """Measures detection in a video.

    Args:
        clip: The video.
        model: An exported file, or weights.
        size: Side of the input.
        frames: How many of the clip's frames are used.
        rounds: Turns of each side, after one that does not count.
        batch: Most images in one run of the network.
        threads: Of the network.
        wait: Milliseconds a frame that the network waits instead of computing.
        live: Play the clip at its own rate, and measure from each frame to its boxes.
        track: With --live, follow objects and forecast their boxes.
    """
    detector = load(model, size=size, threads=threads, device="cpu")
    predictor = Predictor(Waiting(detector.runtime, wait / 1e3) if wait else detector.runtime, batch=batch)
    setup = {"processor": processor_name(), "cores": num_cores(), "threads": threads, "batch": batch}
    if live:
        return _live(predictor, clip, frames, track, setup)
    sources = find_sources([str(clip)])
    read = read_video(sources[0], predictor.frame, predictor.size, False)
    items = [item for item in islice(read, frames) if isinstance(item, PreparedImage)]
    if len(items) < frames:
        raise UsageError(f"'{clip}' has {len(items)} frames.", f"Give a longer clip, or --frames {len(items)}.")
    video_info, postprocess = items[0].video, predictor.settings(CONFIDENCE, IOU)
    assert video_info is not None
    setup |= {"frames": frames, "size": f"{video_info.width}x{video_info.height}", "rounds": rounds}
    excerpt = Excerpt(end=items[-1].seconds + 0.5 / video_info.fps)

    def decode() -> int:
        return sum(1 for _ in read_video(sources[0], predictor.frame, predictor.size, False, excerpt))

    def network() -> int:
        pixels, placements = [item.pixels for item in items], [item.placement for item in items]
        return len(predictor.run(pixels, placements, postprocess))

    def both() -> int:
        return sum(1 for _ in predictor.stream_sources(sources, postprocess, excerpt=excerpt))

    sides = {"decoding alone": decode, "network alone": network, "both, as detect runs them": both}
    if len({run() for run in sides.values()}) != 1:
        raise UsageError("The sides see different numbers of frames.", "Give a clip whose times rise evenly.")
    used: dict[str, list[float]] = {name: [] for name in sides}
    times = alternate({name: _counted(run, used[name]) for name, run in sides.items()}, rounds, warm_up=1)
    ratio = median(whole / max(pair) for *pair, whole in zip(*times.values()))
    processor = median(whole / sum(pair) for *pair, whole in zip(*used.values()))
    setup["free cores at the end"] = round(free_cores(num_cores()), 1)
    return VideoBench({name: median(all_) / frames * 1e3 for name, all_ in times.items()}, ratio, processor, setup)


def _counted(run: Callable[[], int], used: list[float]) -> Callable[[], None]:
    def counted() -> None:
        before = time.process_time()
        run()
        used.append(time.process_time() - before)

    return counted


class Waiting:
    """A runtime whose network waits instead of computing, and finds nothing."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self.size, self.frame, self.class_names = runtime.size, runtime.frame, runtime.class_names
        self.postprocess, self.evaluating, self._seconds = runtime.postprocess, runtime.evaluating, seconds

    def __call__(self, batch: np.ndarray, postprocess: Postprocess) -> list[RawDetections]:
        time.sleep(self._seconds * len(batch))
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [nothing for _ in batch]


def _live(predictor: Predictor, clip: Path, frames: int, track: bool, setup: dict[str, Any]) -> VideoBench:
    latencies, dropped, last = Latencies(), 0, 0.0
    for result in predictor.live(clip, CONFIDENCE, IOU, tracker="bytetrack" if track else None):
        latencies.add(result.latency)
        dropped, last = dropped + result.dropped, result.seconds
        if result.processed + 1 >= frames:
            break
    setup |= {"processed": latencies.count, "dropped": dropped, "seconds": round(last, 1), "tracked": track}
    found = {f"capture to boxes, p{percent}": 1e3 * value for percent, value in latencies.all().items()}
    return VideoBench(found, None, None, setup)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_benchmark(video, arguments)


if __name__ == "__main__":
    sys.exit(main())
