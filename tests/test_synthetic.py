"""The made-up data set: reproducible, correctly labelled, readable as COCO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onelook.data import open_dataset
from onelook.data.synthetic import NAMES, Scenes, write_synthetic
from onelook.errors import DataError

SMALL = Scenes(size=(96, 128), objects=(1, 4), seed=3)


def test_a_scene_is_always_the_same_and_no_two_are_alike() -> None:
    first, again, other = SMALL("val", 5), SMALL("val", 5), SMALL("train", 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


def test_boxes_lie_in_the_image_around_their_outlines() -> None:
    for index in range(30):
        sample = SMALL("train", index)
        assert sample.image.shape == (96, 128, 3) and sample.image.dtype == np.uint8
        assert sample.polygons is not None and len(sample.polygons) == len(sample.labels) == len(sample.boxes)
        for (left, top, right, bottom), outlines in zip(sample.boxes, sample.polygons):
            assert 0 <= left < right <= 128 and 0 <= top < bottom <= 96
            for outline in outlines:
                assert (outline >= (left, top)).all() and (outline <= (right, bottom)).all()


def test_a_share_of_the_images_has_nothing_to_find() -> None:
    bare = Scenes(size=(64, 64), empty=1.0)("train", 0)
    assert len(bare.boxes) == 0 and bare.boxes.shape == (0, 4)
    counts = [len(Scenes(size=(64, 64), empty=0.5)("train", index).labels) for index in range(20)]
    assert 0 < counts.count(0) < 20


def test_every_class_and_many_sizes_appear() -> None:
    samples = [SMALL("train", index) for index in range(60)]
    labels = np.concatenate([sample.labels for sample in samples])
    boxes = np.concatenate([sample.boxes for sample in samples])
    assert set(labels) == set(range(len(NAMES)))
    longest = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert longest.min() < 16 and longest.max() > 40
    assert {label for index in range(20) for label in Scenes(size=(64, 64), classes=2)("a", index).labels} == {0, 1}


def test_the_files_are_a_coco_data_set(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "made", SMALL, {"train": 6, "val": 3})
    data = open_dataset(folder, "train")
    assert tuple(data.names) == NAMES and len(data) == 6
    for index in range(6):
        expected = SMALL("train", index)
        assert np.allclose(data.boxes(index), expected.boxes)
        assert np.array_equal(data.labels(index), expected.labels)
        assert not data.crowd(index).any()
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    assert len(content["images"]) == 3
    assert all(row["area"] <= row["bbox"][2] * row["bbox"][3] for row in content["annotations"])


def test_writing_again_changes_nothing_and_never_touches_other_files(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "made", SMALL, {"val": 1})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_synthetic(folder, SMALL, {"val": 1})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(DataError, match="holds something else"):
        write_synthetic(folder, SMALL, {"val": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    "setting",
    [{"size": (16, 64)}, {"objects": (3, 2)}, {"extent": (0.0, 0.5)}, {"difficulty": 2.0}, {"classes": 7}],
    ids=["too small", "more than most", "no size", "too difficult", "too many classes"],
)
def test_settings_outside_their_range_are_refused(setting: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"are|is 0 to 1"):
        Scenes(**setting)  # type: ignore[arg-type]
