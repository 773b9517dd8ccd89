"""Results and annotation files of every kind of damage: one message naming file, entry and key; nothing unbounded."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counting import error_and_calls
from onelook.api.score import score
from onelook.cli.app import run
from onelook.errors import DataError, UserError
from onelook.evaluation import GroundTruth, Results, read_results, write_results
from onelook.evaluation.annotations import read_ground_truth

TRUTH = {
    "info": {"year": 2017},
    "images": [{"id": 7, "width": 64, "height": 48, "file_name": "7.jpg"}, {"id": 9, "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}],
    "annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 20.5], "area": 600, "iscrowd": 0}],
}
GOOD: dict[str, Any] = {"image_id": 7, "category_id": 90, "bbox": [1.5, 2.5, 3.0, 4.0], "score": 0.5}
truth = GroundTruth.from_coco(TRUTH)


def having(**changes: Any) -> str:
    return json.dumps([GOOD, GOOD | changes])


def without(key: str) -> str:
    return json.dumps([{name: value for name, value in GOOD.items() if name != key}])


BAD_RESULTS: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "a JSON list, but the file holds nothing"),
    "white space": (" \n\t ", "a JSON list, but the file holds nothing"),
    "an object": (json.dumps(TRUTH), "holds an object, as annotation files are"),
    "a number": ("3", "no JSON list"),
    "a text": ('"[]"', "no JSON list"),
    "null": ("null", "no JSON list"),
    "no JSON": ("hello", "no JSON list"),
    "a list of nothing": ("[,]", "detections[0] is not valid JSON"),
    "a list of a number": ("[1]", "detections[0]: must be an object"),
    "a list of lists": ("[[1, 2]]", "detections[0]: must be an object"),
    "a list of null": ("[null]", "detections[0]: must be an object"),
    "an empty object": ("[{}]", "detections[0]: the key 'image_id' is missing"),
    "no image": (without("image_id"), "detections[0]: the key 'image_id' is missing"),
    "no category": (without("category_id"), "the key 'category_id' is missing"),
    "no box": (without("bbox"), "the key 'bbox' is missing"),
    "no score": (without("score"), "the key 'score' is missing"),
    "unknown image": (having(image_id=8), "detections[1]: 'image_id' 8 is not in the annotations"),
    "unknown category": (having(category_id=2), "detections[1]: 'category_id' 2 is not in the annotations"),
    "image id as text": (having(image_id="7"), "'image_id' must be a whole number, not '7'"),
    "image id a fraction": (having(image_id=7.5), "'image_id' must be a whole number"),
    "image id true": (having(image_id=True), "'image_id' must be a whole number"),
    "image id null": (having(image_id=None), "'image_id' must be a whole number"),
    "image id a list": (having(image_id=[7]), "'image_id' must be a whole number"),
    "image id enormous": (having(image_id=10**30), "'image_id' must be a whole number"),
    "image id infinite": (
        '[{"image_id": 1e999, "category_id": 1, "bbox": [1,1,1,1], "score": 1}]',
        "'image_id' must be",
    ),
    "category a name": (having(category_id="dog"), "'category_id' must be a whole number, not 'dog'"),
    "score as text": (having(score="0.5"), "'score' must be a number, not '0.5'"),
    "score null": (having(score=None), "'score' must be a number"),
    "score true": (having(score=True), "'score' must be a number"),
    "score a list": (having(score=[0.5]), "'score' must be a number"),
    "score NaN": (having(score=float("nan")), "detections[1] is not valid JSON: 'NaN' is not a number"),
    "score infinite": (having(score=float("inf")), "'Infinity' is not a number"),
    "score minus infinite": (having(score=float("-inf")), "'-Infinity' is not a number"),
    "score too large": (having(score=1).replace(": 1}", ": 1e999}"), "detections[1]: 'score' is inf"),
    "box of 3": (having(bbox=[1, 2, 3]), "'bbox' must be a list of 4 numbers"),
    "box of 5": (having(bbox=[1, 2, 3, 4, 5]), "'bbox' must be a list of 4 numbers"),
    "box empty": (having(bbox=[]), "'bbox' must be a list of 4 numbers"),
    "box text": (having(bbox="1,2,3,4"), "'bbox' must be a list of 4 numbers"),
    "box a text of 4": (having(bbox="1234"), "'bbox' must be a list of 4 numbers"),
    "box an object": (having(bbox={"x": 1, "y": 2, "width": 3, "height": 4}), "'bbox' must be a list of 4 numbers"),
    "box with text": (having(bbox=[1, 2, "3", 4]), "its width is '3'"),
    "box with null": (having(bbox=[1, None, 3, 4]), "its y is None"),
    "box with a list": (having(bbox=[1, 2, [3], 4]), "its width is [3]"),
    "box with true": (having(bbox=[True, 2, 3, 4]), "its x is True"),
    "box NaN": (having(bbox=[float("nan"), 2, 3, 4]), "'NaN' is not a number"),
    "box too large": (having(bbox=[1, 2, 3e300, 4]), "width 3e+300"),
    "box enormous integer": (having(bbox=[1, 2, 10**400, 4]), "'bbox' has width"),
    "negative width": (having(bbox=[1, 2, -3, 4]), "a negative size: width -3"),
    "negative height": (having(bbox=[1.0, 2.0, 3.0, -0.5]), "a negative size"),
    "cut in an entry": (json.dumps([GOOD, GOOD])[:-20], "cut short"),
    "cut in a key": (json.dumps([GOOD])[:5], "cut short"),
    "cut between entries": (json.dumps([GOOD])[:-1], "cut short"),
    "cut after the comma": (json.dumps([GOOD])[:-1] + ",", "cut short"),
    "only the bracket": ("[", "cut short"),
    "comma at the end": (json.dumps([GOOD])[:-1] + ",]", "detections[1] is not valid JSON"),
    "no comma": (json.dumps([GOOD])[:-1] + json.dumps(GOOD) + "]", "expected ',' or ']'"),
    "two lists": (json.dumps([GOOD]) * 2, "there is more after the end"),
    "JSON lines": (json.dumps(GOOD) + "\n" + json.dumps(GOOD), "holds an object"),
    "text after the empty list": ("[] x", "there is more after the end"),
    "single quotes": (str([GOOD]), "detections[0] is not valid JSON"),
    "a comment": ("[ // two\n" + json.dumps(GOOD) + "]", "detections[0] is not valid JSON"),
    "brackets without end": ("[" * 100_000, "nested too deeply"),
    "objects without end": ('[{"a":' * 50_000, "nested too deeply"),
    "a deep box": ('[{"bbox": ' + "[" * 90_000 + "]" * 90_000 + "}]", "nested too deeply"),
    "thousands of digits": ('[{"image_id": ' + "9" * 10_000 + "}]", "thousands of digits"),
    "bytes": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8"),
    "zero bytes": (b"\0" * 1000, "no JSON list"),
    "zero bytes inside": (b"[" + b"\0" * 1000 + b"]", "detections[0] is not valid JSON"),
    "Latin-1": (b'[{"name": "\xe9t\xe9"}]', "not UTF-8"),
    "half a character": (json.dumps([GOOD]).encode() + b"\xc3", "not UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(100), "not UTF-8"),
    "a long text": ('[{"image_id": "' + "x" * 20_000_000 + '"}]', "detections[0]: the key 'category_id' is missing"),
    "a text without end": ('[{"image_id": "' + "x" * 6_000_000, "cut short"),
    "surrogates": ('[{"image_id": "\\ud800[/red]", "category_id": 1, "bbox": [1,1,1,1], "score": 1}]', "\\ud800"),
}


@pytest.mark.parametrize("word", BAD_RESULTS)
def test_bad_results_file_gets_one_message(word: str, tmp_path: Path) -> None:
    content, message = BAD_RESULTS[word]
    path = tmp_path / "bad results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    error, calls = error_and_calls(DataError, lambda: read_results(path, truth))
    assert message in str(error)
    assert str(path) in error.message
    assert len(str(error)) < 500 + len(str(path)) and "\n" not in error.message
    str(error).encode("utf-8")
    assert calls < 2_000  # however long the file is: the damage is in its first entries


LEGAL_RESULTS: dict[str, tuple[str | bytes, int]] = {
    "empty list": ("[]", 0),
    "empty list with space": (" [ \n ] \n", 0),
    "integers": (having(bbox=[1, 2, 3, 4], score=1), 2),
    "whole numbers as fractions": (having(image_id=7.0, category_id=1.0), 2),
    "zero size": (having(bbox=[1, 2, 0, 0]), 2),
    "outside the image": (having(bbox=[-50.0, -60.0, 5000.0, 7000.0]), 2),
    "score above one": (having(score=17.5), 2),
    "more keys": (having(id=4, segmentation={"counts": "x" * 1000, "size": [48, 64]}, area=12, iscrowd=0), 2),
    "UTF-16": (having().encode("utf-16"), 2),
    "byte order mark": (b"\xef\xbb\xbf" + having().encode(), 2),
    "other order of keys": (json.dumps([dict(reversed(GOOD.items()))]), 1),
    "indented": (json.dumps([GOOD, GOOD, GOOD], indent=4), 3),
}


@pytest.mark.parametrize("word", LEGAL_RESULTS)
def test_unusual_but_legal_results_are_read(word: str, tmp_path: Path) -> None:
    content, count = LEGAL_RESULTS[word]
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_results(path, truth)
    assert len(found) == count
    assert count == 0 or (found.labels[0], found.boxes[0].tolist(), found.scores[0]) == (1, [1.5, 2.5, 3, 4], 0.5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_a_file_escapes_as_another_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = json.dumps([GOOD, GOOD]).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    path = tmp_path / "damaged.json"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
    try:
        found = read_results(path, truth)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


def changed(**changes: Any) -> Callable[[], Any]:
    return lambda: TRUTH | changes


def annotation(**changes: Any) -> Callable[[], Any]:
    return changed(annotations=[TRUTH["annotations"][0] | changes])


def lacking(key: str) -> Callable[[], Any]:
    return lambda: {name: value for name, value in TRUTH.items() if name != key}


BAD_ANNOTATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: [], "holds a list, as results files are"),
    "nothing inside": (dict, "has no 'images'"),
    "no images": (lacking("images"), "has no 'images'"),
    "no annotations": (lacking("annotations"), "has no 'annotations'"),
    "no categories": (lacking("categories"), "has no 'categories'"),
    "images an object": (changed(images={}), "'images' must be a list"),
    "annotations null": (changed(annotations=None), "'annotations' must be a list"),
    "an image a number": (changed(images=[7]), "images[0] must be an object"),
    "an image null": (changed(images=[None]), "images[0] must be an object"),
    "image without id": (changed(images=[{"width": 3}]), "images[0]: 'id' must be an integer"),
    "image twice": (changed(images=[{"id": 7}, {"id": 7}]), "image id 7 is given twice"),
    "category twice": (changed(categories=[{"id": 1, "name": "a"}] * 2), "Category id 1 is given twice"),
    "category without a name": (changed(categories=[{"id": 1}]), "categories[0]: 'name' must be a text"),
    "category id as text": (changed(categories=[{"id": "1", "name": "a"}]), "categories[0]: 'id' must be an integer"),
    "unknown image": (
        annotation(image_id=99),
        "(annotation 5): annotations[0] names image 99, which is not in the file",
    ),
    "unknown category": (
        annotation(category_id=4),
        "(annotation 5): annotations[0] names category 4, which is not in the file",
    ),
    "image id as text": (annotation(image_id="7"), "(annotation 5): annotations[0]: 'image_id' must be an integer"),
    "no box": (
        changed(annotations=[{"id": 5, "image_id": 7, "category_id": 1}]),
        "(annotation 5): annotations[0]: 'bbox' must be four finite numbers",
    ),
    "negative box": (
        annotation(bbox=[1, 2, -3, 4]),
        "(annotation 5): annotations[0]: 'bbox' [1, 2, -3, 4] has a negative width",
    ),
    "NaN box": (annotation(bbox=[1, 2, float("nan"), 4]), "annotations[0] is not valid JSON: 'NaN'"),
    "area as text": (annotation(area="600"), "'area' must be a number"),
    "negative area": (annotation(area=-1), "'area' must be a number from 0, not -1"),
    "crowd as text": (annotation(iscrowd="no"), "'iscrowd' must be 0 or 1"),
}


@pytest.mark.parametrize("word", BAD_ANNOTATIONS)
def test_bad_annotation_file_gets_one_message(word: str, tmp_path: Path) -> None:
    content, message = BAD_ANNOTATIONS[word]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()))
    with pytest.raises(DataError) as caught:
        read_ground_truth(path)
    assert message in str(caught.value) and str(path) in caught.value.message


BROKEN_ANNOTATIONS = {
    "nothing": ("", "holds no JSON object"),
    "cut": (json.dumps(TRUTH)[:-9], "cut short"),
    "key without a value": ('{"images"}', "expected ':'"),
    "key that is no text": ("{1: []}", "expected a key in quotes"),
    "list twice": ('{"images": [], "images": []}', "'images' appears twice"),
    "comma at the end": ('{"images": [],}', "expected a key in quotes"),
    "more text": (json.dumps(TRUTH) + "}", "there is more after the end"),
    "deep": ('{"a":' * 50_000, "nested too deeply"),
    "deep list": ('{"images":' + "[" * 50_000, "nested too deeply"),
}


@pytest.mark.parametrize("word", BROKEN_ANNOTATIONS)
def test_broken_annotation_file_gets_one_message(word: str, tmp_path: Path) -> None:
    content, message = BROKEN_ANNOTATIONS[word]
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_ground_truth(path)
    assert message in str(caught.value) and str(path) in caught.value.message


def test_lists_of_annotations_may_come_in_any_order_with_others_between(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    keys = ["annotations", "tracks", "categories", "licenses", "images"]
    others = {"tracks": [{"id": 1}] * 3, "licenses": {"a": {"b": []}}}
    path.write_text(json.dumps({key: (TRUTH | others)[key] for key in keys}))
    found = read_ground_truth(path)
    assert (found.images.tolist(), found.labels.tolist(), found.names) == ([0], [0], ("cat", "dog"))
    assert found.boxes.tolist() == [[1, 2, 30, 20.5]] and found.areas.tolist() == [600]


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    sparse = tmp_path / "huge.json"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    cases = {
        tmp_path: "not an ordinary file",
        pipe: "not an ordinary file",
        tmp_path / "none.json": "no such file",
        sparse: "1099.5 GB",
    }
    for path, message in cases.items():
        for read in (lambda p: read_results(p, truth), read_ground_truth):
            with pytest.raises(DataError, match=message):
                read(path)


def test_memory_stays_small_however_long_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    line = json.dumps(GOOD | {"segmentation": "x" * 800}).encode() + b",\n"
    with path.open("wb") as file:
        file.write(b"[" + line * 60_000 + json.dumps(GOOD).encode() + b"]")
    tracemalloc.start()
    try:
        assert len(read_results(path, truth)) == 60_001
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 50e6 and peak < 30e6


def test_a_results_file_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_results(tmp_path / "file" / "results.json", truth, Results.empty())
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_results(tmp_path / "folder", truth, Results.empty())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_score_reads_both_files_and_has_the_layout_of_the_contract(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "found.json").write_text(having(category_id=1, bbox=[1, 2, 30, 20.5]))
    plain = score(tmp_path / "truth.json", tmp_path / "found.json").to_dict()
    assert list(plain)[:5] == ["stats", "per_class", "images", "detections", "seconds"]
    assert plain["stats"]["AP"] == pytest.approx(1) and plain["per_class"]["dog"] == {"AP": -1, "AP50": -1}
    assert (plain["images"], plain["detections"]) == (2, 2)


def test_one_is_counted_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "found.json").write_text(json.dumps([GOOD]))
    assert run(["score", str(tmp_path / "truth.json"), str(tmp_path / "found.json")]) == 0
    assert capsys.readouterr().out.startswith("2 images, 1 object, 1 detection\n")
