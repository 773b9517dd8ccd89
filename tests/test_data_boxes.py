"""A box of which nothing lies inside its image is no object: in training, `val`, `check` and `convert` alike."""

from __future__ import annotations

import json

import pytest

import data_sets as make
from data_sets import put
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.dataset import open_dataset
from onelook.data.objects import evaluated_areas, evaluation_notes
from onelook.reporter import SilentReporter
from test_data_cases import coco, codes


@pytest.mark.parametrize("box", [[10, 10, 0, 20], [10, 10, 20, 0], [160, 10, 0.5, 20], [-0.5, 10, 0.5, 20]], ids=str)
def test_a_box_without_area_inside_is_no_object_anywhere(box, tmp_path):
    root = coco(tmp_path / "in", [box, [1, 1, 9, 9]])
    dataset = open_dataset(root, "train")
    assert len(dataset.sample(0).labels) == len(dataset.coco_ground_truth()["annotations"]) == 1
    assert evaluated_areas(dataset).tolist() == [81]
    assert any("or have no area" in note for note in evaluation_notes(dataset))
    convert(root, to="coco", out=tmp_path / "out", reporter=SilentReporter())
    assert len(open_dataset(tmp_path / "out", "train").boxes(0)) == 1
    assert codes(root) & {"box-degenerate", "box-outside"}


@pytest.mark.parametrize("crowd", [False, True], ids=["alone", "beside a crowd"])
def test_a_split_whose_boxes_are_all_left_out_is_an_error_of_check(crowd, tmp_path):
    root = coco(tmp_path, [[-60.0, 10, 30, 30], [10, 10, 0, 30], [20, 20, 30, 30]][: 2 + crowd])
    for file in (root / "annotations").glob("*.json") if crowd else ():
        content = json.loads(file.read_text())
        content["annotations"][2]["iscrowd"] = 1
        put(file, json.dumps(content))
    report = check(root, reporter=SilentReporter())
    (error,) = {problem.code for problem in report.problems if problem.severity == "error"}
    assert error == "no-usable-boxes" and report.exit_code == 1
    assert "no-usable-boxes" not in codes(coco(tmp_path / "other", [[-60.0, 10, 30, 30], [10, 10, 5, 30]]))


def test_images_with_more_objects_than_the_protocol_counts_are_told(tmp_path):
    def found(count, classes):
        images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
        annotations = [
            {"id": n + 1, "image_id": 1, "category_id": n % classes, "bbox": [1, 2, 3, 4], "iscrowd": int(n >= 150)}
            for n in range(count)
        ]
        categories = [{"id": n, "name": f"class {n}"} for n in range(classes)]
        root = make.coco(
            tmp_path / f"{count}-{classes}",
            {"images": images, "annotations": annotations, "categories": categories},
        )
        return " ".join(evaluation_notes(open_dataset(root)))

    assert "1 image has more than 100 objects of a class, up to 101: COCO's protocol counts" in found(101, 1)
    assert "objects of a class" not in found(100, 1) and "objects of a class" not in found(150, 2)
    assert "up to 150" in found(180, 1)  # crowds are not counted
