"""Large images in tiles: average precision and cost on canvases of small objects, and memory.

    python benchmarks/tiles.py ap runs/demo/run                # what `onelook demo` has trained
    python benchmarks/tiles.py memory runs/demo/detector.onnx

`ap` draws canvases of 1600 x 1600 pixels whose objects are as large as those that the demo's model was trained on, and
validates the model on whole canvases in inputs of several sizes, and in tiles. `memory` runs `onelook detect` on JPEG
files of up to 100 megapixels, each in a process of its own, and reads the peak of its resident memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from command import run_benchmark
from onelook.api.load import load
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.devices import processor_name
from onelook.ops.merge import MergeKind
from onelook.predict.tiles import MERGE, Tiles
from onelook.reporter import SilentReporter
from onelook.threads import free_cores

if TYPE_CHECKING:
    from rich.console import Console

CANVAS = 1600
SIDE, INPUT = 160, 96  # of the demo's images, and of the network's input for them
# Bytes a pixel: 3 of the image that is detected, 6 of the next one, of which OpenCV has a copy while it decodes, and 1
# of their files.
MOST = 10.5


@dataclass(frozen=True)
class Way:
    """How canvases are looked at. size: of the network's input.  tile: side of tiles, None for the whole canvas."""

    size: int
    tile: int | None = None
    overlap: float = 0.2
    merge: MergeKind = MERGE

    @property
    def name(self) -> str:
        if self.tile is None:
            return f"whole, input {self.size}"
        return f"tiles {self.tile}, input {self.size}, overlap {self.overlap:g}, {self.merge}"


WAYS = (
    Way(INPUT),
    Way(480),
    Way(960),
    Way(INPUT, SIDE, 0.0),
    Way(INPUT, SIDE),
    Way(INPUT, SIDE, 0.2, "nms"),
    Way(INPUT, SIDE, 0.4),
    Way(192, 320),
    Way(192, 320, 0.2, "nms"),
    Way(384, 640),
)


@dataclass(frozen=True)
class Score:
    """A way's figures. runs: of the network, an image.  pixels: of the inputs of one image.

    milliseconds: processor time of the whole validation, an image.
    """

    name: str
    ap: float
    ap50: float
    ap_small: float
    recall: float
    runs: int
    pixels: int
    milliseconds: float


@dataclass(frozen=True)
class TilesBench:
    scores: list[Score]
    setup: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"setup": self.setup, "scores": [asdict(score) for score in self.scores]}

    def show(self, console: Console) -> None:
        console.print(
            f"{'':44} {'AP':>6} {'AP50':>6} {'small':>6} {'AR100':>6} {'runs':>5} {'Mpx':>5} {'cpu ms':>7}",
            soft_wrap=True,
        )
        for one in self.scores:
            figures = " ".join(f"{value:6.3f}" for value in (one.ap, one.ap50, one.ap_small, one.recall))
            line = f"{one.name:44} {figures} {one.runs:5} {one.pixels / 1e6:5.2f} {one.milliseconds:7.0f}"
            console.print(line, soft_wrap=True)
        console.print(", ".join(f"{name} {value}" for name, value in self.setup.items()))


