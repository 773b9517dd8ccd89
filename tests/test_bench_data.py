"""The benchmark of training samples: every contestant makes its samples; figures are ratios of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from command import run_benchmark
from onelook.errors import UsageError
from samples import DECODE, DataBenchmark, bench_data, samples_command
from shared import data, needs_shared


@needs_shared
@pytest.mark.parametrize("rules", ["paper", "later"])
def test_every_contestant_takes_part(rules: str) -> None:
    found = bench_data(data("coco_mini"), "val", rules, size=96, rounds=2, samples=2)
    assert len(found.seconds) == 8 and all(len(times) == 2 for times in found.seconds.values())
    assert found.decodings(DECODE) == 1.0
    figures = found.to_dict()["figures"]
    assert figures.keys() == found.seconds.keys()
    console = Console(record=True, width=100)
    found.show(console)
    assert "mosaic + MixUp, cache" in console.export_text()


def test_ratios_are_medians_of_rounds() -> None:
    found = DataBenchmark("x", "paper", (64, 64), 1, 1, {DECODE: [1.0, 2.0, 4.0], "mosaic": [3.0, 8.0, 12.0]})
    assert found.decodings("mosaic") == 3.0
    assert found.milliseconds("mosaic") == 8000.0


def test_numbers_below_the_least_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rounds"):
        bench_data(tmp_path, "train", "paper", rounds=0)
    assert run_benchmark(samples_command, [str(tmp_path), "--size", "8"]) == 2
