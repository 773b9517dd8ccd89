"""Tar files as other tools write them, for tests to read and to damage."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onelook.data import open_dataset
from onelook.data.split import Dataset
from onelook.reporter import SilentReporter

QUIET = SilentReporter()


def shard(path: Path, members: Sequence[tuple[str, bytes | str]], **header: Any) -> Path:
    """A tar file of these members. header: further fields of every entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def annotation(name: str = "cat", box: Sequence[float] = (1, 2, 10, 20)) -> str:
    return json.dumps({"annotations": [{"bbox": list(box), "category": name}]})


def opened(data: Path | str, split: str = "train") -> Dataset:
    return open_dataset(data, split, reporter=QUIET)
