"""Identities on drawn videos with exact truth: apart, crossing and hidden objects; trackers, metrics and files."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.augment.letterbox import Letterbox
from onelook.data.synthetic_video import CLIPS, VISIBLE, ClipFrame
from onelook.errors import UserError
from onelook.evaluation.tracks import THRESHOLDS, count_tracks
from onelook.ops.numpy_iou import pairwise_iou
from onelook.predict.sources import PreparedImage, Source
from onelook.predict.writers.files import Output
from onelook.predict.writers.mot import Mot
from onelook.tracking.box_filter import BoxFilter
from onelook.tracking.byte_track import ByteTrack
from onelook.tracking.matching import assign
from onelook.tracking.mot import Tracks, mot_lines, read_mot
from onelook.tracking.oc_sort import OcSort
from onelook.tracking.tracker import TRACKERS, Tracker, named_tracker
from onelook.types import Detections


@cache
def frames_of(clip: str) -> list[ClipFrame]:
    return list(CLIPS[clip]())


def detections(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order])


def detected(frame: ClipFrame, rng: np.random.Generator, noise: float = 1.0) -> tuple[Detections, np.ndarray]:
    """What a detector would find: boxes with errors of pixels, scores by visibility; and the true identities."""
    rows = np.flatnonzero(frame.visible >= VISIBLE)
    boxes = frame.boxes[rows] + rng.normal(0, noise, (len(rows), 4))
    scores = 0.2 + 0.7 * frame.visible[rows] - rng.uniform(0, 0.02, len(rows))
    order = np.argsort(-scores, kind="stable")
    return detections(boxes, scores, frame.labels[rows]), frame.identities[rows][order]


def follow_clip(clip: str, tracker: Tracker, *, noise: float = 1.0, seed: int = 0) -> dict[int, list[tuple[int, int]]]:
    """True identity -> (frame, identity by the tracker) of its detections that have a track."""
    rng, state = np.random.default_rng(seed), tracker.start()
    found: dict[int, list[tuple[int, int]]] = {}
    for number, frame in enumerate(frames_of(clip)):
        given, truth = detected(frame, rng, noise)
        tracked = state.update(given)
        assert tracked.tracks is not None and len(set(tracked.tracks.tolist())) == len(tracked)
        for box, identity in zip(tracked.boxes, tracked.tracks.tolist()):
            row = int(np.flatnonzero((given.boxes == box).all(1))[0])
            found.setdefault(int(truth[row]), []).append((number, identity))
    return found


SETTINGS = {"bytetrack": ByteTrack(), "ocsort": OcSort()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("clip", CLIPS)
def test_every_object_keeps_one_identity_of_its_own(clip: str, tracker: str, seed: int) -> None:
    """Apart, crossing, and after the wall, which hides an object for less than the buffer."""
    found = follow_clip(clip, SETTINGS[tracker], seed=seed)
    assert sorted(found) == frames_of(clip)[0].identities.tolist()
    identities = [{identity for _, identity in seen} for seen in found.values()]
    assert all(len(one) == 1 for one in identities), identities
    assert len(set.union(*identities)) == len(identities)


def hidden_frames() -> int:
    """How many frames the first object of "hidden" is behind the wall."""
    return sum(bool((frame.visible[frame.identities == 1] < VISIBLE).all()) for frame in frames_of("hidden"))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_an_object_that_is_hidden_beyond_the_buffer_has_a_new_identity(tracker: str) -> None:
    assert 5 < hidden_frames() < 30
    chosen = {"bytetrack": ByteTrack(buffer=hidden_frames() // 2), "ocsort": OcSort(buffer=hidden_frames() // 2)}
    found = follow_clip("hidden", chosen[tracker])
    assert len({identity for _, identity in found[1]}) == 2
    assert len({identity for _, identity in found[3]}) == 1, "what is not hidden keeps its identity"


def still(score: float, x: float = 0.0, label: int = 0) -> Detections:
    return detections(np.array([[x, 0, x + 40, 40]]), np.array([score]), np.array([label]))


def test_byte_track_continues_a_track_with_low_scores_but_starts_none() -> None:
    state = ByteTrack().start()
    assert state.update(still(0.9)).tracks.tolist() == [1]
    assert [state.update(still(0.2)).tracks.tolist() for _ in range(3)] == [[1]] * 3
    fresh = ByteTrack().start()
    assert [fresh.update(still(0.5)).tracks.tolist() for _ in range(3)] == [[]] * 3


def test_scores_below_the_low_one_are_not_used() -> None:
    state = ByteTrack().start()
    state.update(still(0.9))
    assert len(state.update(still(0.05))) == 0


def test_a_detection_of_a_single_frame_is_no_track() -> None:
    state = ByteTrack().start()
    state.update(still(0.9))
    both = detections(np.array([[0, 0, 40, 40], [200, 0, 240, 40]]), np.array([0.9, 0.8]), np.zeros(2, np.int64))
    assert state.update(both).tracks.tolist() == [1]
    state.update(still(0.9))
    assert state.update(both).tracks.tolist() == [1], "the second one begins anew"
    assert state.update(both).tracks.tolist() == [1, 3]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_classes_are_not_mixed(tracker: str) -> None:
    state = SETTINGS[tracker].start()
    first = state.update(still(0.9, label=0)).tracks.tolist()
    for _ in range(3):
        second = state.update(still(0.9, label=1)).tracks.tolist()
    assert first == [1] and second == [2]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_frames_without_detections_are_frames(tracker: str) -> None:
    state = SETTINGS[tracker].start()
    assert len(state.update(Detections.empty())) == 0
    for _ in range(3):
        state.update(still(0.9))
    assert len(state.update(Detections.empty())) == 0
    assert state.update(still(0.9)).tracks.tolist() == [1]


def test_oc_sort_updates_the_filter_along_the_path_while_the_object_was_hidden() -> None:
    """A track that turns while it is hidden: the velocity is that of the way between the observations (sec. 4.1)."""
    state = OcSort().start()
    for frame in range(10):
        state.update(still(0.9, x=4.0 * frame))
    for _ in range(10):
        state.update(Detections.empty())
    state.update(still(0.9, x=40.0))  # it has hardly moved since
    (track,) = state.tracks
    assert track.identity == 1 and abs(track.filter.velocity[0]) < 1.5


def test_trackers_by_name_start_tracks_from_the_confidence() -> None:
    assert named_tracker("bytetrack", 0.3) == ByteTrack(high=0.3)
    assert named_tracker("bytetrack", 0.05) == ByteTrack(high=0.05, low=0.05)
    assert named_tracker("ocsort", 0.3) == OcSort(high=0.3)
    own = ByteTrack(high=0.8)
    assert named_tracker(own, 0.3) is own
    with pytest.raises(UserError, match="bytetrack"):
        named_tracker("bytetrak", 0.3)


@pytest.mark.parametrize("settings", [{"high": 1.5}, {"low": 0.9}, {"buffer": -1}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        ByteTrack(**settings)  # type: ignore[arg-type]


# --- parts -----------------------------------------------------------------------------------------------------------


def test_the_filter_learns_a_constant_velocity() -> None:
    state = BoxFilter.begin(np.array([0.0, 0, 40, 30]))
    for frame in range(1, 60):
        state = state.predicted().corrected(np.array([3.0 * frame, 0, 40 + 3.0 * frame, 30]))
    np.testing.assert_allclose(state.velocity, [3, 0, 0, 0], atol=0.05)
    np.testing.assert_allclose(state.predicted().box, [180, 0, 220, 30], atol=0.2)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_assignment_equals_the_best_of_all(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, allowed = rng.random((rows, columns)), rng.random((rows, columns)) < 0.7
    best = (0, 0.0)
    for count in range(min(rows, columns) + 1):
        for some in itertools.combinations(range(rows), count):
            for others in itertools.permutations(range(columns), count):
                if all(allowed[i, j] for i, j in zip(some, others)):
                    best = max(best, (count, sum(score[i, j] for i, j in zip(some, others))))
    pairs = assign(score, allowed)
    assert len(pairs) == best[0] and sum(score[i, j] for i, j in pairs) == pytest.approx(best[1])
    assert all(allowed[i, j] for i, j in pairs)


def test_iou_of_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 30]])
    boxes = boxes.astype(float)
    np.testing.assert_allclose(pairwise_iou(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])


# --- metrics ---------------------------------------------------------------------------------------------------------


def tracks(*rows: tuple[int, int, float]) -> Tracks:
    """(frame, identity, x) of boxes of 10 x 10 pixels."""
    frames, identities, xs = (np.array(column) for column in zip(*rows))
    corners = np.stack([xs, 0 * xs, xs + 10, 0 * xs + 10], 1).astype(float)
    return Tracks(frames.astype(np.int64), identities.astype(np.int64), corners)


def test_perfect_tracks_have_perfect_metrics() -> None:
    truth = tracks((1, 1, 0), (1, 2, 50), (2, 1, 3), (2, 2, 53))
    found = tracks((1, 7, 0), (1, 5, 50), (2, 7, 3), (2, 5, 53))
    assert count_tracks(truth, found).metrics == dict.fromkeys(("HOTA", "DetA", "AssA", "IDF1", "MOTA"), 1.0)


def test_one_switch_by_hand() -> None:
    """One object in four frames, found exactly, as track 1 in the first three and as track 2 in the last."""
    truth = tracks(*((frame, 1, 0) for frame in range(1, 5)))
    found = tracks((1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 2, 0))
    counts = count_tracks(truth, found)
    assert (counts.hits, counts.switches, counts.identity_hits) == (4, 1, 3)
    metrics = counts.metrics
    # AssA: three boxes with 3 / (3 + 0 + 1), one with 1 / (1 + 0 + 3).
    assert metrics["AssA"] == pytest.approx((3 * 3 / 4 + 1 / 4) / 4) == pytest.approx(0.625)
    assert metrics["DetA"] == 1.0 and metrics["HOTA"] == pytest.approx(0.625**0.5)
    assert metrics["IDF1"] == 0.75 and metrics["MOTA"] == 0.75


def test_misses_and_false_boxes_by_hand() -> None:
    truth = tracks((1, 1, 0), (2, 1, 0), (3, 1, 0))
    found = tracks((1, 1, 0), (2, 1, 500), (3, 1, 0))
    counts = count_tracks(truth, found)
    assert (counts.hits, counts.switches, counts.fragments) == (2, 0, 1)
    assert counts.metrics["MOTA"] == pytest.approx(1 - 2 / 3)
    assert counts.metrics["IDF1"] == pytest.approx(2 * 2 / 6)
    assert counts.metrics["DetA"] == pytest.approx(2 / 4) and counts.metrics["AssA"] == pytest.approx(2 / 4)


def test_localisation_counts_up_to_its_threshold() -> None:
    """A box with IoU 1/3 is a match at six of the nineteen thresholds: 0.05 to 0.30."""
    counts = count_tracks(tracks((1, 1, 0)), tracks((1, 1, 5)))
    assert counts.hota_hits.tolist() == (THRESHOLDS <= 1 / 3).astype(float).tolist()
    assert counts.metrics["HOTA"] == pytest.approx(6 / 19) and counts.hits == 0 and counts.metrics["MOTA"] == -1


@given(st.integers(0, 10_000))
def test_metrics_keep_their_laws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(frame, identity, float(rng.integers(40))) for frame in range(1, 5) for identity in range(1, 4)]
    truth = tracks(*(row for row in rows if rng.random() < 0.8 or row[:2] == (1, 1)))
    found = tracks(*((frame, 10 - identity, x + rng.integers(4)) for frame, identity, x in rows))
    counts = count_tracks(truth, found)
    values = counts.metrics
    assert all(0 <= values[name] <= 1 for name in ("HOTA", "DetA", "AssA", "IDF1")) and values["MOTA"] <= 1
    renamed = Tracks(found.frames, found.identities * 3 + 1, found.boxes)
    assert count_tracks(truth, renamed).metrics == pytest.approx(values), "identities are names only"
    assert (counts + counts).metrics == pytest.approx(values)


# --- files -----------------------------------------------------------------------------------------------------------


def test_mot_text_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    found = Detections(
        np.array([[1, 2, 11, 22]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64), tracks=np.array([4])
    )
    path.write_text(mot_lines(0, found) + mot_lines(2, found))
    read = read_mot(path)
    assert read.frames.tolist() == [1, 3] and read.identities.tolist() == [4, 4]
    np.testing.assert_allclose(read.boxes, [[1, 2, 11, 22]] * 2)


def test_of_two_results_for_one_frame_the_last_is_written(tmp_path: Path) -> None:
    """As in real time, where boxes are moved to a frame that the network sees next: MOT text has an identity once."""
    writer, source = Mot(Output(tmp_path)), Source("live", "0", "camera0")
    image = np.zeros((8, 8, 3), np.uint8)
    for number, (frame, left) in enumerate([(0, 1), (2, 2), (2, 3), (5, 4)]):
        found = Detections(np.array([[left, 2, 11, 22]], np.float32), np.array([0.5], np.float32),
                           np.zeros(1, np.int64), tracks=np.array([4]))  # fmt: skip
        item = PreparedImage(image, Letterbox()(image, (8, 8))[1], source, frame, seconds=number)
        writer.add(item, found)
    writer.close()
    read = read_mot(tmp_path / "tracks" / "camera0.txt")
    assert read.frames.tolist() == [1, 3, 6] and read.boxes[:, 0].tolist() == [1, 3, 4]


def test_annotations_of_confidence_zero_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("1,1,0,0,5,5,1,1,1\n1,2,0,0,5,5,0,1,1\n")
    assert len(read_mot(path, annotations=True)) == 1 and len(read_mot(path)) == 2


@pytest.mark.parametrize(
    "line", ["a,1,0,0,5,5,1", "1,1,0,0,5", "0,1,0,0,5,5,1", "1,1.5,0,0,5,5,1", "1,1,0,0,-5,5,1", "1,1,nan,0,5,5,1"]
)
def test_lines_that_are_no_boxes_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "clip.txt"
    path.write_text(f"1,1,0,0,5,5,1\n{line}\n")
    with pytest.raises(UserError, match=r"clip\.txt:2"):
        read_mot(path)


def test_an_identity_is_in_a_frame_once(tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_text("1,1,0,0,5,5,1\n1,1,9,0,5,5,1\n")
    with pytest.raises(UserError, match="twice"):
        read_mot(path)


def test_tracks_follow_their_detections_through_indexing_and_json() -> None:
    found = Detections(
        np.zeros((2, 4), np.float32), np.array([0.9, 0.5], np.float32), np.zeros(2, np.int64), tracks=np.array([7, 3])
    )
    assert found[1].tracks is not None and found[1].tracks.tolist() == [3]
    entries = json.loads(json.dumps(found.to_dict()))["detections"]
    assert [entry["track"] for entry in entries] == [7, 3]
    assert "track" not in Detections.empty().to_dict()
