"""Whether a detection is one in real time; apart, since the code of that is loaded where it is used only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onelook.tracking.tracker import ForecastName

if TYPE_CHECKING:
    from onelook.api.live import LiveOptions

_DEFAULTS = ("kalman", 60.0, False)


def chosen_live(
    live: bool, options: tuple[ForecastName, float, bool], *, tracked: bool, every: int, batch: int | None
) -> LiveOptions | None:
    """The options of a run in real time, None where it is none; UsageError for what contradicts it.

    options: forecast, reconnect and show, of `onelook.detect`.
    """
    if not live and options == _DEFAULTS:
        return None
    from onelook.api.live import LiveOptions, live_options

    return live_options(LiveOptions(*options), live=live, tracked=tracked, every=every, batch=batch)
