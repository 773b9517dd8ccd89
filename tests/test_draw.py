"""Drawn boxes: stable colours, text inside the image, whatever the size and the names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.draw import class_colour, draw_detections, drawable_text, enlarge_small_image, write_image
from onelook.errors import UserError

GREY = 90


def scene(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def test_the_given_image_is_not_changed() -> None:
    image = scene(100, 100)
    drawn = draw_detections(image, np.array([[10.0, 10, 60, 60]]), np.array([0.5]), np.array([0]), ["cup"])
    assert (image == GREY).all()
    assert tuple(drawn[10, 40]) == class_colour(0)
    assert tuple(drawn[35, 10]) == class_colour(0)
    assert (drawn[35, 35] == GREY).all()


def test_neighbouring_classes_have_colours_far_apart() -> None:
    colours = np.array([class_colour(label) for label in range(80)], float)
    assert len({tuple(colour) for colour in colours}) == 80
    assert np.linalg.norm(colours[1:] - colours[:-1], axis=1).min() > 60


@settings(max_examples=40, deadline=None)
@given(
    side=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    boxes=st.lists(st.tuples(*[st.floats(-1e12, 1e12) | st.floats(-50, 450) for _ in range(4)]), max_size=8),
    name=st.text(max_size=30),
)
def test_any_box_and_any_name_can_be_drawn(side: tuple[int, int], boxes: list[tuple[float, ...]], name: str) -> None:
    count = len(boxes)
    array = np.array(boxes, float).reshape(count, 4)
    drawn = draw_detections(scene(*side), array, np.full(count, 0.5), np.arange(count), [name] * count)
    assert drawn.shape == (*side, 3) and drawn.dtype == np.uint8


def test_boxes_that_are_not_finite_are_left_out() -> None:
    boxes = np.array([[np.nan, 0, np.inf, 10], [-np.inf, 1, 5, np.nan]])
    assert draw_detections(scene(50, 50), boxes, None, np.array([0, 1]), ["a", "b"]).shape == (50, 50, 3)


def test_labels_of_many_boxes_do_not_cover_each_other() -> None:
    boxes = np.array([[100.0, 100, 300, 300], [104, 102, 306, 300]])
    drawn = draw_detections(scene(480, 640), boxes, np.array([0.9, 0.8]), np.array([0, 1]), ["person", "person"])
    plates = [(drawn == class_colour(label)).all(-1).sum() for label in (0, 1)]
    lone = draw_detections(scene(480, 640), boxes[1:], np.array([0.8]), np.array([1]), ["person"])
    alone = (lone == class_colour(1)).all(-1).sum()
    assert plates[1] > 0.6 * alone


@pytest.mark.parametrize(
    ("text", "shown"), [("café", "cafe"), ("strawberry", "strawberry"), ("猫", ""), ("a\nb", "a b"), ("ﬁg", "fig")]
)
def test_names_are_reduced_to_the_letters_of_opencv_4(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    assert drawable_text(text) == shown


def test_long_names_are_cut_and_have_no_lines() -> None:
    assert drawable_text("x" * 60) == "x" * 30 + ".."
    assert drawable_text("a\nb\0") == "a b"


def test_a_small_image_is_enlarged_by_a_whole_factor() -> None:
    image, factor = enlarge_small_image(scene(24, 32))
    assert (image.shape, factor) == ((192, 256, 3), 8)
    same, factor = enlarge_small_image(scene(100, 256))
    assert (same.shape, factor) == ((100, 256, 3), 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".PNG", ".webp", ".bmp", ".tif"])
def test_written_colours_are_rgb(tmp_path: Path, suffix: str) -> None:
    image = scene(40, 60)
    image[:, :30] = (200, 30, 10)
    path = write_image(tmp_path / "new" / f"a{suffix}", image)
    back = cv2.imread(str(path))[:, :, ::-1]
    assert np.abs(back[20, 10].astype(int) - (200, 30, 10)).max() <= 6
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.xyz") as refused:
        write_image(tmp_path / "a.xyz", scene(4, 4))
    assert ".png" in refused.value.remedy


def test_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", scene(4, 4))


def test_an_image_that_cannot_be_written_gives_a_remedy_for_python_too(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_image(tmp_path / "file" / "x.png", np.zeros((4, 4, 3), np.uint8))
    assert "--" not in str(caught.value)
    assert "another folder (out)" in str(caught.value)
