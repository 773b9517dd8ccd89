"""Parquet files as other tools write them, for tests to read and to damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data_sets as make

NAMES = ["cat", "dog"]


def features(names: Sequence[str] = NAMES) -> bytes:
    """The JSON that `datasets` puts into a schema."""
    label = {"names": list(names), "_type": "ClassLabel"}
    box = {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "Sequence"}
    objects = {"feature": {"bbox": box, "category": label}, "_type": "Sequence"}
    return json.dumps({"info": {"features": {"image": {"_type": "Image"}, "objects": objects}}}).encode()


def row(
    grey: int = 0, boxes: Sequence[Sequence[float]] = (), labels: Sequence[Any] = (), **more: Any
) -> dict[str, Any]:
    """One row with lists of objects."""
    objects = {"bbox": [list(map(float, box)) for box in boxes], "category": list(labels)}
    return {"image": {"bytes": make.png(grey=grey), "path": f"{grey}.png"}, "objects": objects, **more}


def write(path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str] | None = NAMES, **options: Any) -> Path:
    """A Parquet file of these rows. names: of the classes, None for no metadata.  options: of pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(list(rows))
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": features(names)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return path


ROWS = (
    row(0, [(8, 12, 16, 24), (32, 6, 24, 36)], [0, 1]),
    row(40, [(16, 12, 32, 24)], [1]),
    row(80),
)


def as_structures(given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The row with a list of structures in place of lists of values."""
    objects = given["objects"]
    pairs = zip(objects["bbox"], objects["category"])
    return {**given, "objects": [{"bbox": box, "category": label, **fields} for box, label in pairs]}
