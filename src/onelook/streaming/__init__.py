"""Streaming perception (Li et al., ECCV 2020): accuracy and latency of a detector as one number, streaming AP (sAP).

`schedule` simulates which frames a detector processes and when it finishes, `pairing` finds the newest output at the
time of each frame, `forecast` moves its boxes to that time, and `metric` evaluates them by the COCO protocol.
"""

from __future__ import annotations

from onelook.streaming.metric import StreamingScore, offline_results, streaming_score
from onelook.streaming.pairing import Counters, count, newest_outputs
from onelook.streaming.run_times import RunTimes
from onelook.streaming.schedule import Policy, Schedule, simulate, simulate_all
from onelook.streaming.sequences import Sequence, sequences_of
from onelook.tracking.forecast import FORECASTS, Forecast, KalmanForecast, LinearForecast

__all__ = [
    "FORECASTS",
    "Counters",
    "Forecast",
    "KalmanForecast",
    "LinearForecast",
    "Policy",
    "RunTimes",
    "Schedule",
    "Sequence",
    "StreamingScore",
    "count",
    "newest_outputs",
    "offline_results",
    "sequences_of",
    "simulate",
    "simulate_all",
    "streaming_score",
]
