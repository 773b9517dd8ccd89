"""YOLOv7's augmentation: mosaics of nine, MixUp, pasted objects; boxes fit the pixels of their objects."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from onelook.augment.geometry import BoxFilter, RandomAffine
from onelook.augment.lazy_sample import LazySample
from onelook.augment.mixup import BetaMixUp
from onelook.augment.mosaic import Mosaic9
from onelook.augment.perspective import Perspective, project_instances, project_points
from onelook.augment.yolov7 import Yolov7Augment, flip_sample
from onelook.augment.yolov7_copy_paste import Yolov7CopyPaste
from onelook.types import Sample
from sampling import ListSampler, sample_generator
from scenes import COLOURS, SAMPLER, SCENES, SIZE, extent
from shared import needs_shared, reference

NO_AFFINE = RandomAffine(degrees=0.0, translate=0.0, scale=(1.0, 1.0), shear=0.0)
MOSAIC_ONLY = Yolov7Augment(affine=NO_AFFINE, mix=None, hsv=None, paste=None, flip=0.0)
PIPELINES = {
    "published": Yolov7Augment(),
    "four": Yolov7Augment(nine=0.0, mix=BetaMixUp(1.0), paste=Yolov7CopyPaste(1.0)),
    "nine": Yolov7Augment(nine=1.0, mix=BetaMixUp(1.0), paste=Yolov7CopyPaste(1.0), flip_vertical=0.5),
    "no mosaic": Yolov7Augment(mosaic=0.0, paste=Yolov7CopyPaste(1.0)),
    "tilted": Yolov7Augment(perspective=Perspective(0.001), affine=RandomAffine(10.0, 0.1, (0.8, 1.2), 2.0)),
    "rotated": Yolov7Augment(affine=RandomAffine(30.0, 0.2, (0.5, 1.6), 5.0)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_sample_depends_on_its_generator_only(name):
    pipeline, before = PIPELINES[name], [sample.image.copy() for sample in SCENES]
    for index in range(6):
        first, again = (pipeline(SCENES[index], SAMPLER, sample_generator(1, 2, index)) for _ in range(2))
        other = pipeline(SCENES[index], SAMPLER, sample_generator(1, 3, index))
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.boxes, again.boxes)
        assert not np.array_equal(first.image, other.image)
        assert first.image.shape == (*SIZE, 3) and first.image.dtype == np.uint8
        assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64
        assert len(first.boxes) == len(first.labels) == len(first.polygons)
        assert first.boxes.min(initial=0) >= 0 and first.boxes.max(initial=0) <= SIZE[0]
        assert ((first.boxes[:, 2:] - first.boxes[:, :2]) > 2).all()
    for sample, image in zip(SCENES, before):
        np.testing.assert_array_equal(sample.image, image)


def white(height: int, width: int) -> LazySample:
    none = np.zeros((0, 4), np.float32)
    return LazySample(
        lambda level: np.full((height, width, 3), 255, np.uint8), none, np.zeros(0, int), None, (height, width)
    )


def test_nine_images_lie_around_the_first_as_published():
    """Sides (height, width) of nine images that need no resizing at 100 pixels, on a canvas of 300 seen from (0, 0)."""
    sides = [(100, 80), (100, 50), (60, 100), (100, 70), (40, 100), (100, 30), (100, 90), (20, 100), (100, 10)]
    collage = Mosaic9().collage(tuple(white(*own) for own in sides), (0, 0), (100, 100))
    corners = [layer.matrix[:2, 2].tolist() for layer in collage.layers]
    s = 100
    expected = [
        (s, s),
        (s, s - 100),
        (s + 50, s - 60),
        (s + 80, s),
        (s + 80, s + 100),
        (s + 80 - 30, s + 100),
        (s + 80 - 30 - 90, s + 100),
        (s - 100, s + 100 - 20),
        (s - 10, s + 100 - 20 - 100),
    ]
    inside = [corner for corner in expected if min(corner) < 200 and max(corner) < 200]
    assert corners == [list(corner) for corner in inside]
    assert collage.size == (200, 200)
    moved = Mosaic9().collage(tuple(white(*own) for own in sides), (30, 99), (100, 100))
    assert moved.layers[0].matrix[:2, 2].tolist() == [70, 1]


def test_boxes_of_a_mosaic_of_nine_fit_the_pixels():
    seen = 0
    for seed in range(12):
        collage = Mosaic9().collage(
            *Mosaic9().sample_parameters(SCENES[seed], SAMPLER, sample_generator(0, 5, seed)), SIZE
        )
        image = collage.render()[..., :3]
        for box, label in zip(collage.instances.boxes.round().astype(int), collage.instances.labels):
            x1, y1, x2, y2 = box
            if min(x2 - x1, y2 - y1) < 8:
                continue
            # Later images may cover it; what shows its colour shows it inside the box.
            middle = image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
            seen += np.abs(middle - COLOURS[label]).sum() < 60
    assert seen > 40


def test_one_image_without_mosaic_is_centred_and_keeps_its_objects():
    pipeline = replace(MOSAIC_ONLY, mosaic=0.0)
    sample = SCENES[2]
    made = pipeline(sample, SAMPLER, sample_generator(0, 0, 0))
    letterboxed, transform = pipeline.frame(sample.image, SIZE)
    assert np.abs(cv2.blur(made.image, (5, 5)).astype(int) - cv2.blur(letterboxed, (5, 5))).mean() < 3
    np.testing.assert_allclose(made.boxes, transform.to_input(sample.boxes), atol=0.5)
    for colour, box in zip(COLOURS, made.boxes):
        np.testing.assert_allclose(extent(made.image, colour), box, atol=2)


def test_boxes_of_objects_with_polygons_enclose_the_visible_part():
    """A disc whose centre is outside the image: its box ends where the disc does, not where its corner does."""
    angles = np.linspace(0, 2 * np.pi, 90)
    ring = (np.stack([np.cos(angles), np.sin(angles)], 1) * 60 + (80, 20)).astype(np.float32)
    sample = Sample(
        SCENES[0].image[:160, :160], np.array([[20, -40, 140, 80]], np.float32), np.zeros(1, int), ((ring,),)
    )
    square = replace(sample, image=np.zeros((160, 160, 3), np.uint8))
    made = replace(MOSAIC_ONLY, mosaic=0.0)(square, SAMPLER, sample_generator(0, 0, 0))
    np.testing.assert_allclose(made.boxes, [[20, 0, 140, 80]], atol=0.5)
    shifted = replace(square, boxes=square.boxes - (0, 50, 0, 50), polygons=((ring - np.float32([0, 50]),),))
    made = replace(MOSAIC_ONLY, mosaic=0.0)(shifted, SAMPLER, sample_generator(0, 0, 0))
    half_width = np.sqrt(60**2 - 30**2)
    np.testing.assert_allclose(made.boxes, [[80 - half_width, 0, 80 + half_width, 30]], atol=1)
    plain = replace(MOSAIC_ONLY, mosaic=0.0)(replace(shifted, polygons=None), SAMPLER, sample_generator(0, 0, 0))
    np.testing.assert_allclose(plain.boxes, [[20, 0, 140, 30]], atol=0.5)


def test_mixup_is_rounded_down():
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for share in (0.25, 0.5, 0.7):
        exact = first * share + second * (1 - share)
        # Where the exact value is a whole number, rounding of the ratio decides.
        difference = np.abs(BetaMixUp.apply(first, second, share).astype(int) - np.floor(exact + 1e-4))
        assert difference.max() <= 1 and difference.mean() < 0.01
    shares = [BetaMixUp(1.0).sample_parameters(np.random.default_rng(seed)) for seed in range(300)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03) and np.std(shares) == pytest.approx(0.121, abs=0.02)
    assert BetaMixUp(0.0).sample_parameters(np.random.default_rng(0)) is None


def test_objects_are_pasted_into_free_places():
    paste, count = Yolov7CopyPaste(1.0), 0
    for seed in range(20):
        canvas = MOSAIC_ONLY.letterboxed(SCENES[seed % 12], SAMPLER)
        pasted = paste.sample_parameters(canvas.instances, SAMPLER, sample_generator(0, 2, seed))
        image = Yolov7CopyPaste.apply(np.full((*SIZE, 3), 90, np.uint8), pasted)
        found = Yolov7CopyPaste.add_instances(canvas.instances, pasted)
        assert len(found) == len(canvas.instances) + len(pasted)
        covered = np.zeros(SIZE, bool)
        for one in reversed(pasted):  # the last lies on top
            x1, y1, x2, y2 = one.box.astype(int)
            middle = ((y1 + y2) // 2, (x1 + x2) // 2)
            if not covered[middle]:
                assert np.abs(image[middle].astype(int) - COLOURS[one.label]).sum() < 60
            covered[y1:y2, x1:x2] = True
            count += 1
            common = np.clip(
                np.minimum(canvas.instances.boxes[:, 2:], one.box[2:])
                - np.maximum(canvas.instances.boxes[:, :2], one.box[:2]),
                0,
                None,
            ).prod(1)
            assert (common < 0.3 * (canvas.instances.boxes[:, 2:] - canvas.instances.boxes[:, :2]).prod(1)).all()
    assert count > 15
    without_polygons = ListSampler(tuple(replace(sample, polygons=None) for sample in SCENES), SIZE)
    assert paste.sample_parameters(canvas.instances, without_polygons, sample_generator(0, 0, 0)) == ()
    assert Yolov7CopyPaste(0.0).sample_parameters(canvas.instances, SAMPLER, sample_generator(0, 0, 0)) == ()


def test_perspective_transforms_objects_with_the_image():
    for seed in range(8):
        pipeline = replace(MOSAIC_ONLY, mosaic=0.0, perspective=Perspective(0.002))
        made = pipeline(SCENES[seed], SAMPLER, sample_generator(0, 3, seed))
        letterboxed = pipeline.letterboxed(SCENES[seed], SAMPLER)
        assert np.abs(made.boxes - letterboxed.instances.boxes).max() > 0.5
        for colour, box in zip(COLOURS, made.boxes):
            np.testing.assert_allclose(extent(made.image, colour), box, atol=2.5)


def test_perspective_without_tilt_is_affine_and_objects_behind_the_horizon_are_empty():
    canvas = MOSAIC_ONLY.letterboxed(SCENES[0], SAMPLER)
    matrix = Perspective(0.0).sample_parameters(np.random.default_rng(0), canvas.size)
    np.testing.assert_array_equal(project_instances(canvas.instances, matrix).boxes, canvas.instances.boxes)
    np.testing.assert_array_equal(
        Perspective.transformed(canvas, matrix, SIZE).render()[..., :3], canvas.render()[..., :3]
    )
    tilt = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])  # a horizon at x = 100
    moved, before = project_points(np.array([[50.0, 10], [150, 10]]), tilt)
    np.testing.assert_allclose(moved[0], [100, 20])
    assert before.tolist() == [True, False]
    boxes = np.array([[80.0, 0, 120, 9]] * len(canvas.instances))
    behind = project_instances(replace(canvas.instances, boxes=boxes), tilt)
    assert not behind.boxes.any() and behind.polygons == ((),) * len(behind)


def test_flips_apply_to_image_boxes_and_polygons():
    sample = SCENES[4]
    canvas = MOSAIC_ONLY.letterboxed(sample, SAMPLER)
    image = canvas.render()[..., :3]
    for turns in ((True, False), (False, True), (True, True)):
        made = flip_sample(image, canvas.instances, *turns)
        for colour, box in zip(COLOURS, made.boxes):
            np.testing.assert_allclose(extent(made.image, colour), box, atol=2)
        for box, rings in zip(made.boxes, made.polygons):
            np.testing.assert_allclose(rings[0].min(0), box[:2], atol=1e-3)


@needs_shared
def test_box_filter_keeps_the_published_boxes():
    facts = json.loads((reference("yolov7") / "details.json").read_text())["box_candidates"]
    before, after = np.array(facts["before"]), np.array(facts["after"])
    for threshold, kept in facts["keep_at_area_threshold"].items():
        assert BoxFilter(side=2.0, area=float(threshold), aspect=20.0)(before, after).tolist() == kept
