"""Parts of augmentations: boxes fit the pixels of their objects; visible pixels are read once, others never."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baseline.augment import hsv
from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import HsvGain, HsvShift, to_rgb
from onelook.augment.geometry import (
    BoxFilter,
    RandomAffine,
    affine_matrix,
    flip_matrix,
    polygon_boxes,
    scale_matrix,
    transform_boxes,
    translation_matrix,
)
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import LazySample, decode_level, read_pixels
from onelook.augment.mixup import average
from onelook.augment.mosaic import Mosaic
from onelook.types import Sample
from sampling import sample_generator
from scenes import COLOURS, SCENES, SIZE, extent, scene

# ---------------------------------------------------------------- geometry


def test_the_affine_matrix_is_the_published_one() -> None:
    """Python's generator with seed 0, degrees 10, translate 0.1, scale 0.1 to 2, shear 2, at 640 x 640."""
    draws = random.Random(0)
    angle, scale = draws.uniform(-10, 10), draws.uniform(0.1, 2)
    shear_x, shear_y = (math.tan(math.radians(draws.uniform(-2, 2))) for _ in range(2))
    matrix = affine_matrix(angle, scale, shear_x, shear_y)
    matrix = translation_matrix(draws.uniform(-0.1, 0.1) * 640, draws.uniform(-0.1, 0.1) * 640) @ matrix
    expected = [[1.5321053655, 0.1589791481, 1.4431643352], [-0.1931943849, 1.5279718729, -12.1684304063]]
    np.testing.assert_allclose(matrix[:2], expected, atol=1e-9)
    moved = np.clip(transform_boxes(np.array([[10.0, 20, 200, 120]]), matrix), 0, 640)
    np.testing.assert_allclose(moved, [[19.9438009518, 0, 326.9417352048, 169.2562504903]], atol=1e-9)


def test_a_mosaic_places_images_as_published() -> None:
    sample = LazySample(
        lambda level, rows: np.zeros((427, 640, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int), None, (427, 640)
    )
    collage = Mosaic().collage((sample,) * 4, (500, 700), (640, 640))
    assert collage.size == (1280, 1280)
    assert [layer.region for layer in collage.layers] == [(140, 0, 640, 427), (0, 0, 640, 427)] * 2
    corners = [(layer.matrix[:2, :2] @ layer.region[:2] + layer.matrix[:2, 2]).tolist() for layer in collage.layers]
    assert corners == [[0, 273], [500, 273], [0, 700], [500, 700]]


@given(st.integers(0, 2**20), st.floats(-40, 40), st.floats(0.3, 2.5))
@settings(max_examples=25, deadline=None)
def test_transformed_boxes_fit_the_pixels_of_their_objects(seed: int, angle: float, scale: float) -> None:
    sample = scene(seed % 50, objects=2)
    matrix = translation_matrix(500, 500) @ affine_matrix(angle, scale, 0.02, -0.03) @ translation_matrix(-60, -60)
    height, width = sample.image.shape[:2]
    layer = Layer(sample, np.eye(3), (0, 0, width, height))
    collage = Collage((height, width), (layer,), Instances(sample.boxes, sample.labels)).transformed(
        matrix, (1300, 1300)
    )
    image = collage.render()[..., :3]
    for colour, box in zip(COLOURS, collage.instances.boxes):
        found = extent(image, colour)
        assert found is not None
        # A rotated corner is thin: its last pixels are mixed with what is behind.
        np.testing.assert_allclose(found, box, atol=2 + 2 * scale)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 0.4), (2.0, 2.0), (1.5, 0.5)])
def test_boxes_are_exact_to_the_pixel_without_rotation(scale: tuple[float, float]) -> None:
    sample = SCENES[3]
    height, width = sample.image.shape[:2]
    collage = Collage(
        (400, 500), (Layer(sample, np.eye(3), (0, 0, width, height)),), Instances(sample.boxes, sample.labels)
    )
    moved = collage.transformed(translation_matrix(7, 9) @ scale_matrix(*scale), (400, 500))
    for colour, box in zip(COLOURS, moved.instances.boxes):
        np.testing.assert_allclose(extent(moved.render()[..., :3], colour), box, atol=1.01)


def test_two_flips_restore_image_and_boxes() -> None:
    sample = SCENES[0]
    height, width = sample.image.shape[:2]
    collage = Collage(
        (height, width), (Layer(sample, np.eye(3), (0, 0, width, height)),), Instances(sample.boxes, sample.labels)
    )
    once = collage.transformed(flip_matrix(width), (height, width))
    twice = once.transformed(flip_matrix(width), (height, width))
    np.testing.assert_array_equal(collage.render()[..., :3], sample.image)
    np.testing.assert_array_equal(once.render()[..., :3], sample.image[:, ::-1])
    np.testing.assert_array_equal(twice.render(), collage.render())
    np.testing.assert_allclose(twice.instances.boxes, sample.boxes)


