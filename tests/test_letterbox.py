"""Letterbox and stretch: the place of an image in the network's input, and the exact inverse of the transform."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.augment.letterbox import Letterbox, Resize, Stretch
from shared import needs_shared, reference

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
FRAMES = st.one_of(
    st.builds(
        Letterbox,
        anchor=st.sampled_from(["corner", "centre"]),
        enlarge=st.booleans(),
        rounding=st.sampled_from(["truncate", "round"]),
    ),
    st.just(Stretch()),
)


@given(FRAMES, SIZES, SIZES, st.lists(st.tuples(*[st.floats(-4000, 4000)] * 4), max_size=5))
def test_to_original_is_the_inverse_of_to_input(
    frame: Resize, source: tuple[int, int], size: tuple[int, int], boxes: list[tuple[float, ...]]
) -> None:
    transform, (height, width) = frame.get_transform(source, size)
    array = np.array(boxes, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(transform.to_original(transform.to_input(array)), array, rtol=1e-9, atol=1e-6)
    assert 1 <= height <= size[0] and 1 <= width <= size[1]
    assert transform.left + width <= size[1] and transform.top + height <= size[0]


@given(FRAMES, SIZES, SIZES)
def test_the_image_lies_inside_the_input_up_to_a_pixel(
    frame: Resize, source: tuple[int, int], size: tuple[int, int]
) -> None:
    transform, (height, width) = frame.get_transform(source, size)
    whole = transform.to_input(np.array([[0.0, 0, source[1], source[0]]]))[0]
    found = (transform.left, transform.top, transform.left + width, transform.top + height)
    assert np.abs(whole - found).max() < 1 + 1e-6


@given(FRAMES, st.tuples(st.integers(1, 60), st.integers(1, 60)), st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_letterboxed_image_has_the_input_s_size_and_grey_padding(
    frame: Resize, source: tuple[int, int], size: tuple[int, int]
) -> None:
    image = np.full((*source, 3), 7, np.uint8)
    letterboxed, transform = frame(image, size)
    assert letterboxed.shape == (*size, 3) and letterboxed.dtype == np.uint8
    _, (height, width) = frame.get_transform(source, size)
    top, left = int(transform.top), int(transform.left)
    assert (letterboxed[top : top + height, left : left + width] == 7).all()
    assert (letterboxed == 7).all(-1).sum() == height * width
    assert (image == 7).all()


def centred_cases() -> list[dict[str, object]]:
    cases = json.loads((reference("yolov7") / "details.json").read_text())["letterbox"]
    return [case for case in cases if not case["arguments"]["auto"]]


def test_a_box_as_large_as_its_type_becomes_infinite_without_a_warning() -> None:
    transform, _ = Letterbox().get_transform((640, 640), (320, 320))
    boxes = transform.to_original(np.array([[-3e38, 0, 3e38, 10]], np.float32))
    assert boxes.tolist() == [[-np.inf, 0, np.inf, 20]]


@given(FRAMES, SIZES, SIZES, st.lists(st.tuples(*[st.floats(-4000, 4000)] * 4), max_size=5))
def test_clipped_boxes_are_inside_the_image_and_inner_ones_unchanged(
    frame: Resize, source: tuple[int, int], size: tuple[int, int], boxes: list[tuple[float, ...]]
) -> None:
    transform, _ = frame.get_transform(source, size)
    array = np.array(boxes, np.float64).reshape(-1, 4)
    free, clipped = transform.to_original(array), transform.to_original(array, clip=True)
    limits = np.array([source[1], source[0]] * 2)
    assert ((clipped >= 0) & (clipped <= limits)).all()
    inside = (free >= 0) & (free <= limits)
    assert (clipped[inside] == free[inside]).all()


@needs_shared
def test_the_centred_letterbox_is_that_of_yolov7() -> None:
    cases = centred_cases()
    assert len(cases) > 5
    for case in cases:
        arguments: dict[str, object] = case["arguments"]  # type: ignore[assignment]
        frame = Letterbox(anchor="centre", rounding="round", enlarge=bool(arguments.get("scaleup", True)))
        side = arguments["new_shape"]
        size = (side, side) if isinstance(side, int) else tuple(side)  # type: ignore[arg-type]
        transform, _ = frame.get_transform(tuple(case["image"]), size)  # type: ignore[arg-type]
        assert (transform.top, transform.left) == (case["top"], case["left"]), case
        assert transform.scale_x == transform.scale_y == pytest.approx(case["ratio"]), case
