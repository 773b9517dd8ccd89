"""JSON that clients send."""

from __future__ import annotations

import json
from typing import Any

from onelook.serving.service_error import ServiceError

_MOST_LISTS = 100_000  # lists and objects: ten million empty ones would hold Python's lock for seconds


def read_json(body: bytes) -> Any:
    """The value in a body. ServiceError 400 for what is no JSON, is nested too deeply, or has too many lists."""
    if body.count(b"[") + body.count(b"{") > _MOST_LISTS:
        raise ServiceError(
            400, "bad_json", f"The JSON has more than {_MOST_LISTS:,} lists and objects.", "Send numbers as one list."
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ServiceError(400, "bad_json", "The body is not JSON.", "Check it, or send bytes instead.") from None
