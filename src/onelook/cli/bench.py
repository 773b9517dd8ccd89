"""`onelook bench model`: latency, throughput and memory of a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from onelook.api import bench as api
from onelook.cli.command_result import CommandResult
from onelook.cli.views.bench import show_benchmark

app = App(name="bench", help="Measure the latency, throughput and memory of a model.")


@app.command(name="model")
def bench_model(
    model: str,
    /,
    *,
    weights: Path | None = None,
    size: int | None = None,
    batch: int = 1,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    nms: Literal["in", "out"] = "in",
    form: Literal["deploy", "training"] = "deploy",
    runs: int = 50,
    warm_up: int = 10,
) -> CommandResult[api.ModelBenchmark]:
    """Measure latency, throughput and memory of a network, from resized images to boxes.

    The time of a batch begins with uint8 images in the size of the network's input and ends with boxes in its pixels;
    reading and resizing files is not in it. Without weights the network is freshly initialised: the network takes the
    same time, but finds nothing for NMS to do.

    Examples:
        onelook bench model yolox-s --batch 8
        onelook bench model exported.onnx --threads 1 --nms out --json -

    Args:
        model: A model's name, a weights file of Onelook's, or an exported ONNX file.
        weights: Weights for a model that was given by name.
        size: Height and width of the input in pixels; the model's own if not given.
        batch: Images a run.
        device: cpu, cuda, cuda:1, mps; the first GPU if there is one.
        threads: Threads of one run on the CPU; the runtime's choice if not given.
        half: Compute in float16; on a GPU only.
        nms: Whether the time includes choosing boxes by NMS (confidence 0.25, IoU 0.45).
        form: The form that inference uses, or the one that training uses.
        runs: Batches that are measured.
        warm_up: Batches before, which do not count.
    """
    result = api.benchmark(
        model,
        weights=weights,
        size=size,
        batch=batch,
        device=device,
        threads=threads,
        half=half,
        nms=nms,
        form=form,
        runs=runs,
        warm_up=warm_up,
    )
    return CommandResult(result, show_benchmark)
