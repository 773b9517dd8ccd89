"""Conversions keep what the target can hold, and say what it cannot."""

from __future__ import annotations

import json
import tempfile
from itertools import permutations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data_sets as make
from data_sets import put
from onelook.cli.app import run
from onelook.data import formats, open_dataset, splits
from onelook.data.convert import WritableFormat, convert
from onelook.errors import DataError
from shared import data, needs_shared

FORMATS = ("coco", "yolo", "voc", "shards")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))


def content(dataset, *, crowds=True):
    """What formats share, by image name: size, whether labelled, classes and boxes in order."""
    result = {}
    for i in range(len(dataset)):
        kept = (dataset.boxes(i)[:, 2:] > dataset.boxes(i)[:, :2]).all(axis=1) & (crowds | ~dataset.crowd(i))
        names = [dataset.names[label] for label in dataset.labels(i)[kept].tolist()]
        name = "/".join(part for part in dataset.file_name(i).split("/") if part not in ("images", dataset.split))
        result[name] = (tuple(dataset.sizes[i].tolist()), names, dataset.boxes(i)[kept])
    return result


def same(first, second, slack=0.012):
    assert first.keys() == second.keys()
    for name, (size, names, boxes) in first.items():
        assert (size, names) == second[name][:2]
        np.testing.assert_allclose(boxes, second[name][2], atol=slack)


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
boxes = st.tuples(*(st.integers(0, 2000).map(lambda v: v / 100) for _ in range(4)))


@st.composite
def data_sets(draw):
    classes = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    objects = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(classes) - 1), boxes), max_size=8))
    images = [{"id": i * 7 + 1, "file_name": f"{i}/ü {i}.png", "width": 64, "height": 48} for i in range(3)]
    annotations = [
        {"id": n + 1, "image_id": i * 7 + 1, "category_id": c * 3, "bbox": [*box[:2], box[2] + 1, box[3] + 1]}
        for n, (i, c, box) in enumerate(objects)
    ]
    categories = [{"id": c * 3, "name": name} for c, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data_sets(), st.sampled_from(list(permutations(FORMATS))))
def test_a_round_through_all_formats_changes_nothing_they_share(annotations, order):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for image in annotations["images"]:
            put(root / "source/val" / image["file_name"], make.png(grey=image["id"]))
        put(root / "source/annotations/instances_val.json", json.dumps(annotations))
        place, expected = root / "source", open_dataset(root / "source")
        for to in (*order, "coco"):
            convert(place, to=to, out=root / f"{place.name}-{to}")
            place = root / f"{place.name}-{to}"
            found = open_dataset(place)
            assert (found.format, found.names) == (to, expected.names)
            same(content(expected), content(found), slack=1e-4)


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_lost_is_counted(tmp_path, to):
    result = convert(make.coco(tmp_path / "in"), to=to, out=tmp_path / "out")
    lost = " ".join(result.lost)
    assert ("crowd" in lost, "ids" in lost, "areas" in lost) == ((to not in ("coco", "shards")),) * 3
    assert (result.lost == {}) == (to == "coco")  # shards have no place for 'info'
    same(content(open_dataset(tmp_path / "in"), crowds=to != "yolo"), content(open_dataset(tmp_path / "out")))


