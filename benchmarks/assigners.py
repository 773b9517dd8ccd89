"""How long SimOTA takes for a batch, against the per-image loop of the textbook, and whether both agree."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from baseline.simota import simota
from command import run_benchmark
from onelook.assign.simota import LATER, PAPER
from onelook.types import Matches, Predictions, Targets
from random_scenes import random_scene

if TYPE_CHECKING:
    from rich.console import Console

RULES = {"paper": PAPER, "later": LATER}


@dataclass(frozen=True)
class RuleTimes:
    """Times of one published rule.

    seconds, textbook: of every run, in order.  identical: whether the matches are.  pairs: in the batch.
    """

    rule: str
    seconds: Sequence[float]
    textbook: Sequence[float]
    identical: bool
    pairs: int

    @property
    def ratio(self) -> float:
        """How many times as long the textbook takes, by medians."""
        return float(np.median(self.textbook) / np.median(self.seconds))


@dataclass(frozen=True)
class AssignBenchmark:
    """What was measured, under which setting. Warm-up: one run each."""

    setting: dict[str, Any]
    rules: Sequence[RuleTimes]

    @property
    def exit_code(self) -> int:
        """1 where the matches of a rule differ."""
        return int(not all(rule.identical for rule in self.rules))

    def to_dict(self) -> dict[str, Any]:
        """Setting, and every rule's milliseconds, ratio and agreement."""
        rows = {
            one.rule: {
                "milliseconds": _percentiles(one.seconds),
                "textbook_milliseconds": _percentiles(one.textbook),
                "ratio": one.ratio,
                "identical": one.identical,
                "pairs": one.pairs,
            }
            for one in self.rules
        }
        return {"setting": self.setting, "rules": rows}

    def show(self, console: Console) -> None:
        """The setting, then a row a rule."""
        from rich.table import Table

        console.print(", ".join(f"{name} {value}" for name, value in self.setting.items()), highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for title in ("rule", "ms p50", "ms p90", "per-image loop p50", "times", "matches"):
            table.add_column(title, justify="left" if title == "rule" else "right")
        for one in self.rules:
            ours = _percentiles(one.seconds)
            loop = f"{_percentiles(one.textbook)['p50']:.1f}"
            times = f"{one.ratio:.1f}"
            agree = "identical" if one.identical else "DIFFERENT"
            table.add_row(one.rule, f"{ours['p50']:.1f}", f"{ours['p90']:.1f}", loop, times, agree)
        console.print(table)


def bench_assign(
    batch: int, size: int, objects: int, *, classes: int, device: str, threads: int | None, runs: int
) -> AssignBenchmark:
    """Measures both published rules on one random batch; ours and the textbook's runs alternate."""
    if threads is not None:
        torch.set_num_threads(threads)
    predictions, targets = random_scene(0, batch, objects, classes=classes, size=(size, size))
    on_device = _moved(predictions, targets, torch.device(device))
    rules = []
    for name, rule in RULES.items():
        expected = simota(predictions, targets, **asdict(rule))
        matches = rule(*on_device)
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(_time(lambda rule=rule: rule(*on_device), device))  # type: ignore[misc]
            theirs.append(_time(lambda rule=rule: simota(predictions, targets, **asdict(rule)), "cpu"))  # type: ignore[misc]
        rules.append(RuleTimes(name, ours, theirs, _same(matches, expected), int(matches.valid.sum())))
    setting = {
        "device": torch.cuda.get_device_name() if device != "cpu" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "batch": batch,
        "size": size,
        "objects an image": objects,
        "classes": classes,
        "warm-up": 1,
        "runs": runs,
    }
    return AssignBenchmark(setting, rules)


def _time(function: Callable[[], Any], device: str) -> float:
    start = perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return perf_counter() - start


def _same(matches: Matches, expected: Sequence[tuple[torch.Tensor, ...]]) -> bool:
    for image, (priors, objects, _) in enumerate(expected):
        valid = matches.valid[image]
        order = matches.priors[image][valid].argsort()
        found = matches.priors[image][valid][order].cpu(), matches.objects[image][valid][order].cpu()
        if not (torch.equal(found[0], priors) and torch.equal(found[1], objects)):
            return False
    return True


def _moved(predictions: Predictions, targets: Targets, device: torch.device) -> tuple[Predictions, Targets]:
    if device.type == "cpu":
        return predictions, targets
    at = predictions.priors
    priors = type(at)(at.points.to(device), at.strides.to(device), at.levels.to(device), shapes=at.shapes)
    objectness = None if predictions.objectness is None else predictions.objectness.to(device)
    moved = Predictions(
        predictions.boxes.to(device),
        predictions.classes.to(device),
        objectness,
        predictions.regression.to(device),
        priors,
    )
    return moved, targets.to(device)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": float(np.percentile(seconds, share) * 1e3) for share in (50, 90, 99)}


def assign(
    *,
    batch: int = 16,
    size: int = 640,
    objects: int = 20,
    classes: int = 80,
    device: str = "cpu",
    threads: int | None = None,
    runs: int = 7,
) -> AssignBenchmark:
    """SimOTA on a random batch, under both published rules, against a loop over images.

    The loop is the textbook's, on the CPU, from benchmarks/baseline; runs of both alternate, and their
    matches must be identical (exit code 1 if not).

    Examples:
        python benchmarks/assigners.py
        python benchmarks/assigners.py --batch 64 --objects 40 --device cuda

    Args:
        batch: Images.
        size: Side of the images in pixels.
        objects: Objects an image.
        classes: Classes.
        device: cpu or cuda, for ours.
        threads: Threads on the CPU; PyTorch's choice if not given.
        runs: Runs of each that are measured, after one of warm-up.

    Returns:
        Times, their ratio, and whether the matches agree.
    """
    return bench_assign(batch, size, objects, classes=classes, device=device, threads=threads, runs=runs)


if __name__ == "__main__":
    sys.exit(run_benchmark(assign))
