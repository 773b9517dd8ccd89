"""What `convert` writes is read again with the same boxes, and passes `check`: any data set, every format, and back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import data_sets as make
from data_sets import put
from onelook.data import open_dataset, splits
from onelook.data.boxes import clean_boxes
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.formats.base import split_folder
from onelook.data.paths import plain_name
from onelook.data.split_names import WHOLE, split_word
from onelook.errors import DataError
from onelook.reporter import SilentReporter

FORMATS = (
    "coco",
    "yolo",
    "voc",
    "cvat",
    "labelme",
    "csv",
    "shards",
    "label_studio",
    "supervisely",
    "open_images",
    *(("parquet",) if find_spec("pyarrow") else ()),  # the extra parquet
)
formats = st.sampled_from(FORMATS)
# Pixels; an outline alone stands for its box.
PRECISION = {
    **dict.fromkeys(("coco", "voc", "csv", "shards", "open_images", "parquet"), 1e-4),
    **dict.fromkeys(("yolo", "cvat", "labelme", "label_studio", "supervisely"), 0.012),
}
HAS_NOTHING = {"no-boxes", "only-crowds", "no-images"}  # errors that say that there is nothing, as in the source
LEFT_OUT = {"box-degenerate", "box-outside"}  # warnings of boxes that a conversion leaves out


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))
    monkeypatch.setattr("os.fsync", lambda file: None)  # nothing has to survive a loss of power, and a disk takes long


words = st.text(st.sampled_from("ab01 .#:\\-éΩ&<'\"%_,"), min_size=1, max_size=8)
folders = st.sampled_from(["", "", "images/", "a/images/b/", ".hidden/", "labels/", "val/", "A/"])
endings = st.sampled_from([".png", ".png", ".PNG", ".jpg", "", ".v1", ".jpg.png", ".xml.png"])
class_names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
class_names |= st.sampled_from(["yes", "null", "0", "1.5", "a b", "~", "- x", "# c", "{}", "a: b", "'", "\\"])
sides = st.integers(-40, 90).map(float) | st.floats(-40, 90).map(lambda value: round(value, 3))
lengths = st.integers(0, 120).map(float) | st.floats(0.01, 120).map(lambda value: round(value, 3))


@st.composite
def objects(draw: Any) -> dict[str, Any]:
    box = [draw(sides), draw(sides), draw(lengths), draw(lengths)]
    entry: dict[str, Any] = {"bbox": box, "iscrowd": int(draw(st.integers(0, 5)) == 0)}
    if draw(st.booleans()):
        left, top, width, height = box
        corners = [left, top, left + width, top, left + width, top + height]
        entry["segmentation"] = [corners, *draw(st.sampled_from([[], [], [corners]]))]
    if draw(st.integers(0, 3)) == 0:
        entry["difficult"] = 1
    return entry


@st.composite
def data_sets(draw: Any) -> dict[str, dict[str, Any]]:
    """By split, a COCO dictionary."""
    names = [name.strip() for name in draw(st.lists(class_names, min_size=1, max_size=4, unique_by=str.strip))]
    categories = [{"id": 3 * label + 1, "name": name} for label, name in enumerate(names)]
    result: dict[str, dict[str, Any]] = {}
    number = 0
    for split in draw(st.sampled_from([("train", "val"), ("val",), ("autumn", "train")])):
        images, annotations = {}, []
        for _ in range(draw(st.integers(1, 3))):
            name = plain_name(draw(folders) + draw(words) + draw(endings))
            if name is None or name in images or any(f"{name}/" in other or f"{other}/" in name for other in images):
                continue
            number += 1
            size = {"width": draw(st.integers(20, 64)), "height": draw(st.integers(20, 64))}
            images[name] = {"id": 5 * number, "file_name": name, **size}
            for entry in draw(st.lists(objects(), max_size=3)):
                label = draw(st.integers(0, len(names) - 1))
                fields = {"id": 1000 * number + len(annotations), "image_id": 5 * number, "category_id": 3 * label + 1}
                annotations.append({**fields, **entry})
        if images:
            result[split] = {"images": [*images.values()], "annotations": annotations, "categories": categories}
    return result


def write(root: Path, content: dict[str, dict[str, Any]]) -> None:
    """The data set on disk; every image has another grey, by which it is known under any name."""
    for split, part in content.items():
        put(root / f"annotations/instances_{split}.json", json.dumps(part))
        for image in part["images"]:
            grey = image["id"] % 250
            put(root / split / image["file_name"], make.png(image["width"], image["height"], grey))


def inside(root: Path, *, crowds: bool) -> dict[tuple[str, int], tuple[Any, ...]]:
    """By split and grey of the image: its size, and the classes and boxes that lie in it."""
    found = {}
    for split in splits(root):
        dataset = open_dataset(root, split, reporter=SilentReporter())
        for i in range(len(dataset)):
            height, width = dataset.sizes[i].tolist()
            boxes, kept = clean_boxes(dataset.index.boxes[dataset.span(i)], height, width)
            kept &= crowds | ~dataset.crowd(i)
            names = [dataset.names[label] for label in dataset.labels(i)[kept].tolist()]
            key = (split, int(dataset.image(i).max()))
            assert key not in found
            found[key] = ((height, width), names, boxes[kept])
    return found


def goes_round(content: dict[str, dict[str, Any]], back: Sequence[str]) -> None:
    """Every format from COCO, and from each of them another one, which is drawn too."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not content:
            return
        write(root / "in", content)
        for first, second in zip(FORMATS, back):
            if goes(root / "in", root / first, first):
                goes(root / first, root / "back" / first, second)


