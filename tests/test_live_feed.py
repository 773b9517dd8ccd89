"""Detection in real time, by a clock and cameras that are simulated: nothing depends on how fast this machine is."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from onelook.augment.letterbox import Letterbox
from onelook.errors import ImageError
from onelook.predict import live
from onelook.predict.latency import Latencies
from onelook.predict.live import LiveEvent, LiveFeed, live_results
from onelook.predict.live_capture import CapturedFrame, End, FrameSlot, LiveCapture
from onelook.predict.sources import Excerpt, PreparedImage, Source
from onelook.tracking.byte_track import ByteTrack
from onelook.types import Detections
from simulated_cameras import CAMERA, Camera, Clock, Player


def moving(boxes: Callable[[float], Sequence[Sequence[float]]], clock: Clock, work: float):
    """A detector that takes `work` seconds and finds the boxes of an image's number, which is its brightness."""

    def detect(image: np.ndarray) -> tuple[PreparedImage, Detections]:
        found = np.array(boxes(float(image[0, 0, 0])), np.float32).reshape(-1, 4)
        clock.time += work
        scores, labels = np.full(len(found), 0.9, np.float32), np.zeros(len(found), np.int64)
        place = Letterbox()(image, (64, 64))[1]
        return PreparedImage(image, place, CAMERA), Detections(found, scores, labels)

    return detect


def results_of(camera: Camera, detect, **settings) -> list[live.LiveDetections]:
    feed = LiveFeed(CAMERA, lambda: camera, clock=camera.clock, reconnect=0.0)
    return [result for _, result in live_results(feed, detect, **settings)]


def test_a_slow_detector_takes_the_newest_frame_and_counts_the_others() -> None:
    clock = Clock()
    camera = Camera(clock, 31, End())
    found = results_of(camera, moving(lambda _: [], clock, 0.1))  # three frames of time
    assert [one.processed for one in found] == list(range(0, 31, 3))
    assert [one.dropped for one in found] == [0] + [2] * 10
    assert [one.latency for one in found] == pytest.approx([0.1] * 11)
    assert sum(one.dropped + 1 for one in found) == 31
    assert [one.seconds for one in found] == pytest.approx([0.1 * k for k in range(11)])


def test_a_fast_detector_drops_nothing() -> None:
    clock = Clock()
    found = results_of(Camera(clock, 20, End()), moving(lambda _: [], clock, 0.01))
    assert [one.processed for one in found] == list(range(20)) and not any(one.dropped for one in found)
    assert [one.latency for one in found] == pytest.approx([0.01] * 20)


@pytest.mark.parametrize("forecast", ["kalman", "linear", "none"])
def test_tracked_boxes_are_moved_to_the_newest_frame(forecast: str) -> None:
    """Two objects of constant velocity, and a detector that takes 2.5 frames."""

    def at(number: float) -> list[list[float]]:
        return [[10 + 2 * number, 10, 50 + 2 * number, 40], [400 - number, 100, 460 - number, 180]]

    clock = Clock()
    camera = Camera(clock, 121, End())
    found = results_of(
        camera, moving(at, clock, 2.5 / 30), tracker=ByteTrack(high=0.5), forecast=forecast, keep_images=True
    )
    late = found[len(found) // 2 : -2]
    for one in late:
        shown = round(one.seconds * 30)
        assert shown - one.processed in ((0,) if forecast == "none" else (2, 3))
        expected = np.array(at(shown), np.float32)
        order = np.argsort(one.detections.tracks)
        assert one.detections.boxes[order] == pytest.approx(expected, abs=0.3)
    assert {tuple(sorted(one.detections.tracks.tolist())) for one in late} == {(1, 2)}


def test_without_tracking_boxes_are_those_of_the_processed_frame() -> None:
    clock = Clock()
    found = results_of(Camera(clock, 31, End()), moving(lambda n: [[n, 0, n + 9, 9]], clock, 0.1))
    assert [one.detections.boxes[0, 0] for one in found] == [one.processed for one in found]


def reconnecting(ends: list[tuple[float, End | None]], reconnect: float, end: float | None = None):
    """A feed whose cameras have these numbers of frames and ends, one a connection; the last one is used again."""
    clock, events, cameras = Clock(), list[LiveEvent](), list[Camera]()

    def connect() -> Camera:
        count, end = ends[min(len(cameras), len(ends) - 1)]
        cameras.append(Camera(clock, count, end))
        return cameras[-1]

    feed = LiveFeed(CAMERA, connect, clock=clock, end=end, reconnect=reconnect, notify=events.append)
    return feed, clock, events, cameras


LOST = End(ImageError("Camera 0 ended after 3 frames.", "Start it again."), retry=True)


def test_a_source_that_comes_back_goes_on_with_its_numbers_and_times() -> None:
    feed, clock, events, cameras = reconnecting([(3, LOST), (0, LOST), (0, LOST), (2, End())], 60.0)
    frames = list(iter(feed.next, None))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4] and feed.error is None
    assert clock.slept == [1.0, 2.0, 4.0]
    seconds = [feed.seconds(frame) for frame in frames]
    assert seconds == pytest.approx([0, 1 / 30, 2 / 30, 2 / 30 + 7, 3 / 30 + 7])
    assert [event.kind for event in events] == ["lost", *["waiting"] * 3, "back"]
    assert "Camera 0 is back after 7 s." in events[-1].message and feed.reconnects == 1
    assert all(camera.closed for camera in cameras[:-1])


