"""A search with a budget of latency; times come from formulas here, so that no test depends on the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import onelook
from onelook.api import search_latency
from onelook.api.search_latency import LatencyMeter
from onelook.cli.app import run
from onelook.errors import UsageError
from onelook.nas.operators import Operator
from onelook.networks.conv_shapes import conv_shapes
from onelook.networks.deploy import deploy
from onelook.recipes.searches import search_form
from onelook.reporter import PlainReporter, SilentReporter


def formula(meter: LatencyMeter, operator: Operator) -> float:
    inputs = 1 if operator.depthwise else operator.inputs
    work = operator.kernel**2 * inputs * operator.outputs * (operator.side // operator.stride) ** 2
    return 1e-5 + work / 2e10


MEASURE = LatencyMeter.measure  # the tests replace it


@pytest.fixture(autouse=True)
def formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole networks take twice the sum of their convolutions, and a millisecond."""

    def whole(meter: LatencyMeter, structures, progress) -> list[float]:
        return [0.001 + 2 * meter.model().total(structure) for structure in structures]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(LatencyMeter, "operator_seconds", formula)
    monkeypatch.setattr(LatencyMeter, "measure", whole)


def find(folder: Path, budget: str = "latency=12ms", **settings) -> onelook.SearchResult:
    settings = {
        "like": "damo-yolo-ns",
        "size": 128,
        "evaluations": 1,
        "threads": 1,
        "reporter": SilentReporter(),
        **settings,
    }
    return onelook.search(budget, out=folder, **settings)


def test_the_found_detector_keeps_the_budget_and_the_table_is_kept_in_the_cache(tmp_path: Path) -> None:
    result = find(tmp_path / "a")
    best = result.rows[0]
    assert best.within and best.measured is not None and best.measured <= 0.012
    assert best.predicted == pytest.approx(best.measured, rel=0.02)
    assert all(row.measured and row.predicted for row in result.rows)
    assert result.calibration is not None and result.calibration.reliable
    assert result.to_dict()["calibration"]["correlation"] == result.calibration.correlation
    (cache,) = (tmp_path / "cache" / "onelook" / "operators").iterdir()
    kept = json.loads(cache.read_text())
    assert len(kept["silu"]) > 50 and kept["threads"] >= 1
    meter = LatencyMeter(search_form("damo-yolo-ns"), 128, "torch", 1)
    assert len(meter.table.known) == len(kept["silu"])
    cache.write_text("{")
    assert not LatencyMeter(search_form("damo-yolo-ns"), 128, "torch", 1).table.known


def test_every_timed_run_of_a_network_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that by which the number of turns is chosen, which is the fastest here."""
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += {1: 0.5, 2: 0.125}.get(calls[0], 0.25)  # the first one warms up

    meter = LatencyMeter(search_form("damo-yolo-ns"), 128, "torch", 1)
    monkeypatch.setattr(meter.runtime, "detector", lambda architecture, draft: run)
    monkeypatch.setattr(meter.runtime, "clock", lambda: now[0])
    monkeypatch.setattr(search_latency, "_run_of", lambda runtime: runtime)
    assert MEASURE(meter, [meter.form.structure], lambda done, total, text: None) == [0.125]
    assert calls[0] == 2 + 3 * search_latency._LEAST_TURNS  # nothing warms up twice


@pytest.mark.slow
def test_a_larger_budget_finds_a_better_score(tmp_path: Path) -> None:
    small, large = find(tmp_path / "a", "latency=6ms"), find(tmp_path / "b", "latency=14ms")
    assert small.rows[0].score < large.rows[0].score


def test_predictions_are_corrected_where_finalists_take_longer(tmp_path: Path, monkeypatch, capsys) -> None:
    calls = []

    def slower(meter: LatencyMeter, structures, progress) -> list[float]:
        calls.append(len(structures))
        factor = 1.0 if len(calls) == 1 else 1.3  # after the calibration, the machine is slower
        return [factor * (0.001 + 2 * meter.model().total(structure)) for structure in structures]

    monkeypatch.setattr(LatencyMeter, "measure", slower)
    result = find(tmp_path / "a", "latency=6ms", reporter=PlainReporter())
    assert "1.30 times the predicted time" in capsys.readouterr().err
    assert result.rows[0].within and result.rows[0].measured <= 0.006 and len(calls) >= 4


def test_a_table_that_orders_badly_is_told_and_more_finalists_are_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    counts = []

    def reversed_order(meter: LatencyMeter, structures, progress) -> list[float]:
        counts.append(len(structures))
        return [0.01 / (1 + 1000 * meter.model().total(structure)) for structure in structures]

    monkeypatch.setattr(LatencyMeter, "measure", reversed_order)
    result = find(tmp_path / "a", reporter=PlainReporter())
    assert result.calibration is not None
    assert not result.calibration.reliable
    assert "That is low" in capsys.readouterr().err and counts[1] == 12


def test_wrong_settings_are_explained(tmp_path: Path) -> None:
    for settings, message in (
        ({"budget": "flops=50M", "threads": 2}, "for a budget of latency"),
        ({"processes": 2}, "machine for itself"),
        ({"budget": "latency=12"}, "has no unit"),
        ({"budget": "latency=damo-yolo-t"}, "not known before"),
    ):
        with pytest.raises(UsageError, match=message):
            find(tmp_path / "a", **settings)


def test_the_command_line_shows_predicted_and_measured_times(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["--like", "damo-yolo-ns", "--size", "128", "--budget", "latency=12ms", "--evaluations", "1"]
    arguments += ["--threads", "1"]
    assert run(["search", *arguments, "--out", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "ms predicted" in shown and "rank correlation" in shown.replace("\n", " ")


def test_neck_and_head_are_interpolated_between_channels_of_the_grid() -> None:
    form = search_form("damo-yolo-t")  # 96, 192 and 384 channels lie on the grid
    meter = LatencyMeter(form, 128, "torch", 1)
    with torch.device("meta"):
        detector = deploy(form.architecture.build())
    found = conv_shapes(detector, torch.zeros(1, 3, 128, 128))
    assert meter.model().total(form.structure) == pytest.approx(sum(formula(meter, Operator(*o)) for o in found))
    stages = form.structure.stages
    between = replace(form.structure, stages=(stages[0], replace(stages[1], outputs=80), *stages[2:]))
    below = replace(form.structure, stages=(stages[0], replace(stages[1], outputs=64), *stages[2:]))
    low, middle, high = (meter._neck_and_head_seconds(one) for one in (below, between, form.structure))
    assert middle == pytest.approx((low + high) / 2) and low < middle < high