def test_polygons_give_tighter_boxes_than_box_corners() -> None:
    rotation = affine_matrix(30, 1, 0, 0)
    circle = np.stack([40 * np.cos(np.linspace(0, 6.28, 50)), 40 * np.sin(np.linspace(0, 6.28, 50))], 1) + 100
    objects = Instances(np.array([[60.0, 60, 140, 140]]), np.zeros(1, int), ((circle.astype(np.float32),),))
    moved = objects.transformed(translation_matrix(50, 120) @ rotation)
    hull, tight = moved.boxes[0], polygon_boxes(moved.polygons or (), (400, 400))[0]
    assert (tight[:2] > hull[:2] + 10).all() and (tight[2:] < hull[2:] - 10).all()
    np.testing.assert_allclose(tight[2:] - tight[:2], 80, atol=1)
    assert polygon_boxes(((),), (10, 10)).tolist() == [[0, 0, 0, 0]]


@given(st.integers(0, 2**20), st.floats(5, 300), st.integers(3, 9))
@example(6, 274.0, 6)
@settings(max_examples=60, deadline=None)
def test_polygon_boxes_enclose_many_points_on_the_polygons(seed: int, reach: float, corners: int) -> None:
    rng = np.random.default_rng(seed)
    ring = (rng.uniform(-reach, reach, (corners, 2)) + rng.uniform(0, 100, 2)).astype(np.float32)
    if seed % 3 == 0:
        ring = ring.round(-1)  # edges along the border, and points on it
    closed, at = np.concatenate((ring, ring[:1])), np.linspace(0, corners, 20_000)
    dense = np.stack([np.interp(at, np.arange(corners + 1), closed[:, axis]) for axis in (0, 1)], 1)
    inside = dense[((dense >= 0) & (dense <= (100, 80))).all(1)]
    # An edge may touch the image in one point, a corner's, that none of many points on the edge hits.
    near = dense[((dense >= -0.5) & (dense <= (100.5, 80.5))).all(1)]
    (found,) = polygon_boxes(((ring,),), (80, 100))
    if len(inside):
        assert (found[:2] <= inside.min(0) + 1e-3).all() and (found[2:] >= inside.max(0) - 1e-3).all()
    if np.ptp(found.reshape(2, 2), 0).max() > 0.35:
        assert (found[:2] >= near.min(0) - 0.35).all() and (found[2:] <= near.max(0) + 0.35).all()


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ([0, 0, 10, 10], True),
        ([0, 0, 2, 10], False),  # a side of 2 is not above 2
        ([0, 0, 4, 4.5], False),  # 18 % of the area
        ([0, 0, 3, 70], False),  # too long
        ([5, 5, 5, 5], False),
    ],
)
def test_box_filter_drops_the_published_boxes(after: list[float], kept: bool) -> None:
    before = np.array([[0.0, 0, 10, 10]]) if after[3] < 50 else np.array([[0.0, 0, 3, 70]])
    assert BoxFilter()(before, np.array([after], float)).tolist() == [kept]
    assert BoxFilter()(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


# ---------------------------------------------------------------- pixels


def test_neighbouring_tiles_leave_no_gap() -> None:
    white = Sample(np.full((100, 130, 3), 255, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int))
    canvas = Mosaic().collage((white,) * 4, (160, 160), SIZE)
    for seed in range(20):
        matrix, _ = RandomAffine(scale=(0.5, 1.9), translate=0.0).sample_parameters(
            sample_generator(0, 0, seed), canvas.size, SIZE
        )
        middle = canvas.transformed(matrix, SIZE).render()[60:100, 60:100, :3]
        assert (middle == 255).all()


def test_invisible_images_are_not_read_and_visible_ones_once() -> None:
    reads: list[int] = []

    def lazy(index: int) -> LazySample:
        sample = SCENES[index % len(SCENES)]

        def read(level: int, rows: int | None) -> np.ndarray:
            reads.append(index)
            return sample.image

        return LazySample(read, sample.boxes, sample.labels, None, sample.image.shape[:2])

    samples = tuple(lazy(index) for index in range(4))
    canvas = Mosaic().collage(samples, (170, 170), SIZE)
    assert canvas.transformed(translation_matrix(-200, -200), SIZE).render().shape == (160, 160, 4)
    assert reads == [3]
    reads.clear()
    canvas.transformed(translation_matrix(-80, -80), SIZE).render()
    assert sorted(reads) == [0, 1, 2, 3]


@given(st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_rows_that_are_not_read_are_not_visible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = SCENES[seed % len(SCENES)].image
    none = np.zeros((0, 4)), np.zeros(0, int)

    def read(level: int, rows: int | None) -> np.ndarray:
        assert rows is not None
        return image[:rows]

    height, width = image.shape[:2]
    layers = [
        Layer(sample, np.eye(3), (0, 0, width, height))
        for sample in (Sample(image, *none), LazySample(read, *none, None, (height, width)))
    ]
    matrix = translation_matrix(*rng.uniform(-200, 100, 2)) @ affine_matrix(
        *rng.uniform((-40, 0.6, -0.1, -0.1), (40, 2.5, 0.1, 0.1))
    )
    whole, part = (Collage(SIZE, (layer,), Instances(*none)).transformed(matrix, SIZE).render() for layer in layers)
    np.testing.assert_array_equal(whole, part)
    in_sight = cv2.warpAffine(np.full_like(image, 255), matrix[:2], SIZE[::-1])[..., 0] > 250
    if in_sight.any():
        assert (whole[in_sight][:, :3] != 114).any()  # it was not taken for out of sight


def test_an_image_is_decoded_at_the_resolution_that_is_shown() -> None:
    assert [decode_level(scale) for scale in (2, 1, 0.51, 0.5, 0.26, 0.25, 0.1, 0.01)] == [0, 0, 0, 1, 1, 2, 3, 3]
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8), (332, 222))
    small = cv2.resize(image, (166, 111), interpolation=cv2.INTER_AREA)
    levels: list[int] = []

    def read(level: int, rows: int | None) -> np.ndarray:
        levels.append(level)
        return small if level else image

    sample = LazySample(read, np.zeros((0, 4)), np.zeros(0, int), None, image.shape[:2])
    assert read_pixels(sample, 1)[1] == (0.5, 0.5)
    layer = Layer(sample, scale_matrix(0.45, 0.45), (0, 0, 332, 222))
    coarse = Collage((90, 140), (layer,), Instances(np.zeros((0, 4)), np.zeros(0, int))).render()
    assert levels == [1, 1]
    fine = replace(layer, sample=Sample(image, sample.boxes, sample.labels))
    whole = Collage((90, 140), (fine,), Instances(np.zeros((0, 4)), np.zeros(0, int))).render()
    assert np.abs(coarse[:90, :140].astype(int) - whole).mean() < 1.5


