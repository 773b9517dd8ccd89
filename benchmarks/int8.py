"""8-bit files of any weights: how far their rows are from PyTorch's, and their size and time beside the float file's.

    python benchmarks/int8.py yolox-s yolov7_tiny=filled.safetensors --to onnx openvino --size 320

No AP is measured, so that models can be compared whose trained weights are not at hand: the name of a model alone is
freshly initialised. Ranges are chosen on made-up images. `onelook export --int8 --calibrate DATA` judges by AP.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from command import run_benchmark
from onelook.api.export_int8 import compare_files
from onelook.api.open import open_network
from onelook.errors import UserError
from onelook.exporting.accuracy import Comparison
from onelook.exporting.int8 import Quantization
from onelook.exporting.target import ExportOptions
from onelook.exporting.targets import INT8, TARGETS
from onelook.exporting.verify import verification_images
from onelook.reporter import SilentReporter

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One file. bytes: of the 8-bit and the float file.  within: share of the confident rows within the bounds."""

    model: str
    target: str
    refused: str = ""
    bytes: int = 0
    float_bytes: int = 0
    convolutions: int = 0
    within: float = 0.0
    float_ms: float = 0.0
    int8_ms: float = 0.0


@dataclass(frozen=True)
class Table:
    rows: list[Row]
    size: int

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "rows": [asdict(row) for row in self.rows]}

    def show(self, console: Console) -> None:
        console.print(
            f"{'model':14} {'format':9} {'convs':>5} {'MB':>6} {'of float':>8} {'within':>7} {'ms':>7} {'of float':>8}"
        )
        for row in self.rows:
            head = f"{row.model:14} {row.target:9}"
            if row.refused:
                console.print(f"{head} {row.refused}", markup=False)
                continue
            sizes = f"{row.convolutions:5} {row.bytes / 1e6:6.1f} {row.bytes / row.float_bytes:8.2f}"
            console.print(f"{head} {sizes} {row.within:7.0%} {row.int8_ms:7.1f} {row.int8_ms / row.float_ms:8.2f}")


def int8(*models: str, to: list[str] | None = None, size: int = 320, images: int = 8) -> Table:
    """Exports models in 8 bits without judging them, and measures the files.

    Args:
        models: Names of models, or NAME=FILE of weights.
        to: Formats.
        size: Side of the input.
        images: Made-up images for the ranges.
    """
    torch.set_num_threads(1)
    everything = verification_images((size, size), images + 2)
    quantization = Quantization(
        images=lambda: iter(everything[:images, None]),
        count=images,
        held_out=everything[images:],
        judge=lambda path: 1.0,
        compare=lambda first, second: compare_files(first, second, everything[:1]),
        max_drop=0.0,
        description={},
        reporter=SilentReporter(),
    )
    rows = []
    for model in models:
        name, separator, file = model.partition("=")
        torch.manual_seed(0)
        detector = open_network(name, file if separator else None, untrained=not separator).detector
        for target in to or ["onnx", "openvino"]:
            row = Row(name, target)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"model{TARGETS[target].suffix}"
                    done = INT8[target].write(detector, path, ExportOptions(size=(size, size)), quantization)
                    assert done.int8 is not None
                    compared: Comparison = done.int8.comparison
                    rows.append(
                        replace(
                            row,
                            bytes=done.bytes,
                            float_bytes=compared.float_bytes,
                            convolutions=done.int8.convolutions,
                            within=done.agreement.within,
                            float_ms=compared.float_ms,
                            int8_ms=compared.int8_ms,
                        )
                    )
            except UserError as error:
                rows.append(replace(row, refused=error.message))
            print(rows[-1], file=sys.stderr, flush=True)
    return Table(rows, size)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_benchmark(int8, arguments)


if __name__ == "__main__":
    sys.exit(main())