def goes(source: Path, target: Path, to: str) -> bool:
    """Converts a data set and compares; False where the format cannot hold it, which is said."""
    found = inside(source, crowds=True)
    empty = {split for split, _ in found} - {split for (split, _), image in found.items() if image[1]}
    if to == "open_images" and empty:
        with pytest.raises(DataError, match="has no objects"):
            convert(source, to=to, out=target, reporter=SilentReporter())
        return False
    convert(source, to=to, out=target, reporter=SilentReporter())
    same(source, target, to)
    return True


def same(source: Path, target: Path, to: str) -> None:
    before, report = (check(folder, reporter=SilentReporter()) for folder in (source, target))
    crowds = to != "yolo"
    expected, found = inside(source, crowds=crowds), inside(target, crowds=crowds)
    expected = {(split_folder(split), grey): image for (split, grey), image in expected.items()}
    if to == "open_images":  # lists objects, and so no image without any
        expected = {key: image for key, image in expected.items() if image[1]}
    if to == "supervisely" and not all(split_word(split) for split, _ in expected):
        expected = {(WHOLE, grey): image for (_, grey), image in expected.items()}
    # What is doubtful before, such as boxes that may be fractions, is so afterwards. A split all of whose boxes are
    # smaller than a pixel and in the corner is doubtful in each format that gives pixels.
    doubtful = {problem.code for problem in before.problems if problem.severity == "error"}
    if any(within_one_pixel(expected, split) for split, _ in expected):
        doubtful.add("box-units")
    errors = {problem.code for problem in report.problems if problem.severity == "error"}
    assert errors <= HAS_NOTHING | doubtful, report.problems
    assert not LEFT_OUT & {problem.code for problem in report.problems}, report.problems
    assert expected.keys() == found.keys()
    for key, (size, names, boxes) in expected.items():
        assert (size, names) == found[key][:2]
        np.testing.assert_allclose(boxes, found[key][2], atol=PRECISION[to])


def within_one_pixel(images: dict[tuple[str, int], tuple[Any, ...]], split: str) -> bool:
    """Whether a split has boxes, and all of them lie in the first pixel of their image."""
    boxes = np.concatenate([image[2] for (of, _), image in images.items() if of == split])
    return len(boxes) > 0 and bool((boxes <= 1 + 1e-3).all())


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=6, suppress_health_check=QUIET)
@given(data_sets(), st.tuples(*[formats] * len(FORMATS)))
@example(
    {
        "train": {
            "images": [{"id": 5, "file_name": "0.png", "width": 20, "height": 20}],
            "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [0.0, 0.0, 1.0, 0.5], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "0"}],
        }
    },
    ("coco",) * len(FORMATS),
)
@example(
    {
        "val": {
            "images": [{"id": 5, "file_name": "0.png", "width": 20, "height": 20}],
            "annotations": [],
            "categories": [{"id": 1, "name": "0"}],
        }
    },
    ("labelme",) * len(FORMATS),
)
def test_any_data_set_goes_to_every_format_and_back(content: dict[str, dict[str, Any]], back: Sequence[str]) -> None:
    goes_round(content, back)


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=QUIET)
@given(data_sets(), st.tuples(*[formats] * len(FORMATS)))
def test_five_hundred_data_sets_go_to_every_format_and_back(
    content: dict[str, dict[str, Any]], back: Sequence[str]
) -> None:
    goes_round(content, back)
