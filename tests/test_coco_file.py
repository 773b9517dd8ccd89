"""COCO annotations that are read many at a time are exactly those that are read one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onelook.data import jsonstream
from onelook.data.building import rows_of
from onelook.data.formats.coco import read_annotations
from onelook.data.problems import Problems
from onelook.reporter import ignore_progress

IMAGES = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640, "license": i % 3} for i in (9, 4, 7)]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog", "supercategory": "animal"}]

number = st.one_of(st.integers(-5, 300), st.floats(-5, 300, width=32))
size = st.one_of(st.integers(0, 300), st.floats(0, 300, width=32))
polygon = st.lists(st.tuples(number, number), min_size=0, max_size=4).map(lambda points: [v for p in points for v in p])
run_lengths = st.fixed_dictionaries(
    {"size": st.just([480, 640]), "counts": st.one_of(st.text(max_size=5), st.just([3, 4]))}
)
plain = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([9, 4, 7]),
        "category_id": st.sampled_from([1, 3]),
        "bbox": st.tuples(number, number, size, size).map(list),
    },
    optional={
        "area": size,
        "iscrowd": st.sampled_from([0, 1, None, True, False]),
        "segmentation": st.one_of(st.none(), st.just({}), run_lengths, st.lists(polygon, max_size=3)),
        "truncated": st.sampled_from([0, 1, 2, "no"]),
        "attributes": st.one_of(st.none(), st.just({"a": [{"b": "}]"}]}), st.integers(-(1 << 80), 1 << 80)),
        "name": st.text(max_size=4),
    },
)
# Values that are wrong, of which the first must be named.
wrong = st.one_of(
    st.fixed_dictionaries({"bbox": st.sampled_from([None, [1, 2, 3], [1, 2, -3, 4], [1, 2, 3, 1e9], ["1", 2, 3, 4]])}),
    st.fixed_dictionaries({"image_id": st.sampled_from(["9", 1.5, 1 << 70, 8, None, True])}),
    st.fixed_dictionaries(
        {"segmentation": st.sampled_from([[[1, 2, 3]], [["a", 2]], {"size": [1, 2]}, [[1e9, 2]], 3])}
    ),
    st.fixed_dictionaries({"area": st.sampled_from([-1, "3", 1e300])}),
    st.fixed_dictionaries({"iscrowd": st.sampled_from([2, "yes", 0.5])}),
)


def content(annotations: list[dict[str, Any]], indent: int | None) -> str:
    numbered = [{"id": 100 + row} | annotation for row, annotation in enumerate(annotations)]
    whole = {"info": {"year": 1}, "images": IMAGES, "annotations": numbered, "categories": CATEGORIES}
    return json.dumps(whole, indent=indent)


def outcome(path: Path, strict: bool) -> Any:
    problems = Problems(strict=strict)
    try:
        arrays, meta = read_annotations(path, [path.parent], problems, ignore_progress)
    except Exception as error:
        return type(error), str(error)
    extras = [
        json.loads(text) if (text := arrays["object_extra_bytes"][a:b].tobytes()) else {}
        for a, b in zip(arrays["object_extra_offsets"], arrays["object_extra_offsets"][1:])
    ]
    kept = {name: array.tolist() for name, array in arrays.items() if not name.startswith("object_extra")}
    return kept, extras, meta, problems.found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(plain, max_size=12), st.none() | wrong, st.sampled_from([None, 0, 1]), st.booleans())
def test_batches_and_single_entries_agree(
    tmp_path: Path, annotations: list[dict[str, Any]], fault: dict[str, Any] | None, indent: int | None, strict: bool
) -> None:
    if fault is not None and annotations:
        annotations[len(annotations) // 2] |= fault
    path = tmp_path / "instances.json"
    path.write_text(content(annotations, indent))
    batches = outcome(path, strict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "BATCH", 1)
        assert outcome(path, strict) == batches
    if fault is None:
        assert isinstance(batches[0], dict) and len(batches[0]["boxes"]) == len(annotations)


def test_an_entry_that_is_wrong_among_thousands_is_named_with_its_line(tmp_path: Path) -> None:
    annotations = [{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4.5]} for _ in range(20_000)]
    annotations[15_000]["bbox"] = [1, 2, 3]
    path = tmp_path / "instances.json"
    text = content(annotations, 0)
    path.write_text(text)
    line = text[: text.index('"id": 15100')].count("\n")
    _, message = outcome(path, True)
    assert f"instances.json:{line} (annotation 15100): annotations[15000]: 'bbox' must be" in message


def test_almost_all_entries_of_a_usual_file_are_read_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    crowd = {"iscrowd": 1, "segmentation": {"counts": [3, 4], "size": [480, 640]}}
    annotations = [
        {"image_id": 9, "category_id": 1, "bbox": rng.random(4).round(3).tolist()}
        | (crowd if row % 100 == 0 else {"iscrowd": 0, "segmentation": [rng.random(20).round(2).tolist()]})
        for row in range(20_000)
    ]
    path = tmp_path / "instances.json"
    path.write_text(content(annotations, None))
    singles = []
    value = jsonstream.JsonStream.value
    monkeypatch.setattr(jsonstream.JsonStream, "value", lambda self, what: singles.append(what) or value(self, what))
    kept, *_ = outcome(path, True)
    assert len(kept["boxes"]) == 20_000
    assert sum(what.startswith("annotations") for what in singles) < 100


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-40, 40) | st.integers(-(1 << 62), 1 << 62), max_size=20), st.integers(0, 1 << 61))
def test_rows_of_ids_are_found_however_far_apart_they_are(known: list[int], other: int) -> None:
    wanted = [*known, other, -other, 0]
    rows = rows_of(np.array(known, np.int64), np.array(wanted, np.int64))
    assert rows.tolist() == [known.index(number) if number in known else -1 for number in wanted]