def test_coco_to_coco_keeps_every_field(tmp_path):
    convert(make.coco(tmp_path / "in"), to="coco", out=tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert written["info"] == make.COCO["info"] and written["images"] == make.COCO["images"]
    given_entries = {entry["id"]: {"area": 3072.0, **entry} for entry in make.COCO["annotations"]}
    assert {entry["id"]: entry for entry in written["annotations"]} == given_entries
    assert sorted(written["categories"], key=str) == sorted(make.COCO["categories"], key=str)


def test_difficult_empty_and_unlabelled_keep_their_meaning(tmp_path):
    root = make.voc(tmp_path / "in")
    put(root / "JPEGImages/d.png", make.png())
    put(root / "Annotations/d.xml", make.voc_xml())
    put(root / "ImageSets/Main/val.txt", "a\nb\nc\nd\n")
    for to in ("voc", "yolo"):
        convert(root, to=to, out=tmp_path / to)
        assert open_dataset(tmp_path / to).labelled.tolist() == [True, True, False, True]
    assert open_dataset(tmp_path / "voc").difficult(1).tolist() == [True]
    convert(root, to="coco", out=tmp_path / "coco")
    assert open_dataset(tmp_path / "coco").difficult(1).tolist() == [True]


def test_outlines_survive_where_yolo_can_hold_them(tmp_path):
    rings = {"segmentation": [[5.0, 6.0, 12.0, 6.0, 12.0, 14.0]]}
    root = make.coco(tmp_path / "in", make.changed(annotations=[{**make.COCO["annotations"][2], **rings}]))
    convert(root, to="yolo", out=tmp_path / "yolo")
    np.testing.assert_allclose(
        open_dataset(tmp_path / "yolo").polygons(0)[0][0].ravel(), rings["segmentation"][0], 1e-6
    )


def test_a_split_of_any_name_keeps_it_through_formats(tmp_path):
    make.coco(tmp_path / "a", split="train")
    make.coco(tmp_path / "a", split="autumn")
    convert(tmp_path / "a", to="yolo", out=tmp_path / "b")
    convert(tmp_path / "b", to="coco", out=tmp_path / "c")
    for folder in "abc":
        assert sorted(splits(tmp_path / folder)) == ["autumn", "train"]


def test_images_of_one_name_are_kept_apart(tmp_path):
    root = make.voc(tmp_path / "in")
    for split, grey in (("train", 50), ("val", 90)):
        put(tmp_path / f"two/{split}/images/a.png", make.png(grey=grey))
        put(tmp_path / f"two/{split}/labels/a.txt", "0 .5 .5 .5 .5")
    result = convert(tmp_path / "two", to="voc", out=tmp_path / "out")
    assert "new name" in " ".join(result.notes) and len(list((tmp_path / "out/JPEGImages").iterdir())) == 2
    assert [open_dataset(tmp_path / "out", s).image(0).max() for s in ("train", "val")] == [50, 90]
    assert splits(root) == ("val",)


def test_nothing_is_overwritten_and_nothing_half_made_is_left(tmp_path):
    root = make.coco(tmp_path / "in")
    put(tmp_path / "out/note.txt", "mine")
    with pytest.raises(DataError, match="not empty"):
        convert(root, to="voc", out=tmp_path / "out")
    with pytest.raises(DataError, match=r"note\.txt' is a file, not a folder"):
        convert(root, to="voc", out=tmp_path / "out/note.txt")
    (root / "val/c.png").unlink()
    with pytest.raises(DataError, match=r"c\.png"):
        convert(root, to="voc", out=tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_images_are_linked_unless_copies_are_wanted(tmp_path):
    root = make.coco(tmp_path / "in")
    convert(root, to="yolo", out=tmp_path / "linked")
    convert(root, to="yolo", out=tmp_path / "copied", copy=True)
    original = root / "val/a.png"
    assert (tmp_path / "linked/images/val/a.png").samefile(original)
    assert not (tmp_path / "copied/images/val/a.png").samefile(original)


def test_type_checkers_know_the_formats_that_can_be_written():
    assert get_args(WritableFormat) == tuple(format.name for format in formats.FORMATS if format.write is not None)


def test_the_command(tmp_path, capsys):
    root = make.coco(tmp_path / "in")
    assert run(["convert", str(root), "--to", "yolo", "--out", str(tmp_path / "out"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"val": {"images": 3, "boxes": 2}}  # without the crowd
    assert run(["convert", str(root), "--to", "darknet", "--out", str(tmp_path / "x")]) == 2
    assert run(["convert", str(root), "--to", "voc", "--out", str(tmp_path / "out")]) == 1


@needs_shared
@pytest.mark.parametrize(("name", "to"), [("bccd", "coco"), ("bccd", "yolo"), ("coco_mini", "voc")])
def test_real_data_survives(tmp_path, name, to):
    convert(data(name), to=to, out=tmp_path / "out")
    for split in splits(data(name)):
        same(content(open_dataset(data(name), split)), content(open_dataset(tmp_path / "out", split)))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    make.coco(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/out' cannot be written: ") as caught:
        convert(tmp_path / "data", to="yolo", out=tmp_path / "file" / "out")
    assert "--out" in caught.value.remedy


@needs_shared
def test_the_counts_are_of_what_was_written(tmp_path: Path) -> None:
    """Crowds are no boxes of YOLO's text, and the classes of two splits are not different classes."""
    made = convert(data("coco_mini"), to="yolo", out=tmp_path / "yolo")
    for split in ("train", "val"):
        written = open_dataset(tmp_path / "yolo", split)
        assert made.splits[split] == {"images": len(written), "boxes": int(written.num_objects.sum())}
    assert made.lost["category ids (classes are numbered from 0)"] == 80


def test_the_classes_of_pascal_voc_are_listed_for_other_programs(tmp_path):
    convert(make.coco(tmp_path / "in"), to="voc", out=tmp_path / "out")
    assert (tmp_path / "out/labelmap.txt").read_text() == "# label:color_rgb:parts:actions\ncat:::\ndog:::\n"
    named = [{"id": 90, "name": "dog:small"}, {"id": 2, "name": "cat"}]
    convert(make.coco(tmp_path / "colon", make.changed(categories=named)), to="voc", out=tmp_path / "other")
    assert not (tmp_path / "other/labelmap.txt").exists()
    assert open_dataset(tmp_path / "other").names == ("cat", "dog:small")
