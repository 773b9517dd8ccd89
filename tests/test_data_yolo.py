"""YOLO text: what is asked about, said or refused where label files and lists of classes are ambiguous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import data_sets as make
from data_sets import codes, put, said
from onelook.data import open_dataset
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.errors import DataError
from onelook.reporter import SilentReporter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))


KEYPOINTS = {
    "with visibilities": "0 .5 .5 .5 .5 .4 .4 1 .6 .6 0\n" * 5,
    "without": "0 .5 .5 .5 .5 .4 .4 .6 .6 .5 .3\n0 .4 .4 .2 .2 .45 .4 .35 .4 0 0\n" * 3,
}


@pytest.mark.parametrize("rows", KEYPOINTS.values(), ids=list(KEYPOINTS))
def test_rows_that_seem_to_be_keypoints_are_asked_about(tmp_path, rows):
    root = make.yolo(tmp_path, rows)
    with pytest.raises(DataError, match=r"a\.txt:1: each row has 11 values, which seem to be a box and keypoints"):
        open_dataset(root)
    assert "kpt_shape: false" in said(root)
    put(root / "data.yaml", "val: images/val\nnames: [cat, dog]\nkpt_shape: false\n")
    assert len(open_dataset(root).polygons(0)[0][0]) == 5 and not open_dataset(root).notes[1:]


POINTS = np.random.default_rng(0).uniform(-1, 1, (40, 6, 2))


def pose_rows(outliers: int = 0, count: int = 40) -> str:
    """Rows of boxes around their six keypoints, rounded; some with one point far outside of a box made smaller."""
    rows = []
    for number, points in enumerate(0.5 + POINTS[:count] * (0.1, 0.2)):
        low, high = points.min(0), points.max(0)
        points[0] = (0.05, 0.95) if number < outliers else points[0]
        values = [*(low + high) / 2, *(high - low), *points.ravel()]
        rows.append(" ".join(["0", *(f"{value:.6f}" for value in values)]))
    return "\n".join(rows)


ASKED = {
    "points on the edge of the box": pose_rows(),
    "a few points outside": pose_rows(outliers=10),
    "a single row": pose_rows(count=1),
    "one keypoint": "0 .5 .5 .2 .2 .45 .55\n0 .4 .5 .2 .3 .45 .55",
    "two keypoints": "0 .5 .5 .2 .2 .45 .55 .58 .47",
    "a row of another length": pose_rows() + "\n0 .5 .5 .2 .2 .45 .55",
}


@pytest.mark.parametrize("rows", ASKED.values(), ids=list(ASKED))
def test_what_may_be_keypoints_is_never_guessed(tmp_path, rows):
    root = make.yolo(tmp_path, rows)
    with pytest.raises(DataError, match="seem to be a box and keypoints") as caught:
        open_dataset(root)
    assert "kpt_shape: [" in caught.value.remedy and "if they are outlines, 'kpt_shape: false'" in caught.value.remedy
    assert "keypoints" in codes(root) and "read as outlines" not in said(root)


def ring(x: float, y: float, count: int) -> str:
    angles = np.linspace(0, 6.28, count, endpoint=False)
    points = (x, y) + 0.1 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return " ".join(["0", *(f"{value:.4f}" for value in points.ravel())])


OUTLINES = {
    "of differing length": "\n".join(ring(0.5, 0.5, count) for count in (8, 9, 10, 11)),
    "of one length all over the image": "\n".join(ring(x, 0.4, 16) for x in (0.2, 0.4, 0.75, 0.8, 0.85)),
    "a single one whose points lie outside of a box": "0 .1 .1 .9 .1 .9 .9 .1 .9",
    "turned rectangles": "0 .5 .4 .6 .5 .5 .6 .4 .5\n0 .5 .4 .7 .4 .7 .6 .5 .6",
}


@pytest.mark.parametrize("rows", OUTLINES.values(), ids=list(OUTLINES))
def test_what_cannot_be_keypoints_is_read_as_outlines(tmp_path, rows):
    dataset = open_dataset(make.yolo(tmp_path, rows))
    assert len(dataset.polygons(0)) == rows.count("\n") + 1 and "are read as outlines" in dataset.describe()


def test_rows_that_are_read_as_outlines_are_said(tmp_path):
    dataset = open_dataset(make.yolo(tmp_path, "1 .25 .25 .5 .25 .5 .75\n0 .5 .5 1 1\n"))
    assert "1 rows of more than 5 values are read as outlines; keypoints need 'kpt_shape'" in dataset.describe()


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ("0 .5 .5 .5 .5 .4 .4 1\n", "are they keypoints"),
        ("0 .5 .5 .5 .5 .4 .4 2 .6 .6 0\n", "visibility of a keypoint"),
    ],
)
def test_faulty_rows_that_may_be_keypoints_name_the_setting(tmp_path, rows, hint):
    with pytest.raises(DataError, match=hint):
        open_dataset(make.yolo(tmp_path, rows))


def test_rows_of_yolo_that_lie_beyond_the_image_follow_the_same_rule(tmp_path):
    rows = "0 0 .5 .4 .4\n0 -.3 .5 .2 .2\n0 1.2 .5 .1 .1\n1 .5 .25 1.5 .25 1.5 .75\n"
    root = make.yolo(tmp_path / "in", rows)
    dataset = open_dataset(root)
    np.testing.assert_allclose(dataset.sample(0).boxes, [[0, 14.4, 12.8, 33.6], [32, 12, 64, 36]], atol=1e-4)
    found = [problem.code for problem in check(root, reporter=SilentReporter()).problems]
    assert found.count("box-outside") == 2 and found.count("box-beyond-image") == 2 and "not-normalised" not in found
    result = convert(root, to="coco", out=tmp_path / "coco", reporter=SilentReporter())
    assert result.lost["boxes wholly outside of their images (left out)"] == 2


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        ("cafe\u0301.png", "caf\u00e9.txt", r"the given one is cafe\u0301.txt, the file is caf\xe9.txt"),
        ("a.png", "a.TXT", "The ending of 'a.TXT' must be written '.txt'"),
    ],
)
def test_a_label_file_of_nearly_the_name_is_an_error_and_no_background(tmp_path, image, label, words):
    root = make.yolo(tmp_path)
    (root / "images/val/a.png").rename(root / "images/val" / image)
    (root / "labels/val/a.txt").rename(root / "labels/val" / label)
    with pytest.raises(DataError, match="nearly this name") as caught:
        open_dataset(root)
    assert words in caught.value.message and "label-spelling" in codes(root)
    # Two images may differ in the form of their names only: the label file is that of the one with exactly its name.
    put(root / "images/val" / Path(label).with_suffix(".png"), make.png(grey=9))
    if label.endswith(".txt"):
        assert open_dataset(root).num_objects.sum() == 2


def test_a_second_list_of_classes_that_differs_is_said(tmp_path):
    root = make.yolo(tmp_path)
    put(root / "classes.txt", "dog\ncat\n")
    dataset = open_dataset(root)
    words = (
        f"the classes are those of '{root / 'data.yaml'}'; the list '{root / 'classes.txt'}' differs and is not used"
    )
    assert dataset.names == ("cat", "dog") and dataset.describe().count(words) == 1
    assert "class-lists-unlike" in codes(root)
    (root / "data.yaml").unlink()
    assert open_dataset(root).names == ("dog", "cat") and "class-lists-unlike" not in codes(root)
    put(root / "obj.names", "cat\ndog\n")
    assert f"'{root / 'obj.names'}' differs" in open_dataset(root).describe() and "class-lists-unlike" in codes(root)
    put(root / "obj.names", "dog\ncat\n")
    assert "differs" not in open_dataset(root).describe() and "class-lists-unlike" not in codes(root)


def test_images_that_share_a_label_file_are_named(tmp_path):
    root = make.yolo(tmp_path)
    assert "share a label" not in open_dataset(root).describe()
    put(root / "images/val/a.bmp", make.png(grey=9))
    dataset = open_dataset(root)
    pair = "'images/val/a.bmp' and 'images/val/a.png'"
    assert f"share a label file, so that both have its boxes: {pair}" in dataset.describe()
    assert dataset.num_objects.tolist() == [2, 2, 0, 0]
    (problem,) = [one for one in check(root, reporter=SilentReporter()).problems if one.code == "label-shared"]
    assert pair in problem.message and problem.file.endswith("labels/val/a.txt") and problem.severity == "warning"
    put(root / "images/val/a.jpg", make.png(grey=10))
    assert "and 1 more" in open_dataset(root).describe()
