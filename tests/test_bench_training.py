"""The benchmarks of assignment and of a training step, on small sizes."""

from __future__ import annotations

import json

import pytest
import torch

from assigners import assign
from command import run_benchmark
from layouts import SPLIT_LAYOUT, layouts
from onelook.config import change, to_plain, write_yaml
from onelook.recipes import default_recipe
from training_step import training_step


def test_assignment_is_measured_against_the_textbook_and_agrees(tmp_path, capsys):
    report = tmp_path / "assign.json"
    arguments = ["--batch", "2", "--size", "96", "--objects", "4", "--classes", "3", "--runs", "2"]
    assert run_benchmark(assign, [*arguments, "--json", str(report)]) == 0
    rules = json.loads(report.read_text())["rules"]
    assert set(rules) == {"paper", "later"}
    assert all(rule["identical"] and rule["ratio"] > 0 and rule["pairs"] > 0 for rule in rules.values())
    assert "identical" in capsys.readouterr().out


def test_a_training_step_is_measured_against_its_bare_network(tmp_path, capsys):
    report = tmp_path / "train.json"
    arguments = ["--size", "64", "--batch", "2", "--steps", "4", "--warm-up", "0", "--workers", "0", "--device", "cpu"]
    arguments += ["--precision", "bf16", "--layout", "contiguous"]
    assert run_benchmark(training_step, [*arguments, "--json", str(report)]) == 0
    result = json.loads(report.read_text())
    assert result["ratio"] > 0 and result["setting"]["batch"] == 2
    assert result["setting"]["precision"] == "bf16" and result["setting"]["layout"] == "contiguous"
    rates = result["images_per_second"]
    assert rates.keys() == {"bare", "whole", "without the loader", "the loader alone"} and min(rates.values()) > 0
    assert rates["bare"] == 2e3 / result["milliseconds"]["bare"]["mean"]
    assert {"assignment", "average of the weights", "waiting for the loader"} <= set(result["parts_milliseconds"])
    assert "times the bare loop" in capsys.readouterr().out


def test_gradients_in_each_layout_are_compared_with_float64(tmp_path, capsys):
    report = tmp_path / "layouts.json"
    arguments = ["yolox-nano", "--size", "64", "--batch", "2", "--seeds", "1", "--rounds", "1"]
    assert run_benchmark(layouts, [*arguments, "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["models"]["yolox-nano"]
    assert rows.keys() == {"contiguous", "channels-last", SPLIT_LAYOUT}
    # Far from rounding: a wrong batch or network would be off by more than the gradient itself.
    assert all(0 < row["median"] < 0.5 and row["time"] > 0 for row in rows.values())
    assert run_benchmark(layouts, ["--seeds", "0"]) == 2
    assert "--seeds is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--steps", "0"),
        ("--warm-up", "-3"),
        ("--threads", "0"),
        ("--workers", "-1"),
        ("--size", "65"),
        ("--batch", "0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(flag, value, capsys):
    assert run_benchmark(training_step, [flag, value]) == 2
    error = capsys.readouterr().err
    assert value in error and "fault of Onelook" not in error


def test_what_is_slow_before_the_measured_steps_is_not_counted(monkeypatch):
    """Kernels are chosen and networks compiled in the first steps, also where many steps are measured at once."""
    import training_step as measured

    class Gpu:
        device = torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    clock, turns = [0.0], []
    monkeypatch.setattr(measured, "perf_counter", lambda: clock[0])

    def turn():
        turns.append(1)
        clock[0] += 1.0 if len(turns) <= 4 else 0.01

    measured._warm(turn, None, 4, Gpu())
    assert measured._block(turn, None, Gpu()) == pytest.approx([0.01] * measured.READ_EVERY)


def test_the_step_of_an_accumulating_training_is_one_pass(tmp_path):
    write_yaml(tmp_path / "recipe.yaml", to_plain(change(default_recipe("yolox-nano"), {"accumulate": 4})))
    report = tmp_path / "train.json"
    arguments = ["--size", "64", "--batch", "2", "--steps", "2", "--warm-up", "1", "--workers", "0", "--device", "cpu"]
    assert (
        run_benchmark(training_step, ["--model", str(tmp_path / "recipe.yaml"), *arguments, "--json", str(report)]) == 0
    )