def test_waits_double_up_to_half_a_minute_and_end_for_good() -> None:
    feed, clock, events, _ = reconnecting([(3, LOST), (0, LOST)], 120.0)
    assert len(list(iter(feed.next, None))) == 3
    assert clock.slept == [1, 2, 4, 8, 16, 30, 30] and events[-1].kind == "ended"
    assert feed.error is not None and "did not come back in 120 s, after 3 frames" in feed.error.message
    assert feed.next() is None and feed.count == 3


def test_a_driver_that_never_answers_is_left_and_opened_again() -> None:
    feed, _, events, cameras = reconnecting([(3, None), (2, End())], 60.0)
    assert [frame.number for frame in iter(feed.next, None)] == [0, 1, 2, 3, 4]
    assert "has given no frame for 8 seconds, after 3 frames" in events[0].message and cameras[0].closed


def test_the_end_counts_over_all_connections() -> None:
    feed, clock, events, _ = reconnecting([(3, LOST), (100, End())], 60.0, end=2.0)
    numbers = [frame.number for frame in iter(feed.next, None)]
    # The second connection begins 1 s after the third frame, at 2 / 30 s.
    assert numbers == list(range(3 + 28)) and feed.error is None and feed.next() is None
    feed, clock, events, _ = reconnecting([(3, LOST), (0, LOST)], math.inf, end=5.0)
    assert len(list(iter(feed.next, None))) == 3 and feed.error is None
    assert clock.slept == pytest.approx([1, 2, 2 - 2 / 30]) and events[-1].kind == "waiting"


@pytest.mark.parametrize(
    ("ends", "reconnect"), [([(0, LOST)], 60.0), ([(3, LOST)], 0.0), ([(3, End(LOST.error))], 60.0)]
)
def test_what_was_never_there_or_may_not_come_back_is_not_waited_for(ends: list, reconnect: float) -> None:
    feed, clock, _, cameras = reconnecting(ends, reconnect)
    assert len(list(iter(feed.next, None))) == ends[0][0]
    assert feed.error is LOST.error and clock.slept == [] and len(cameras) == 1


def test_a_slot_holds_the_newest_frame_and_then_the_end() -> None:
    slot, camera = FrameSlot(), Camera(Clock())
    assert slot.take(0.0) is None
    for number in range(5):
        slot.put(camera.frame(number))
    slot.end(End())
    taken = slot.take(0.0)
    assert isinstance(taken, CapturedFrame) and taken.number == 4 and slot.newest is taken
    assert slot.take(0.0) == End() == slot.take(None)


