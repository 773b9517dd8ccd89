"""Detection in real time: the newest frame first, boxes at the moment of display, reconnecting after a stall.

Frames that come while the network is busy are dropped, as in streaming perception (Li et al., ECCV 2020, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import cv2
import numpy as np

from onelook.errors import ImageError, UsageError, did_you_mean
from onelook.predict.capture import display_name, stalled
from onelook.predict.live_capture import LIVE_STALL_SECONDS, CapturedFrame, Clock, End, LiveCapture, SystemClock
from onelook.predict.sources import SAME_TIME, WHOLE, Excerpt, PreparedImage, Source
from onelook.reporter import Reporter
from onelook.tracking.forecast import FORECASTS, Boxes
from onelook.tracking.tracker import ForecastName, Tracker
from onelook.types import Detections

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before a source is opened again; doubled each time
_FIRST_FRAME = 90.0  # seconds that opening and the first frame may take


@dataclass(frozen=True, eq=False)
class LiveDetections:
    """The detections of one processed frame, at the moment when they are there.

    detections: in pixels of the frame `detections.frame`, which was the newest at that moment where objects are tracked
    and their boxes forecast, and else is the processed one.  processed: the number of the frame that the network saw.
    seconds: the time of the frame that the boxes are for, in the file or after the first frame.  latency: seconds from
    the capture of the processed frame to its boxes.  dropped: frames that came since the last result and were never
    processed.
    """

    detections: Detections
    processed: int
    seconds: float
    latency: float
    dropped: int


@dataclass(frozen=True)
class LiveEvent:
    """What happened to a source. kind: "lost", "waiting", "back" or "ended".  seconds: after the first frame."""

    kind: Literal["lost", "waiting", "back", "ended"]
    seconds: float
    message: str


class Connection(Protocol):
    """An open source: see `LiveCapture`."""

    def take(self, timeout: float | None) -> CapturedFrame | End | None: ...

    @property
    def newest(self) -> CapturedFrame | None: ...

    @property
    def delay(self) -> float: ...

    def close(self) -> None: ...


class LiveFeed:
    """The frames of a source in real time, over all its connections.

    connect: opens the source.  end: seconds at which it is left, over all connections.  reconnect: for how many seconds
    a camera or a stream that stalls or ends is opened again, with waits of 1, 2, 4 up to 30 seconds between.  notify:
    is called with what happens.  error: why it ended for good.  delay: seconds by which a file was played longer than
    it is.
    """

    def __init__(
        self,
        source: Source,
        connect: Callable[[], Connection],
        *,
        end: float | None = None,
        reconnect: float = 60.0,
        notify: Callable[[LiveEvent], None] = lambda event: None,
        clock: Clock | None = None,
    ) -> None:
        self._source, self._connect, self._reconnect, self._notify = source, connect, reconnect, notify
        self.clock: Clock = clock or SystemClock()
        self._connection: Connection | None = connect()
        self._end = math.inf if end is None else end
        self._before = 0  # frames of earlier connections
        self._origin: float | None = None  # when the source's time was 0
        self._lost: float | None = None
        self._wait = _FIRST_WAIT
        self.error: ImageError | None = None
        self.reconnects = 0
        self.delay = 0.0

    def next(self) -> CapturedFrame | None:
        """The newest frame that was not taken; waits for it. None at the end for good."""
        while self._connection is not None:
            limit = 1.5 * LIVE_STALL_SECONDS if self._connection.newest else _FIRST_FRAME
            item = self._connection.take(limit)
            if isinstance(item, CapturedFrame):
                self._origin = item.captured - item.seconds if self._origin is None else self._origin
                if self._lost is not None:
                    self.reconnects += 1
                    self._tell("back", f"{display_name(self._source)} is back after {self._since_lost():.0f} s.")
                    self._lost = None
                if self.seconds(item) >= self._end - SAME_TIME:
                    break
                return self._numbered(item)
            if isinstance(item, End) and item.error is not None and not isinstance(item.error, ImageError):
                raise item.error
            if isinstance(item, End) and item.error is None:
                return None
            error = item.error if item is not None else stalled(self._source, self.count, limit)
            assert isinstance(error, ImageError)
            self._connect_again(error, retry=item is None or item.retry)
        self.close()
        return None

    @property
    def newest(self) -> CapturedFrame | None:
        """The newest frame, also where it was taken."""
        frame = None if self._connection is None else self._connection.newest
        return None if frame is None else self._numbered(frame)

    @property
    def count(self) -> int:
        """Frames that came until now."""
        frame = self.newest
        return self._before if frame is None else frame.number + 1

    def seconds(self, frame: CapturedFrame) -> float:
        """The time of a frame in its source, over all connections."""
        return frame.seconds if self._origin is None else frame.captured - self._origin

    def close(self) -> None:
        """Ends the reading."""
        if self._connection is not None:
            self._before, connection, self._connection = self.count, self._connection, None
            self.delay += connection.delay
            connection.close()

    def _numbered(self, frame: CapturedFrame) -> CapturedFrame:
        return frame if not self._before else replace(frame, number=self._before + frame.number)

    def _since_lost(self) -> float:
        return 0.0 if self._lost is None else self.clock.now() - self._lost

    def _since_start(self) -> float:
        return 0.0 if self._origin is None else self.clock.now() - self._origin

    def _tell(self, kind: Literal["lost", "waiting", "back", "ended"], message: str) -> None:
        self._notify(LiveEvent(kind, self._since_start(), message))

    def _connect_again(self, error: ImageError, *, retry: bool) -> None:
        """Waits and opens the source again, unless it has ended for good: then `error` says why."""
        self.close()
        if self._lost is None:
            self._lost, self._wait = self.clock.now(), _FIRST_WAIT
            # A source that was never there is a mistake of the user's.
            if not retry or self._origin is None or not self._reconnect:
                return self._give_up(error)
            self._tell("lost", error.message)
        name = display_name(self._source)
        if self._since_lost() + self._wait > self._reconnect:
            message = f"{name} did not come back in {self._reconnect:g} s, after {self._before} frames: {error.message}"
            return self._give_up(ImageError(message, error.remedy))
        left = self._end - self._since_start()
        if left <= 0:
            return None
        wait = min(self._wait, left)
        self._tell("waiting", f"{name} is opened again in {wait:.3g} s.")
        self.clock.sleep(wait)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        self._connection = self._connect()
        return None

    def _give_up(self, error: ImageError) -> None:
        self.error = error
        self._tell("ended", error.message)


def check_forecast(forecast: ForecastName, *, tracked: bool) -> None:
    """UsageError for a forecast of objects that are not tracked, which would change nothing."""
    if forecast != "kalman" and not tracked:
        raise UsageError("'forecast' is for tracked objects.", "Add --track bytetrack (tracker=), or leave it out.")


def warnings_to(reporter: Reporter) -> Callable[[LiveEvent], None]:
    """Reports events as warnings, but for the end of a source, which is an error."""
    return lambda event: None if event.kind == "ended" else reporter.warning(event.message)


def live_source(found: Sequence[Source]) -> Source:
    """The one camera, stream or video; its error where it does not exist, UsageError for anything else."""
    if len(found) == 1 and found[0].error is not None:
        raise found[0].error
    if len(found) != 1 or found[0].kind not in ("live", "video"):
        what = f"{len(found)} sources were given" if len(found) != 1 else f"'{found[0].path}' is an image"
        remedy = "Give the number of a camera, the address of a stream, or one video file."
        raise UsageError(f"{what}; 'live' is for one camera, stream or video.", remedy)
    return found[0]


def open_feed(
    source: Source,
    excerpt: Excerpt = WHOLE,
    *,
    reconnect: float = 60.0,
    notify: Callable[[LiveEvent], None] = lambda event: None,
) -> LiveFeed:
    """Begins to read a source in real time."""
    if not reconnect >= 0:
        raise UsageError(f"'reconnect' is {reconnect:g}.", "Give a number of seconds, 0 or more.")
    starts = iter((excerpt,))  # a source that comes back is used at once

    def connect() -> LiveCapture:
        return LiveCapture(source, next(starts, WHOLE)).start()

    return LiveFeed(source, connect, end=excerpt.end, reconnect=reconnect, notify=notify)


def live_results(
    feed: LiveFeed,
    detect: Callable[[np.ndarray], tuple[PreparedImage, Detections]],
    *,
    tracker: Tracker | None = None,
    forecast: ForecastName = "kalman",
    keep_images: bool = False,
) -> Iterator[tuple[PreparedImage, LiveDetections]]:
    """The results of a feed until its end, each with the frame that its boxes are for.

    detect: the prepared image and the detections of an (H, W, 3) uint8 RGB image.  forecast: of tracked objects only.
    """
    check_forecast(forecast, tracked=tracker is not None)
    state = None if tracker is None else tracker.start()
    mover = _start_forecast(forecast)
    last: int | None = None
    while (frame := feed.next()) is not None:
        image = _rgb(frame.image)
        prepared, found = detect(image)
        shown = frame
        if state is not None:
            found = state.update(found)
        if state is not None and mover is not None:
            newest = feed.newest
            shown = newest if newest is not None and newest.image.shape[:2] == frame.image.shape[:2] else frame
            found = mover(found, frame.captured * frame.video.fps, shown.captured * frame.video.fps)
        latency = feed.clock.now() - frame.captured
        kept = (image if shown is frame else _rgb(shown.image)) if keep_images else None
        item = replace(prepared, frame=shown.number, video=frame.video, image=kept, seconds=feed.seconds(shown))
        dropped = 0 if last is None else frame.number - last - 1
        last = frame.number
        yield item, LiveDetections(item.attach(found), frame.number, item.seconds, latency, dropped)


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


def _start_forecast(name: ForecastName) -> Callable[[Detections, float, float], Detections] | None:
    """Moves the boxes of tracked detections from one time to another; times are numbers of frames."""
    if name not in FORECASTS:
        hint = did_you_mean(name, FORECASTS)
        raise UsageError(f"There is no forecast '{name}'.{hint}", f"Give one of: {', '.join(FORECASTS)}.")
    kind = FORECASTS[name]
    if kind is None:
        return None
    state = kind.start()

    def move(found: Detections, time: float, to: float) -> Detections:
        assert found.tracks is not None
        corners = found.boxes
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        # Identities as labels: boxes of one object are matched, and no others.
        state.update(time, Boxes(sides, found.scores, found.tracks))
        moved = state.at(to)
        places = {int(identity): row for row, identity in enumerate(moved.labels)}
        if not len(found):
            return found
        rows = moved.boxes[[places[identity] for identity in found.tracks.tolist()]].astype(np.float32)
        return replace(found, boxes=np.concatenate([rows[:, :2], rows[:, :2] + np.maximum(rows[:, 2:], 0)], 1))

    return move
