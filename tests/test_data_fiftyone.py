"""The folders that FiftyOne exports are read: Pascal VOC, YOLO text and COCO JSON."""

from __future__ import annotations

import json

import pytest

import data_sets as make
from data_sets import put
from onelook.data.dataset import open_dataset
from onelook.reporter import SilentReporter


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("images", ["data", "images"])
def test_voc_files_in_labels_are_found(tmp_path, split, images):
    """The folders that FiftyOne exports, and the same with the name of YOLO's folder."""
    put(tmp_path / f"{split}{images}/1.png", make.png())
    put(tmp_path / f"{split}labels/1.xml", make.voc_xml(make.voc_object("a")))
    dataset = open_dataset(tmp_path, "train", reporter=SilentReporter())
    assert dataset.format == "voc" and dataset.names == ("a",) and dataset.image(0).shape == (48, 64, 3)
    assert dataset.num_objects.tolist() == [1] and dataset.labelled.all()


def test_yolo_labels_are_found_although_a_file_of_xml_is_among_them(tmp_path):
    put(tmp_path / "images/1.png", make.png())
    put(tmp_path / "labels/1.txt", "0 .5 .5 .2 .2\n")
    put(tmp_path / "labels/1.xml", make.voc_xml(make.voc_object("a")))
    assert open_dataset(tmp_path, "train", reporter=SilentReporter()).format == "yolo"


def test_yolo_and_coco_as_fiftyone_exports_them_are_found(tmp_path):
    put(tmp_path / "yolo/data/1.png", make.png())
    put(tmp_path / "yolo/data/1.txt", "1 .5 .5 .2 .2\n")
    put(tmp_path / "yolo/obj.names", "a\nb\n")
    put(tmp_path / "yolo/images.txt", "data/1.png\n")
    yolo = open_dataset(tmp_path / "yolo", "train", reporter=SilentReporter())
    assert (yolo.format, yolo.names, yolo.labels(0).tolist()) == ("yolo", ("a", "b"), [1])
    for image in make.COCO["images"]:
        put(tmp_path / "coco/data" / image["file_name"], make.png())
    put(tmp_path / "coco/labels.json", json.dumps(make.COCO))
    assert open_dataset(tmp_path / "coco", "train", reporter=SilentReporter()).format == "coco"
