"""`onelook stream`: streaming AP of models on videos."""

from __future__ import annotations

from pathlib import Path

from onelook.api import stream as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.streaming import show_streaming
from onelook.errors import UsageError
from onelook.report.streaming import Streaming


def stream(
    data: Path,
    /,
    *,
    model: str | None = None,
    models: str | None = None,
    split: str | None = None,
    sizes: str | None = None,
    runtime: str | None = None,
    forecast: str = "none,kalman",
    fps: float = 30.0,
    eta: float = 0.0,
    devices: int = 1,
    dynamic: bool = False,
    stride: int = 1,
    run_times: Path | None = None,
    speed: float = 1.0,
    confidence: float = 0.01,
    iou: float = 0.65,
    batch: int = 8,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    runs: int = 100,
    seed: int = 0,
    allow_size_mismatch: bool = False,
    out: Path = Path("runs/stream"),
) -> CommandResult[Streaming]:
    """Measure streaming AP: a detector's accuracy at the time of every frame of a video, latency included.

    Every frame is compared with the newest detections that were finished when it came. Run times are measured here, or
    given, and the stream is simulated from them. Writes CSV, JSON, a chart and the run times; the same command
    continues what was stopped. Exported files need no PyTorch.

    Examples:
        onelook stream Argoverse-HD/ --model yolox-s.onnx
        onelook stream data/ --models small=small.onnx,large=large.onnx --out runs/tradeoff
        onelook stream data/ --models runs/first,runs/second --sizes 320,416,640 --runtime torch,onnx
        onelook stream data/ --model yolox-s.onnx --run-times runs/stream/run_times --speed 1.5

    Args:
        data: Folder, or YAML or JSON file, of a data set of video frames: Argoverse-HD, or one folder a video.
        model: Weights, an exported file or the folder of a run; NAME=FILE gives a name, or weights to a built-in model.
        models: Several of these, separated by commas.
        split: Part of the data set; val, or test where that is what there is.
        sizes: Sides of the networks' input to try, separated by commas; each model's own unless given.
        runtime: What to run weights with: torch, onnx, openvino, ncnn, or several with commas; for all but torch they
            are exported into the folder of the results. Every model runs as it is given unless given.
        forecast: How boxes are moved to the time of the frame: none, linear, kalman, or several with commas.
        fps: Frames a second of the videos.
        eta: Frames that the query is ahead of the frame; -1 allows the time of one frame.
        devices: Detectors that run at the same time; 0 is one for every frame.
        dynamic: Wait for the next frame where that gives a newer output (one device only).
        stride: Process every second, third, ... frame that the detector reaches (one device only).
        run_times: JSON file of run times in seconds, or the folder that an earlier run has written.
        speed: Of the machine that is simulated, relative to the measured one.
        confidence: Least score of a detection that AP counts.
        iou: Overlap above which the weaker of two detections of a class is dropped.
        batch: Images at once where time does not count.
        device: Where to run: cpu, cuda, cuda:1, mps; the best there is unless given.
        threads: Threads of one run on a CPU; each runtime's choice unless given.
        half: Compute in float16; on a GPU only.
        runs: Frames that the run time of each model is measured on.
        seed: Of the drawn run times.
        allow_size_mismatch: Go on although images do not have their annotated sizes, with the boxes as annotated.
        out: Folder of the results.
    """
    found = api.stream(
        _models(model, models),
        data,
        split=split,
        sizes=_sizes(sizes),
        runtime=runtime,
        forecast=forecast,
        fps=fps,
        eta=eta,
        devices=devices,
        dynamic=dynamic,
        stride=stride,
        run_times=run_times,
        speed=speed,
        confidence=confidence,
        iou=iou,
        batch=batch,
        device=device,
        threads=threads,
        half=half,
        runs=runs,
        seed=seed,
        allow_size_mismatch=allow_size_mismatch,
        out=out,
        reporter=ConsoleReporter(),
    )
    return CommandResult(found, show_streaming)


def _models(model: str | None, models: str | None) -> list[str]:
    listed = [one for one in (models or "").split(",") if one]
    found = [*([model] if model else []), *listed]
    if not found:
        raise UsageError("No model was given.", "Give --model MODEL, or --models A,B,C.")
    return found


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 8192 for part in parts):
        raise UsageError(f"The sizes '{text}' are not usable.", "Give sides in pixels: --sizes 320,416,640")
    return [int(part) for part in parts]
