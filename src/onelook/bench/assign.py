"""How long SimOTA takes for a batch, against the per-image loop of the textbook, and whether both agree."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onelook.assign.simota import LATER, PAPER, SimOta
from onelook.bench.baseline import baseline
from onelook.bench.scenes import random_scene
from onelook.types import Matches, Predictions, Targets

if TYPE_CHECKING:
    from rich.console import Console

RULES = {"paper": PAPER, "later": LATER}


@dataclass(frozen=True)
class RuleTimes:
    """One rule. seconds, textbook: of every run, in order; textbook is empty without a checkout. identical: whether
    the matches are; None without a textbook.  pairs: in the batch."""

    rule: str
    seconds: Sequence[float]
    textbook: Sequence[float]
    identical: bool | None
    pairs: int

    @property
    def ratio(self) -> float | None:
        """How many times as long the textbook takes, by medians."""
        return float(np.median(self.textbook) / np.median(self.seconds)) if self.textbook else None


@dataclass(frozen=True)
class AssignBenchmark:
    """What was measured, under which setting. Warm-up: one run each."""

    setting: dict[str, Any]
    rules: Sequence[RuleTimes]

    @property
    def exit_code(self) -> int:
        return 1 if any(rule.identical is False for rule in self.rules) else 0

    def to_dict(self) -> dict[str, Any]:
        """Setting, and every rule's milliseconds, ratio and agreement."""
        rows = {
            one.rule: {
                "milliseconds": _percentiles(one.seconds),
                "textbook_milliseconds": _percentiles(one.textbook) if one.textbook else None,
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
            loop = f"{_percentiles(one.textbook)['p50']:.1f}" if one.textbook else "-"
            times = f"{one.ratio:.1f}" if one.ratio is not None else "-"
            agree = {True: "identical", False: "DIFFERENT", None: "-"}[one.identical]
            table.add_row(one.rule, f"{ours['p50']:.1f}", f"{ours['p90']:.1f}", loop, times, agree)
        console.print(table)
        if not self.rules[0].textbook:
            console.print("The per-image loop is in benchmarks/baseline of a checkout; none is around this package.")


def bench_assign(
    batch: int, size: int, objects: int, *, classes: int, device: str, threads: int | None, runs: int
) -> AssignBenchmark:
    """Measures both published rules on one random batch; ours and the textbook's runs alternate."""
    if threads is not None:
        torch.set_num_threads(threads)
    predictions, targets = random_scene(0, batch, objects, classes=classes, size=(size, size))
    textbook = baseline("simota")
    on_device = _moved(predictions, targets, torch.device(device))
    rules = []
    for name, rule in RULES.items():
        expected = None if textbook is None else textbook.simota(predictions, targets, **asdict(rule))
        matches = rule(*on_device)
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(_time(lambda rule=rule: rule(*on_device), device))  # type: ignore[misc]
            if textbook is not None:
                theirs.append(_time(lambda rule=rule: _loop(textbook, rule, predictions, targets), "cpu"))  # type: ignore[misc]
        identical = None if expected is None else _same(matches, expected)
        rules.append(RuleTimes(name, ours, theirs, identical, int(matches.valid.sum())))
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


def _loop(textbook: Any, rule: SimOta, predictions: Predictions, targets: Targets) -> Any:
    return textbook.simota(predictions, targets, **asdict(rule))


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
