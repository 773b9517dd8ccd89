"""COCO data sets on the real sample: what is opened is exactly what is annotated."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from onelook.data import open_dataset, splits
from onelook.errors import DataError
from shared import data, needs_shared


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@needs_shared
@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_is_the_annotation_file(split):
    ours = open_dataset(data("coco_mini"), split).coco_ground_truth()
    theirs = json.loads((data("coco_mini") / f"annotations/instances_{split}.json").read_text())
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in ours["images"]] == [
        (i["id"], i["file_name"], i["width"], i["height"]) for i in theirs["images"]
    ]
    fields = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    by_id = {a["id"]: a for a in theirs["annotations"]}
    assert len(ours["annotations"]) == len(by_id)
    for annotation in ours["annotations"]:
        assert [annotation[key] for key in fields] == [by_id[annotation["id"]][key] for key in fields]


@needs_shared
def test_crowds_and_images_without_objects_are_kept():
    train = open_dataset(data("coco_mini"), "train")
    assert splits(data("coco_mini")) == ("train", "val")
    assert sum(int(train.crowd(i).sum()) for i in range(len(train))) == 29
    assert int((train.num_objects == 0).sum()) == 3
    assert train.labelled.all()


@needs_shared
def test_outlines_are_those_of_the_file():
    val = open_dataset(data("coco_mini"), "val")
    theirs = json.loads((data("coco_mini") / "annotations/instances_val.json").read_text())
    by_id = {a["id"]: a["segmentation"] for a in theirs["annotations"]}
    for i in range(len(val)):
        for number, rings in zip(val.annotation_ids(i).tolist(), val.polygons(i)):
            given = by_id[number]
            expected = [] if isinstance(given, dict) else [np.float32(ring).reshape(-1, 2) for ring in given]
            assert len(rings) == len(expected)
            assert all(np.array_equal(ring, other) for ring, other in zip(rings, expected))


@needs_shared
def test_a_missing_split_is_named_with_those_that_exist():
    with pytest.raises(DataError, match="no split 'test'") as caught:
        open_dataset(data("coco_mini"), "test")
    assert "'train', 'val'" in str(caught.value)


@needs_shared
def test_a_pickled_data_set_maps_the_same_index():
    val = open_dataset(data("coco_mini"), "val").view([5, 3, 3])
    copy = pickle.loads(pickle.dumps(val))
    assert copy.index.path == val.index.path and len(copy) == 3
    assert copy.image_ids.tolist() == val.image_ids.tolist()
    assert np.array_equal(copy.boxes(1), val.boxes(2))
