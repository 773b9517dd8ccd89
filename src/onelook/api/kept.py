"""Results that an earlier session of the same work has left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onelook.errors import UserError


def read_kept(path: Path) -> dict[str, Any]:
    """Reads a JSON object that an earlier session wrote; UserError where the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, OSError) as error:
        raise UserError(
            f"'{path}' is damaged ({error}).", "Delete it, and give the same command: what it held is made again."
        ) from error
    return found
