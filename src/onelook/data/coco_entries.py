"""COCO images and annotations as typed structures, decoded many at a time into columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from onelook.data import index as bits
from onelook.data.building import ImageColumns, ObjectColumns
from onelook.data.jsonstream import UnusualError
from onelook.data.paths import plain_name

PIXEL_LIMIT = 1e7
SIDE_LIMIT = 1 << 20
ID_LIMIT = (1 << 62) - 1
NAME_LIMIT = 1000
OPTIONAL_FLAGS = {"truncated": bits.TRUNCATED, "occluded": bits.OCCLUDED}


class Image(msgspec.Struct, gc=False):
    """An image with the usual fields; other fields are skipped."""

    id: int
    file_name: str
    height: int | None = None
    width: int | None = None


class Annotation(msgspec.Struct, gc=False):
    """An annotation with the usual fields, without an outline; other fields are skipped."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = None
    difficult: int | bool | None = None
    truncated: int | bool = 0
    occluded: int | bool = 0


class OutlinedAnnotation(Annotation, gc=False, forbid_unknown_fields=True):
    """An annotation with its outline, as polygons or run lengths, and without further fields."""

    segmentation: list[list[float]] | dict[str, Any] | None = None


class ExtendedAnnotation(OutlinedAnnotation, gc=False, forbid_unknown_fields=False):
    """An annotation with an outline and further fields."""


IMAGE_FIELDS = set(Image.__struct_fields__)
OBJECT_FIELDS = set(OutlinedAnnotation.__struct_fields__)
_JSON = msgspec.json.Encoder()
_IMAGES = msgspec.json.Decoder(list[Image])
_BOXES = msgspec.json.Decoder(list[Annotation])
_OUTLINED = msgspec.json.Decoder(list[OutlinedAnnotation])
_EXTENDED = msgspec.json.Decoder(list[ExtendedAnnotation])
_ENTRIES = msgspec.json.Decoder(list[dict[str, Any]])


def parse_named_images(text: str) -> ImageColumns:
    """The images of a JSON list without sizes and further fields, and with any names; raises as `parse_boxes` does."""
    entries = _IMAGES.decode(text)
    names = [entry.file_name[:NAME_LIMIT] for entry in entries]
    return ImageColumns(_image_ids(entries), [name.encode() for name in names], np.zeros((len(entries), 2), np.int32))


def parse_images(text: str) -> ImageColumns:
    """The images of a JSON list; raises as `parse_boxes` does."""
    entries = _IMAGES.decode(text)
    names = [plain_name(entry.file_name) for entry in entries]
    sides = [(entry.height, entry.width) for entry in entries]
    given = [side for size in sides for side in size if side is not None]
    if None in names or (given and not 0 < min(given) <= max(given) <= SIDE_LIMIT):
        raise UnusualError
    sizes = np.array([(height or 0, width or 0) for height, width in sides], np.int32)
    fields = [
        {key: value for key, value in fields.items() if key not in IMAGE_FIELDS} for fields in _ENTRIES.decode(text)
    ]
    extras = [_JSON.encode(further) if further else b"" for further in fields] if any(fields) else None
    return ImageColumns(_image_ids(entries), [(name or "").encode() for name in names], sizes, extras)


def _image_ids(entries: Sequence[Image]) -> np.ndarray:
    ids = np.fromiter([entry.id for entry in entries], np.int64, len(entries))
    if not _within(ids, ID_LIMIT):
        raise UnusualError
    return ids


def parse_boxes(text: str) -> ObjectColumns:
    """The annotations of a JSON list without outlines and further fields.

    Raises UnusualError, or msgspec's or NumPy's error, where one has a value that is wrong or rare.
    """
    return _columns(_BOXES.decode(text))


def parse_annotations(text: str) -> ObjectColumns:
    """The annotations of a JSON list; raises as `parse_boxes` does."""
    extras: dict[int, dict[str, Any]] = {}
    try:
        entries: Sequence[OutlinedAnnotation] = _OUTLINED.decode(text)
    except msgspec.ValidationError:
        entries = _EXTENDED.decode(text)
        for row, fields in enumerate(_ENTRIES.decode(text)):
            if further := {key: value for key, value in fields.items() if key not in OBJECT_FIELDS}:
                extras[row] = further
    outlines = [entry.segmentation or () for entry in entries]
    for row in [row for row, outline in enumerate(outlines) if type(outline) is dict]:
        if not are_run_lengths(outlines[row]):  # type: ignore[arg-type]
            raise UnusualError
        extras.setdefault(row, {})["segmentation"] = outlines[row]
        outlines[row] = ()
    polygons: Any = outlines
    return _columns(entries, polygons, extras)


def _columns(
    entries: Sequence[Annotation],
    polygons: Sequence[Sequence[Sequence[float]]] = (),
    extras: Mapping[int, Mapping[str, Any]] = {},
) -> ObjectColumns:
    count = len(entries)
    boxes = np.fromiter(chain.from_iterable([entry.bbox for entry in entries]), np.float64, 4 * count).reshape(-1, 4)
    given = [entry.area for entry in entries]
    if None in given:
        products = (boxes[:, 2] * boxes[:, 3]).tolist()
        given = [product if area is None else area for area, product in zip(given, products)]
    areas = np.array(given, np.float64)
    ids = np.fromiter([entry.id for entry in entries], np.int64, count)
    image_ids = np.fromiter([entry.image_id for entry in entries], np.int64, count)
    categories = np.fromiter([entry.category_id for entry in entries], np.int64, count)
    rings = list(chain.from_iterable(polygons))
    sizes = np.fromiter(map(len, rings), np.int64, len(rings))
    points = np.fromiter(chain.from_iterable(rings), np.float64, int(sizes.sum()))
    plain = (
        _within(boxes, PIXEL_LIMIT)
        and np.min(boxes[:, 2:]) >= 0
        and np.min(areas) >= 0
        and np.max(areas) <= PIXEL_LIMIT**2
        and all(_within(column, ID_LIMIT) for column in (ids, image_ids, categories))
        and not (sizes % 2).any()
        and sizes.all()
        and _within(points, PIXEL_LIMIT)
    )
    if not plain:
        raise UnusualError
    texts = [_JSON.encode(extras[row]) if row in extras else b"" for row in range(count)] if extras else None
    counts = np.fromiter(map(len, polygons), np.int64, len(polygons)) if polygons else np.zeros(count, np.int64)
    return ObjectColumns(ids, image_ids, categories, boxes, areas, _flags(entries), counts, sizes, points, texts)


def _within(values: np.ndarray, limit: float) -> bool:
    return not len(values) or bool(values.max() <= limit and values.min() >= -limit)


def _flags(entries: Sequence[Annotation]) -> np.ndarray:
    flags = np.zeros(len(entries), np.uint8)
    for values, bit in (
        ([entry.iscrowd for entry in entries], bits.CROWD),
        ([entry.difficult for entry in entries], bits.DIFFICULT),
        ([entry.truncated for entry in entries], bits.TRUNCATED),
        ([entry.occluded for entry in entries], bits.OCCLUDED),
    ):
        kinds = set(values)
        if not kinds <= {None, 0, 1}:
            raise UnusualError
        if 1 in kinds:
            flags[np.array(values, bool)] |= bit
    return flags


def are_run_lengths(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("counts"), (str, list)) and isinstance(value.get("size"), list)
