"""Detection on a GPU with every runtime at hand, batch 1 and 32: latency, images a second, memory; NMS in the time.

    python benchmarks/gpu_detection.py --seconds 90 --rows detection.jsonl

PyTorch in float32 and float16, and exported files in the runtimes that are installed. Networks are freshly initialised:
they take the same time as trained ones, but leave NMS little to do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gpu_results import Rows, arguments, begin_memory, memory_gib
from onelook.api.bench import benchmark
from onelook.api.export import export
from onelook.networks.build import build
from onelook.weights import save_weights

BATCHES = (1, 32)
NEEDS = {"tensorrt": "tensorrt", "onnx": "onnxruntime", "torch": "torch", "openvino": "openvino"}


def runtimes(device: torch.device) -> Iterator[tuple[str, str]]:
    """(name, precision) of what is measured, by its worth; OpenVINO has no device but the processor here."""
    yield "pytorch", "fp32"
    if device.type == "cuda":
        yield "pytorch", "fp16"
    for name in ("tensorrt", "onnx", "torch") if device.type == "cuda" else ("onnx", "openvino"):
        yield name, "fp32"
        if device.type == "cuda":
            yield name, "fp16"


def row(
    name: str, precision: str, batch: int, *, weights: Path, size: int, device: torch.device, runs: int
) -> dict[str, Any]:
    """The figures of one runtime; an export is made first, whose time does not count."""
    if find_spec(NEEDS.get(name, "torch")) is None:
        return {"left_out": f"{NEEDS[name]} is not installed"}
    begin_memory(device)
    half, warm_up = precision == "fp16", min(10, runs)
    if name == "pytorch":
        result = benchmark(weights, size=size, batch=batch, device=str(device), half=half, runs=runs, warm_up=warm_up)
    else:
        out = weights.with_name(f"{name}-{precision}-{batch}.{_ENDINGS[name]}")
        made: Any = export(weights, name, batch=batch, size=size, half=half, out=out)  # type: ignore[call-overload]
        result = benchmark(made.exported.path, batch=batch, device=str(device), runs=runs, warm_up=warm_up)
    found = result.to_dict()
    return {
        "images_per_second": found["images_per_second"],
        "latency_milliseconds": found["milliseconds"],
        "device": found["setting"]["device"],
        "runtime": found["setting"]["runtime"],
        "gib": memory_gib(device),
    }


_ENDINGS = {"tensorrt": "engine", "onnx": "onnx", "torch": "pt2", "openvino": "xml"}


def main() -> None:
    """Writes a row for every runtime and batch as it is measured."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="yolox-s")
    parser.add_argument("--size", type=int, default=640)
    asked = parser.parse_args()
    device, rows = torch.device(asked.device), Rows(asked.rows, asked.seconds)
    model, size, runs = ("yolox-nano", 64, 2) if asked.tiny else (asked.model, asked.size, 50)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{model}.safetensors"
        save_weights(build(model), weights, size=(size, size))
        for name, precision in runtimes(device):
            for batch in (1, 2) if asked.tiny else BATCHES:
                rows.measure(
                    {
                        "part": "detection",
                        "model": model,
                        "size": size,
                        "batch": batch,
                        "name": name,
                        "precision": precision,
                    },
                    lambda name=name, precision=precision, batch=batch: row(  # type: ignore[misc]
                        name, precision, batch, weights=weights, size=size, device=device, runs=runs
                    ),
                )


if __name__ == "__main__":
    main()
