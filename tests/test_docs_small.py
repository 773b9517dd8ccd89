"""The table of recipe `small` in docs/benchmarks.md has the figures of benchmarks/small.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("yolox-nano", "yolov7-tiny", "yolov4-tiny", "damo-yolo-ns")
ROWS = {
    "the demo's images": "demo",
    "the same, harder": "demo, hard",
    "BCCD": "bccd",
    "coco_mini": "coco_mini",
    "many small objects": "many small",
    "long and thin objects": "long and thin",
}
SEEDS = range(3)


def recorded(data: str, model: str, setting: str) -> list[float]:
    outcomes = json.loads((ROOT / "benchmarks" / "small.json").read_text())["outcomes"]
    return [outcomes[f"{data} | {model} | {setting} | {seed}"]["best"] or 0.0 for seed in SEEDS]


def section() -> str:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    return text.partition("### Recipe `small` against the published settings\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize(("title", "data"), ROWS.items())
def test_a_row_has_the_means_and_spreads_of_its_trainings(title: str, data: str) -> None:
    found = re.search(rf"^\| {title}, .*?\| (.+) \|$", section(), re.MULTILINE)
    assert found, f"there is no row '{title}'"
    cells = [cell.strip() for cell in found[1].split("|")]
    assert len(cells) == len(MODELS)
    for model, cell in zip(MODELS, cells):
        if not cell:
            continue
        published, small = (recorded(data, model, setting) for setting in ("published", "small"))
        numbers = [float(number) for number in re.findall(r"[\d.]+", cell)]
        expected = [mean(published), mean(small), stdev(small)]
        if len(numbers) == 4:  # the published one's spread too
            expected.insert(1, stdev(published))
        assert numbers == pytest.approx(expected, abs=0.00051)


def test_the_gain_on_average_and_the_least_are_those_of_the_trainings() -> None:
    outcomes = json.loads((ROOT / "benchmarks" / "small.json").read_text())["outcomes"]
    rows = sorted({tuple(name.split(" | ")[:2]) for name in outcomes})
    gains = [mean(recorded(*row, "small")) - mean(recorded(*row, "published")) for row in rows]
    stated = re.search(
        r"Over the (\d+) rows `small` gains \*\*([\d.]+) of AP\*\* on average, at least ([\d.]+)", section()
    )
    assert stated and int(stated[1]) == len(rows)
    assert abs(mean(gains) - float(stated[2])) <= 0.00051 and abs(min(gains) - float(stated[3])) <= 0.00051
