"""Parts of the arrays of an index (`onelook.data.building.lay_out`), and the arrays of several splits as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from onelook.data.building import empty_arrays, gather_runs, gather_spans, spans_of

Arrays = Mapping[str, np.ndarray]

_OF_IMAGES = ("image_ids", "sizes", "image_flags", "image_lines")
_OF_OBJECTS = ("boxes", "labels", "annotation_ids", "areas", "object_flags", "object_lines")
_TEXTS = (("name", _OF_IMAGES[0]), ("image_extra", _OF_IMAGES[0]), ("object_extra", "labels"))


def take_images(arrays: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays with only these images, in this order, and their objects."""
    offsets, order = gather_runs(arrays["object_offsets"], np.arange(len(arrays["labels"])), rows)
    return take_rows(arrays, rows, order, offsets)


def take_rows(arrays: Arrays, images: np.ndarray, objects: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays with these rows of images and of objects, in this order; rows may repeat.

    offsets: where each image's objects begin among those that are taken, and where the last one's end.
    """
    result = _take_objects(arrays, objects)
    result |= {name: arrays[name][images] for name in _OF_IMAGES if name in arrays}
    if len(arrays["member_places"]):
        result["member_places"] = arrays["member_places"][images]
    for kind in ("name", "image_extra"):
        result |= _texts(arrays, kind, images)
    result["object_offsets"] = offsets
    return result


def take_objects(arrays: Arrays, kept: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays with only some objects. kept: (M,) bool. All images stay."""
    order, offsets = np.flatnonzero(kept), arrays["object_offsets"]
    images = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.bincount(images[order], minlength=len(offsets) - 1)
    return _take_objects(arrays, order) | {"object_offsets": np.concatenate(([0], np.cumsum(counts)))}


def _take_objects(arrays: Arrays, order: np.ndarray) -> dict[str, np.ndarray]:
    result = dict(arrays)
    result |= {name: arrays[name][order] for name in _OF_OBJECTS if name in arrays}
    result |= _texts(arrays, "object_extra", order)
    if len(arrays["ring_offsets"]):
        result["ring_offsets"], spans = gather_runs(arrays["ring_offsets"], arrays["ring_spans"], order)
        result |= points_in_order(spans, arrays["points"])
    return result


def points_in_order(spans: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays `ring_spans` and `points` with the points in the order of the outlines, and no others."""
    offsets, ordered = gather_spans(spans, points)
    return {"ring_spans": spans_of(offsets), "points": ordered}


def _texts(arrays: Arrays, kind: str, order: np.ndarray) -> dict[str, np.ndarray]:
    offsets, values = arrays[f"{kind}_offsets"], arrays[f"{kind}_bytes"]
    if len(offsets):
        offsets, values = gather_runs(offsets, values, order)
    return {f"{kind}_offsets": offsets, f"{kind}_bytes": values}


def join(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The images and objects of several splits, one after another. Labels are taken as they are; ids may repeat.

    The images are files of their own: splits that are in shards cannot be joined.
    """
    if len(parts) == 1:
        return dict(parts[0])
    if any(len(part["member_places"]) for part in parts):
        raise ValueError("images in shards are not joined: their places count the shards of one split")
    columns = [name for name in (*_OF_IMAGES, *_OF_OBJECTS) if all(name in part for part in parts)]
    result = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    result |= empty_arrays("member_places")
    result["object_offsets"] = _joined_offsets([part["object_offsets"] for part in parts])
    for kind, counted in _TEXTS:
        offsets = [part[f"{kind}_offsets"] for part in parts]
        if not any(len(one) for one in offsets):
            result |= {f"{kind}_offsets": np.zeros(0, np.int64), f"{kind}_bytes": np.zeros(0, np.uint8)}
            continue
        filled = [one if len(one) else np.zeros(len(part[counted]) + 1, np.int64) for one, part in zip(offsets, parts)]
        result[f"{kind}_offsets"] = _joined_offsets(filled)
        result[f"{kind}_bytes"] = np.concatenate([part[f"{kind}_bytes"] for part in parts])
    if not any(len(part["ring_offsets"]) for part in parts):
        return result | empty_arrays("ring_offsets", "ring_spans", "points")
    result["ring_offsets"] = _joined_offsets(
        [
            part["ring_offsets"] if len(part["ring_offsets"]) else np.zeros(len(part["labels"]) + 1, np.int64)
            for part in parts
        ]
    )
    starts = np.cumsum([0, *(len(part["points"]) for part in parts)]).tolist()
    result["ring_spans"] = np.concatenate([part["ring_spans"] + start for part, start in zip(parts, starts)])
    result["points"] = np.concatenate([part["points"] for part in parts])
    return result


def _joined_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Offsets into runs that follow each other."""
    starts = np.concatenate(([0], np.cumsum([one[-1] for one in offsets])))
    return np.concatenate([np.zeros(1, np.int64), *(one[1:] + start for one, start in zip(offsets, starts))])


def names_of(arrays: Arrays) -> list[str]:
    """The names of all images."""
    ends, text = arrays["name_offsets"].tolist(), arrays["name_bytes"].tobytes()
    return [text[start:stop].decode() for start, stop in pairwise(ends)]


def with_image_names(arrays: Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays with other names of the images."""
    encoded = [name.encode() for name in names]
    ends = np.concatenate(([0], np.cumsum([len(name) for name in encoded], dtype=np.int64)))
    return {**arrays, "name_offsets": ends, "name_bytes": np.frombuffer(b"".join(encoded), np.uint8)}
