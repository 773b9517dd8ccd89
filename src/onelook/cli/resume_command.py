"""Returns the command that resumes a training or a search."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def resume_training(data: str, folder: Path) -> str:
    """The command that continues the training in a folder, in as many processes as now."""
    rest = f"train {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return f"onelook {rest}"
    if os.environ.get("LOCAL_WORLD_SIZE") == processes:
        return f"torchrun --nproc-per-node {processes} -m onelook {rest}"
    return f"torchrun as before on every node, with: -m onelook {rest}"


def resume_search(data: str, folder: Path) -> str:
    """The command that continues the search in a folder."""
    return f"onelook tune {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"


def resume_backbone_search(folder: Path) -> str:
    """The command that continues the search for a backbone in a folder."""
    return f"onelook search --out {shlex.quote(str(folder))} --resume"
