"""The benchmark of evaluations measures what it says, on small input."""

from __future__ import annotations

import io
import json

from rich.console import Console

from onelook.bench.evaluate import bench_score, bench_val, random_evaluation
from onelook.evaluate import score
from test_evaluate_runner import FindsBright, Rectangles


def test_scoring_is_timed_on_a_middling_model() -> None:
    found = bench_score(images=20, per_image=10, classes=3, rounds=2)
    assert found.setup == {"images": 20, "objects": 140, "detections": 200, "classes": 3}
    assert [timing.rounds for timing in found.timings] == [2] and found.ratio is None
    assert 0.0 < score(*random_evaluation(200, 50, 3)).stats["AP50"] < 0.9
    json.dumps(found.to_dict())


def test_val_and_bare_loop_see_the_same_images() -> None:
    seen: list[int] = []
    found = bench_val(FindsBright(), lambda batch: seen.append(len(batch)), Rectangles(), None, batch=5, rounds=2)
    assert seen == [5, 5, 5, 5, 3] * 3  # one round more than is counted
    assert found.ratio is not None and [timing.name for timing in found.timings] == ["bare loop", "val"]
    found.show(Console(file=io.StringIO()))
    json.dumps(found.to_dict())