def ap(model: Path, *, canvases: int = 12, data: Path | None = None, batch: int = 8, threads: int = 1) -> TilesBench:
    """Measures average precision with and without tiles.

    Args:
        model: Folder of the run of `onelook demo`, or its weights.
        canvases: How many are drawn.
        data: Folder for them; a temporary one unless given.
        batch: Tiles that the network sees at once.
        threads: Of the network.
    """
    extent = (0.2 * SIDE / CANVAS, 0.6 * SIDE / CANVAS)
    scenes = Scenes((CANVAS, CANVAS), (40, 70), extent, difficulty=0.2, empty=0.0, classes=3, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        written = write_synthetic(data or Path(folder) / "data", scenes, {"val": canvases})
        scores = [_score(model, written, way, canvases=canvases, batch=batch, threads=threads) for way in WAYS]
    setup = {"canvases": canvases, "batch": batch, "threads": threads, "processor": processor_name()}
    return TilesBench(scores, setup | {"free cores at the end": round(free_cores(len(os.sched_getaffinity(0))), 1)})


def _score(model: Path, data: Path, way: Way, *, canvases: int, batch: int, threads: int) -> Score:
    detector = load(model, size=way.size, device="cpu", threads=threads)
    started = time.process_time()
    found = detector.validate(
        data,
        batch=batch if way.tile else 1,
        tile=way.tile,
        overlap=way.overlap,
        tile_merge=way.merge,
        reporter=SilentReporter(),
    )
    runs = 1 if way.tile is None else Tiles(way.tile, way.overlap).count((CANVAS, CANVAS))
    stats, milliseconds = found.stats, 1000 * (time.process_time() - started) / canvases
    figures = (stats["AP"], stats["AP50"], stats["APs"], stats["AR100"])
    return Score(way.name, *figures, runs, runs * way.size**2, milliseconds)


@dataclass(frozen=True)
class Peak:
    """The peak of a process. images: of these megapixels, one after the other.  tile: side of the tiles, 0 for none."""

    megapixels: int
    images: int
    tile: int
    megabytes: float
    seconds: float


@dataclass(frozen=True)
class MemoryBench:
    peaks: list[Peak]
    setup: dict[str, Any]

    @property
    def largest_share(self) -> float:
        """Bytes a pixel of the largest images beyond those of the smallest, at most, with tiles."""
        tiled = [one for one in self.peaks if one.tile]
        first = min(tiled, key=lambda one: (one.megapixels, one.images))
        return max(
            (one.megabytes - first.megabytes) / (one.megapixels - first.megapixels)
            for one in tiled
            if one.megapixels > first.megapixels
        )

    @property
    def exit_code(self) -> int:
        return int(self.largest_share > MOST)

    def to_dict(self) -> dict[str, Any]:
        return {"setup": self.setup, "bytes_a_pixel": self.largest_share, "peaks": [asdict(one) for one in self.peaks]}

    def show(self, console: Console) -> None:
        console.print(f"{'megapixels':>10} {'images':>6} {'tile':>5} {'peak MB':>8} {'s':>6}")
        for one in self.peaks:
            console.print(
                f"{one.megapixels:10} {one.images:6} {one.tile or '-':>5} {one.megabytes:8.0f} {one.seconds:6.1f}"
            )
        console.print(f"{self.largest_share:.2f} bytes a pixel with tiles, {MOST:g} allowed")
        console.print(", ".join(f"{name} {value}" for name, value in self.setup.items()))


def memory(model: Path, *, tile: int = 640, megapixels: tuple[int, ...] = (4, 25, 100)) -> MemoryBench:
    """Measures the peak of `onelook detect`'s memory; fails where it holds more than two images.

    Args:
        model: An exported file.
        tile: Side of the tiles.
        megapixels: Sizes of the images; the smallest tells what the process needs for itself.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for size in megapixels:
            paths = [_draw(Path(folder) / f"{size}-{number}.jpg", size) for number in range(3)]
            for images, side in ((1, 0), (1, tile), (3, tile)):
                peaks.append(_peak(model, paths[:images], side, size, Path(folder) / "out"))
            for path in paths:
                path.unlink()
    return MemoryBench(peaks, {"processor": processor_name(), "model": model.name})


def _draw(path: Path, megapixels: int) -> Path:
    """A square JPEG of so many megapixels, made of one scene."""
    side = round((megapixels * 1e6) ** 0.5)
    scene = Scenes((800, 800), (20, 30), (0.04, 0.12), classes=3)("memory", 0).image[..., ::-1]
    times = -(-side // 800)
    cv2.imwrite(str(path), np.tile(scene, (times, times, 1))[:side, :side], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return path


def _peak(model: Path, images: list[Path], tile: int, megapixels: int, out: Path) -> Peak:
    """Runs `onelook detect` in a process of its own."""
    command = [sys.executable, "-m", "onelook", "detect", *map(str, images), "--model", str(model), "--out", str(out)]
    command += ["--format", "json", "--threads", "1", *(["--tile", str(tile)] if tile else [])]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"onelook detect ended with {process.returncode}")
    if len(json.loads((out / "detections.json").read_text())) != len(images):
        raise SystemExit("not every image was detected")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes, or kilobytes
    return Peak(megapixels, len(images), tile, usage.ru_maxrss / unit, time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    modes: dict[str, Callable[..., Any]] = {"ap": ap, "memory": memory}
    if not given or given[0] not in modes:
        print(__doc__)
        return 2
    return run_benchmark(modes[given[0]], given[1:])


if __name__ == "__main__":
    sys.exit(main())