def test_a_slot_wakes_the_thread_that_waits() -> None:
    slot, taken = FrameSlot(), []
    thread = threading.Thread(target=lambda: taken.append(slot.take(60)))
    thread.start()
    slot.put(Camera(Clock()).frame(7))
    thread.join(60)
    assert taken[0].number == 7


# --- reading, in this thread -----------------------------------------------------------------------------------------


def played(source: Source, player: Player, excerpt: Excerpt = Excerpt()) -> tuple[list[CapturedFrame], LiveCapture]:  # noqa: B008
    """The frames that a reader puts into its slot, each with the time when it does."""
    reader = LiveCapture(source, excerpt, clock=player.clock, opener=lambda *_: player)
    frames: list[CapturedFrame] = []
    put = reader._slot.put

    def kept(frame: CapturedFrame) -> None:
        assert frame.captured == pytest.approx(player.clock.now())
        frames.append(frame)
        put(frame)

    reader._slot.put = kept  # type: ignore[method-assign]
    reader.run()
    assert player.released
    return frames, reader


FILE = Source("video", "a.mkv", "a")


def test_a_file_is_played_at_its_own_uneven_rate() -> None:
    clock = Clock()
    times = [0.0, 0.1, 0.2, 0.9, 1.0]
    frames, reader = played(FILE, Player(clock, times, work=0.02, frames=5))
    start = frames[0].captured
    assert [frame.captured - start for frame in frames] == pytest.approx(times) and reader.delay == 0
    reader.take(0)
    assert reader.take(0) == End()


def test_a_file_that_is_decoded_too_slowly_is_played_longer() -> None:
    clock = Clock()
    frames, reader = played(FILE, Player(clock, [0.1 * k for k in range(10)], work=0.25, frames=10))
    assert len(frames) == 10
    steps = np.diff([frame.captured for frame in frames])
    assert steps == pytest.approx(np.full(9, 0.25)) and reader.delay == pytest.approx(9 * 0.15)


def test_a_part_of_a_file_begins_at_once() -> None:
    clock = Clock()
    player = Player(clock, [0.1 * k for k in range(10)], frames=10)
    frames, _ = played(FILE, player, Excerpt(start=0.3, end=0.6))
    assert [frame.number for frame in frames] == [3, 4, 5]
    assert [frame.seconds for frame in frames] == pytest.approx([0.3, 0.4, 0.5])
    assert frames[0].captured == 100.0 and sum(clock.slept) == pytest.approx(0.2)


def test_a_camera_is_read_as_it_comes_and_may_come_back() -> None:
    clock = Clock()
    frames, reader = played(CAMERA, Player(clock, [math.nan] * 5, work=0.04))
    assert [frame.captured - 100 for frame in frames] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    reader.take(0)
    end = reader.take(0)
    assert isinstance(end, End) and end.retry and "ended after 5 frames" in str(end.error)


def test_a_camera_that_cannot_be_opened_says_so() -> None:
    def fails(*_: object) -> Player:
        raise ImageError("Camera 0 cannot be opened.", "Check it.")

    reader = LiveCapture(CAMERA, clock=Clock(), opener=fails)
    reader.run()
    end = reader.take(0)
    assert isinstance(end, End) and end.retry and "cannot be opened" in str(end.error)


def test_an_error_of_the_program_is_raised_where_frames_are_used() -> None:
    def fails(*_: object) -> Player:
        raise RuntimeError("a fault")

    def connect() -> LiveCapture:
        reader = LiveCapture(CAMERA, clock=Clock(), opener=fails)
        reader.run()
        return reader

    with pytest.raises(RuntimeError, match="a fault"):
        LiveFeed(CAMERA, connect, clock=Clock()).next()


def test_percentiles_are_those_of_all_and_of_the_last() -> None:
    latencies = Latencies()
    assert latencies.recent() == latencies.all() == {}
    for k in range(1, 1001):
        latencies.add(k / 1000)
    assert latencies.all() == pytest.approx({50: 0.5, 90: 0.9, 99: 0.99, 100: 1.0})
    assert latencies.recent() == pytest.approx({50: 0.85, 90: 0.97, 99: 0.997})
    assert latencies.count == 1000
