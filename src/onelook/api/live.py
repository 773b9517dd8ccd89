"""`onelook.detect(..., live=True)`: detection in real time, with its latency shown and logged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from onelook.api.window import Window
from onelook.errors import ImageError, UsageError
from onelook.ops.nms import Postprocess
from onelook.predict.latency import Latencies
from onelook.predict.live import LiveDetections, LiveEvent, check_forecast, live_results, open_feed
from onelook.predict.predictor import Predictor
from onelook.predict.sources import Excerpt, PreparedImage, Source
from onelook.predict.tiles import Tiles
from onelook.predict.writers.files import cannot_write
from onelook.reporter import Progress, Reporter
from onelook.tracking.tracker import ForecastName, Tracker

LOG = "live.jsonl"


@dataclass(frozen=True)
class LiveOptions:
    """How a source is used in real time.

    forecast: how boxes of tracked objects are moved to the moment of display.  reconnect: seconds for which a camera or
    a stream is opened again.  show: whether a window shows the result.
    """

    forecast: ForecastName = "kalman"
    reconnect: float = 60.0
    show: bool = False

    def __post_init__(self) -> None:
        if not self.reconnect >= 0 or math.isnan(self.reconnect):
            raise UsageError(f"'reconnect' is {self.reconnect:g}.", "Give a number of seconds, 0 or more.")


def live_options(
    options: LiveOptions, *, live: bool, tracked: bool, every: int, batch: int | None
) -> LiveOptions | None:
    """The options of a run in real time, None where it is none; UsageError for what contradicts it."""
    if not live:
        for name, value in vars(options).items():
            if value != getattr(LiveOptions(), name):
                raise UsageError(f"'{name}' is for sources in real time.", f"Add --live, or leave {name} out.")
        return None
    check_forecast(options.forecast, tracked=tracked)
    if every != 1:
        raise UsageError("'every' and 'live' exclude each other.", "The newest frame is used anyway: leave every out.")
    if batch is not None and batch != 1:
        remedy = "Leave batch out: a frame that waits for others is late."
        raise UsageError(f"'batch' is {batch}, but 'live' detects frame by frame.", remedy)
    return options


@dataclass
class LiveSummary:
    """What a run in real time was like.

    captured, processed, dropped: frames that came until the last result, those of them that the network saw, and those
    that came while it was busy.  played_longer: seconds by which a file was played longer than it is, because it could
    not be decoded at its own rate.  latency:
    percentile -> seconds from the capture of a frame to its boxes; the 100th is the longest.  reconnects: how often a
    camera or a stream came back.  log: the file with every result and event.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    played_longer: float = 0.0
    latency: dict[int, float] = field(default_factory=dict)
    reconnects: int = 0
    log: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data; latencies in milliseconds."""
        return {
            "captured": self.captured,
            "processed": self.processed,
            "dropped": self.dropped,
            "played_longer": round(self.played_longer, 3),
            "latency_ms": {f"p{percent}": round(1e3 * value, 1) for percent, value in self.latency.items()},
            "reconnects": self.reconnects,
            "log": None if self.log is None else str(self.log),
        }

    def __str__(self) -> str:
        came = f"Frames: {self.captured:,} captured, {self.processed:,} processed, {self.dropped:,} dropped"
        back = f"; reconnected: {self.reconnects:,}" if self.reconnects else ""
        times = ", ".join(f"{_name(percent)} {1e3 * value:.1f} ms" for percent, value in self.latency.items())
        return f"{came}{back}." + (f" Latency from capture to boxes: {times}." if times else "")


def _name(percentile: int) -> str:
    return "longest" if percentile == 100 else f"p{percentile}"


class LiveLog:
    """The file of results and events, one JSON object a line, which is written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[str] = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise cannot_write(path, error) from error

    def result(self, result: LiveDetections) -> None:
        """Writes the times of one result."""
        self._write(
            event="result",
            seconds=round(result.seconds, 4),
            frame=result.detections.frame,
            processed=result.processed,
            latency_ms=round(1e3 * result.latency, 2),
            dropped=result.dropped,
            detections=len(result.detections),
        )

    def event(self, event: LiveEvent) -> None:
        """Writes what happened to the source."""
        self._write(event=event.kind, seconds=round(event.seconds, 4), message=event.message)

    def summary(self, summary: LiveSummary) -> None:
        """Writes the last line."""
        self._write(event="summary", **{name: value for name, value in summary.to_dict().items() if name != "log"})

    def _write(self, **values: Any) -> None:
        try:
            self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def run_live(
    predictor: Predictor,
    source: Source,
    how: tuple[Postprocess, Tracker | None, Excerpt, Tiles | None, LiveOptions],
    add: Callable[[PreparedImage, LiveDetections], None],
    to: tuple[Path, bool, Reporter, Progress],
) -> tuple[LiveSummary, ImageError | KeyboardInterrupt | None]:
    """Detects until the source ends, the window is closed, or Ctrl-C.

    add: receives each result.  to: the folder of the log, whether results hold images, the reporter, the progress.
    Returns the summary, and the error or KeyboardInterrupt that ended it.
    """
    (postprocess, tracker, excerpt, tiles, options), (folder, keep_images, reporter, progress) = how, to
    window = Window.open(f"onelook: {source.path}", reporter) if options.show else None
    log, latencies, summary = LiveLog(folder / LOG), Latencies(), LiveSummary()
    summary.log = log.path

    def notify(event: LiveEvent) -> None:
        log.event(event)
        if event.kind != "ended":  # which the result says
            reporter.warning(event.message)

    ended: ImageError | KeyboardInterrupt | None = None
    with closing(log):
        feed = open_feed(source, excerpt, reconnect=options.reconnect, notify=notify)
        detect = partial(predictor.detect_prepared, postprocess=postprocess, source=source, tiles=tiles)
        results = live_results(
            feed,
            detect,
            tracker=tracker,
            forecast=options.forecast,
            keep_images=keep_images or window is not None,
        )
        try:
            with closing(feed):
                for item, result in results:
                    add(item, result)
                    latencies.add(result.latency)
                    log.result(result)
                    summary.processed, summary.dropped = latencies.count, summary.dropped + result.dropped
                    summary.captured = summary.processed + summary.dropped
                    progress(summary.processed, 0, _detail(latencies, summary, result))
                    if window is not None and not window.show(item, result.detections):
                        break
            ended = feed.error
        except KeyboardInterrupt as interrupt:
            ended = interrupt
        finally:
            if window is not None:
                window.close()
        summary.reconnects, summary.played_longer, summary.latency = feed.reconnects, feed.delay, latencies.all()
        log.summary(summary)
    if isinstance(ended, ImageError) and not summary.processed:  # nothing was written
        log.path.unlink(missing_ok=True)
    return summary, ended


def _detail(latencies: Latencies, summary: LiveSummary, result: LiveDetections) -> str:
    """The rate, the latencies of the last results, and the dropped frames, for the progress."""
    times = "/".join(f"{1e3 * value:.0f}" for value in latencies.recent().values())
    rate = f"{summary.processed / result.seconds:.1f} a second, " if result.seconds else ""
    return f"{rate}latency {times} ms (p50/p90/p99), {summary.dropped:,} of {summary.captured:,} frames dropped"
