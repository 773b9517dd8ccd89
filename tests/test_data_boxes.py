"""A box of which nothing lies inside its image is no object: in training, `val`, `check` and `convert` alike."""

from __future__ import annotations

import pytest

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
