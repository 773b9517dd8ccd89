"""Streaming AP equals the goldens of the official toolkit; schedules, pairing and forecasts by hand-computed cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.errors import UserError
from onelook.evaluation import GroundTruth
from onelook.evaluation.coco import STATS
from onelook.streaming import (
    FORECASTS,
    KalmanForecast,
    LinearForecast,
    Policy,
    RunTimes,
    Schedule,
    Sequence,
    count,
    newest_outputs,
    simulate,
    simulate_all,
    streaming_score,
)
from onelook.tracking.forecast import Boxes, associate
from shared import SHARED, reference

POLICIES = {
    "single_slow": Policy(),
    "single_fast": Policy(),
    "single_slow_dynamic": Policy(dynamic=True),
    "infinite_slow": Policy(devices=0),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if SHARED is None:
        pytest.skip("needs the reference material (ONELOOK_SHARED)")
    return json.loads((reference("yolox") / "streaming.json").read_text())


@pytest.fixture(scope="module")
def example(golden: dict[str, Any]) -> dict[str, Any]:
    """The golden's data set, detections and sequences in this library's types."""
    images = golden["annotations"]["images"]
    mapping, truth = golden["annotations"]["coco_mapping"], GroundTruth.from_coco(golden["annotations"])
    found = []
    for image in golden["detections"]:
        corners = np.array(image["boxes_ltrb"], np.float32).reshape(-1, 4)
        labels = np.array([mapping[label] for label in image["labels_coco"]], np.int64)
        corners[:, 2:] -= corners[:, :2]
        found.append(Boxes(corners, np.array(image["scores"]), labels).rows(np.flatnonzero(labels < 8)))
    names = golden["annotations"]["sequences"]
    rows = [np.array([i for i, image in enumerate(images) if image["sid"] == sid]) for sid in range(len(names))]
    sizes = np.array([[image["height"], image["width"]] for image in images])
    sequences = [Sequence(name, part) for name, part in zip(names, rows)]
    return {"truth": truth, "found": found, "sequences": sequences, "sizes": sizes}


def schedules_of(golden: dict[str, Any], run: str) -> list[Schedule]:
    samples = golden["runtime_samples"][golden["runs"][run]["runtime"]]
    return simulate_all([20, 15], golden["fps"], RunTimes(tuple(samples)), POLICIES[run], seed=0)


@pytest.mark.parametrize("run", POLICIES)
def test_schedules_equal_the_toolkit(golden: dict[str, Any], run: str) -> None:
    expected = golden["runs"][run]
    schedules = schedules_of(golden, run)
    for schedule, name in zip(schedules, golden["annotations"]["sequences"], strict=True):
        known = expected["sequences"][name]
        assert schedule.inputs.tolist() == known["input_fidx"]
        np.testing.assert_allclose(schedule.finished, known["timestamps"], rtol=1e-12)
        assert schedule.run_times.tolist() == known["runtime"]
    assert sum(map(len, schedules)) == expected["n_processed"]
    fast = sum(int((one.run_times < 1 / golden["fps"]).sum()) for one in schedules)
    assert fast == expected["n_small_runtime"]


@pytest.mark.parametrize("eta", [0, 1, -1])
@pytest.mark.parametrize("run", POLICIES)
def test_streaming_ap_equals_the_toolkit(golden: dict[str, Any], example: dict[str, Any], run: str, eta: int) -> None:
    expected = golden["runs"][run]["evaluation"].get(f"eta={eta}")
    if expected is None:
        assert eta != 0, "every run has a golden at eta 0"
        return
    result = streaming_score(**example, schedules=schedules_of(golden, run), fps=golden["fps"], eta=eta)
    counters = result.counters
    assert (counters.missed, counters.in_time, counters.mismatch) == (
        expected["miss"],
        expected["in_time"],
        expected["mismatch"],
    )
    np.testing.assert_allclose([result.evaluation.stats[name] for name in STATS], expected["coco_stats_12"], atol=1e-9)


@pytest.mark.parametrize("run", ["single_slow", "single_fast"])
def test_kalman_forecast_equals_the_toolkit(golden: dict[str, Any], example: dict[str, Any], run: str) -> None:
    expected = golden["forecast"][run]
    schedules = schedules_of(golden, run)
    result = streaming_score(**example, schedules=schedules, fps=golden["fps"], forecast=FORECASTS["kalman"])
    np.testing.assert_allclose([result.evaluation.stats[name] for name in STATS], expected["coco_stats_12"], atol=1e-9)
    results, truth = result.evaluation.results, result.evaluation.truth
    known = expected["results"]
    assert truth.image_ids[results.images].tolist() == [one["image_id"] for one in known]
    assert results.labels.tolist() == [one["category_id"] for one in known]
    np.testing.assert_allclose(results.scores, [one["score"] for one in known], atol=1e-6)
    np.testing.assert_allclose(results.boxes, [one["bbox"] for one in known], atol=6e-3)  # rounded to 2 decimals


# --- schedules -------------------------------------------------------------------------------------------------------


def schedule(frames: int, fps: float, seconds: float, policy: Policy = Policy()) -> Schedule:  # noqa: B008
    return simulate(frames, fps, lambda: seconds, policy, mean=seconds)


def test_frames_that_arrive_during_a_run_are_not_processed() -> None:
    found = schedule(10, 1.0, 2.5)
    # Starts at 0, 2.5 and 5 s on frames 0, 2 and 5; the run that ends at 10 s is too late.
    assert found.inputs.tolist() == [0, 2, 5] and found.finished.tolist() == [2.5, 5.0, 7.5]


def test_a_stride_processes_every_second_frame_that_is_reached() -> None:
    assert schedule(8, 1.0, 0.5, Policy(stride=2)).inputs.tolist() == [0, 2, 4, 6]


def test_dynamic_scheduling_waits_where_the_tail_is_long() -> None:
    # A run of 1.5 frames that starts at 1.5 ends after frame 3; from frame 2 it ends at 3.5, with newer input.
    assert schedule(9, 1.0, 1.5).inputs.tolist() == [0, 1, 3, 4, 6]
    assert schedule(9, 1.0, 1.5, Policy(dynamic=True)).inputs.tolist() == [0, 2, 4, 6]


def test_two_devices_take_turns() -> None:
    assert schedule(8, 1.0, 1.5, Policy(devices=2)).inputs.tolist() == [0, 1, 2, 3, 4, 5, 6]


@given(
    st.integers(1, 40),
    st.floats(1, 60),
    st.lists(st.floats(0.001, 3), min_size=1, max_size=5),
    st.sampled_from([1, 2, 3, 0]),
)
def test_schedules_keep_their_laws(frames: int, fps: float, samples: list[float], devices: int) -> None:
    found = simulate_all([frames], fps, RunTimes(tuple(samples)), Policy(devices=devices))[0]
    assert (np.diff(found.finished) >= 0).all() and len(set(found.inputs.tolist())) == len(found)
    starts = found.finished - found.run_times
    assert (starts >= found.inputs / fps - 1e-9).all(), "no run starts before its frame exists"
    if devices:
        assert (found.finished < frames / fps).all()
        # A run that ends when another starts may be counted with it, by the rounding of its start.
        running = [int(((starts <= t) & (found.finished > t + 1e-9)).sum()) for t in starts]
        assert max(running, default=0) <= devices


@given(st.integers(1, 30), st.lists(st.floats(0.001, 0.2), min_size=1, max_size=5))
def test_as_many_devices_as_frames_are_no_limit(frames: int, samples: list[float]) -> None:
    run_times = RunTimes(tuple(samples))
    some, every = (simulate_all([frames], 30.0, run_times, Policy(devices=n))[0] for n in (frames + 1, 0))
    in_time = every.finished < frames / 30.0
    assert some.inputs.tolist() == every.inputs[in_time].tolist()


@pytest.mark.parametrize("policy", [{"devices": 2, "dynamic": True}, {"devices": -1}, {"stride": 0}])
def test_policies_that_cannot_be_are_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Policy(**policy)


# --- pairing ---------------------------------------------------------------------------------------------------------


def outputs(inputs: list[int], finished: list[float]) -> Schedule:
    return Schedule(np.array(inputs, np.int64), np.array(finished), np.ones(len(inputs)))


@pytest.mark.parametrize(
    ("eta", "expected"),
    [(0, [-1, 0, 0, 1]), (1, [-1, -1, 0, 0]), (-1, [0, 0, 1, 1]), (0.5, [-1, -1, 0, 0])],
)
def test_an_output_counts_from_the_time_it_is_finished(eta: float, expected: list[int]) -> None:
    made = outputs([0, 2], [1.0, 3.0])
    newest = newest_outputs(made, 4, 1.0, eta)
    assert newest.tolist() == expected
    if eta == 0:
        counters = count(made, newest)
        assert (counters.missed, counters.in_time, counters.mismatch) == (1, 0, 1 + 2 + 1)


def test_without_outputs_every_frame_is_missed() -> None:
    made = outputs([], [])
    assert count(made, newest_outputs(made, 3, 30.0)).missed == 3


# --- forecasts -------------------------------------------------------------------------------------------------------


def boxes(*rows: tuple[float, ...], label: int = 0) -> Boxes:
    return Boxes(np.array(rows, np.float32).reshape(-1, 4), np.linspace(1, 0.5, len(rows)), np.full(len(rows), label))


def test_a_linear_forecast_continues_the_last_step() -> None:
    tracks = LinearForecast()
    tracks.update(0, boxes((100, 50, 80, 40)))
    tracks.update(2, boxes((110, 50, 80, 44)))
    np.testing.assert_allclose(tracks.at(5).boxes, [[125, 50, 80, 50]])


@pytest.mark.parametrize("kind", [KalmanForecast, LinearForecast])
def test_forecasts_learn_a_constant_velocity(kind: type) -> None:
    tracks = kind()
    for frame in range(0, 90, 3):
        tracks.update(frame, boxes((100 + 2 * frame, 50, 80, 40), (500 - frame, 300, 60, 60)))
    moved = tracks.at(92)
    np.testing.assert_allclose(moved.boxes, [[284, 50, 80, 40], [408, 300, 60, 60]], atol=0.1)
    assert moved.scores.tolist() == [1.0, 0.5]


def test_a_new_track_does_not_move_before_its_first_match() -> None:
    tracks = KalmanForecast()
    tracks.update(0, boxes((0, 0, 50, 50)))
    np.testing.assert_allclose(tracks.at(9).boxes, [[0, 0, 50, 50]])


def test_an_empty_output_keeps_the_kalman_tracks_at_their_predicted_places() -> None:
    tracks = KalmanForecast()
    for frame in range(0, 30, 3):
        tracks.update(frame, boxes((100 + 2 * frame, 50, 80, 40)))
    before = tracks.at(30).boxes
    tracks.update(30, Boxes.empty())
    np.testing.assert_allclose(tracks.at(30).boxes, before, atol=1e-3)


def test_tracks_are_matched_within_their_class() -> None:
    place = np.array([[0, 0, 10, 10]], np.float32)
    assert associate(place, np.array([1]), place, np.array([1])).tolist() == [0]
    assert associate(place, np.array([1]), place, np.array([2])).tolist() == [-1]


def test_of_equal_overlaps_the_later_track_is_taken() -> None:
    place = np.array([[0, 0, 10, 10]] * 2, np.float32)
    assert associate(place, np.zeros(2), place, np.zeros(2)).tolist() == [1, 0]


# --- run times -------------------------------------------------------------------------------------------------------


def test_run_times_are_read_as_they_were_saved(tmp_path: Path) -> None:
    made = RunTimes((0.02, 0.03), {"device": "cpu"})
    assert RunTimes.read(made.save(tmp_path / "times.json")) == made
    assert made.faster(2).samples == (0.01, 0.015) and made.mean == pytest.approx(0.025)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[-1]", '["a"]', "[NaN]", '{"samples": 3}', "[true]", "[0]"])
def test_files_without_run_times_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"times\.json"):
        RunTimes.read(path)
