"""Division of the images between processes, and collection of the detections of all of them."""

from __future__ import annotations

import sys
from typing import Any

from onelook.evaluation.tables import Results


def shard() -> tuple[int, int]:
    """(this process's number, how many there are); (0, 1) where torch.distributed is not in use."""
    distributed = _distributed()
    return (distributed.get_rank(), distributed.get_world_size()) if distributed else (0, 1)


def gather(results: Results) -> Results:
    """The detections of all processes, in every process; sorted by image, so they are those of one process."""
    distributed = _distributed()
    if distributed is None:
        return results
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, results)
    return Results.join(parts)


def _distributed() -> Any:
    """torch.distributed where it is initialised; torch is not imported for this."""
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None