@given(st.integers(0, 1000), st.tuples(*[st.integers(30, 190)] * 2), st.sampled_from([0.985, 0.99, 1.0, 1.015]))
@settings(max_examples=20, deadline=None)
def test_hsv_gain_equals_the_published_tables(seed: int, gains: tuple[int, int], hue: float) -> None:
    """Equal but where a product is a whole number up to rounding."""
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    form, steps = HsvGain(), (hue, gains[0] / 100, gains[1] / 100)
    difference = np.abs(form.apply(image, steps).astype(int) - hsv(image, form, steps))
    assert difference.max() <= 2 and difference.mean() < 0.1


def test_hsv_shift_equals_the_published_integers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for steps in [(5, 30, -30), (-5, -30, 30), (0, 0, 0), (4, 0, 29)]:
        difference = np.abs(HsvShift().apply(image, steps).astype(int) - hsv(image, HsvShift(), steps))
        assert difference.mean() < 0.1  # a hue that lies between two numbers may round the other way when reversed
        assert steps[0] < 0 or difference.max() <= 1
    drawn = [HsvShift().sample_parameters(np.random.default_rng(seed)) for seed in range(200)]
    assert {abs(steps[0]) for steps in drawn if steps} <= {0, 1, 2, 3, 4}
    assert sum(steps[1] == 0 for steps in drawn if steps) > 60


def test_the_mean_of_two_images_is_rounded_down() -> None:
    first, second = np.meshgrid(np.arange(256), np.arange(256))
    expected = ((first + second) // 2).astype(np.uint8)
    np.testing.assert_array_equal(average(first.astype(np.uint8), second.astype(np.uint8)), expected)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("out_channels", [3, 4])
@pytest.mark.parametrize("change", [to_rgb, lambda image, out: HsvGain().apply(image, (1.0, 1.0, 1.0), out)])
def test_colour_changes_write_into_the_given_array(change, out_channels, channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    image[..., 3:] = 255
    out = np.full((20, 30, out_channels), 7, np.uint8)
    assert change(image, out).shape == out.shape
    assert np.abs(out[..., :3].astype(int) - image[..., :3]).max() <= 6 and (out[..., 3:] == 255).all()
