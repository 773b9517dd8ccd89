"""Tracks the detections of videos, frame by frame."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from onelook.predict.sources import PreparedImage, UnreadableSource
from onelook.tracking.tracker import Tracker
from onelook.types import Detections

Result = tuple[PreparedImage, Detections] | tuple[UnreadableSource, None]


def track_results(
    results: Iterable[Result], tracker: Tracker, confidence: float = 0.0
) -> Generator[Result, None, None]:
    """The results with the tracked detections of each frame; of still images, those from `confidence` on.

    Identities count from 1 in every video. Closing it closes `results`.
    """
    name, state = None, None  # of the video that is being read
    try:
        for item, found in results:
            if found is None or not isinstance(item, PreparedImage):
                if isinstance(item, UnreadableSource):
                    yield item, None
                continue
            if item.frame is None:
                yield item, found[found.scores >= confidence]  # a tracker needs lower scores, too
                continue
            if state is None or item.source.name != name:
                name, state = item.source.name, tracker.start()
            yield item, state.update(found)
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()
