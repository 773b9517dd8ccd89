"""DAMO-YOLO's augmentation: boxes fit the pixels of their objects; samples depend on their generator only."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from onelook.augment.damo_yolo import DamoAugment, flip_horizontally
from onelook.augment.geometry import BoxFilter, RandomAffine
from onelook.augment.letterbox import Letterbox
from onelook.augment.mixup import MixUp
from onelook.augment.scale_aware_autoaugment import POLICIES, ScaleAwareAutoAugment
from onelook.recipes import default_recipe
from onelook.types import Sample
from sampling import ListSampler, sample_generator
from scenes import COLOURS, SCENES, SIZE, extent

SAMPLER = ListSampler(SCENES, SIZE, progress=1.0)
OFTEN = ScaleAwareAutoAugment(
    tuple(replace(p, colour_probability=1.0, geometry_probability=1.0) for p in POLICIES), selected=1.0
)
PIPELINES = {
    "published": DamoAugment(),
    "busy": DamoAugment(mix=MixUp(1.0, keep=None), box_level=OFTEN),
    "nano": DamoAugment(affine=RandomAffine(10.0, 0.2, (0.75, 1.25), 0.2)),
    "closing": DamoAugment(box_level=OFTEN).without_mosaic,
    "letterboxed": replace(DamoAugment(box_level=OFTEN).without_mosaic, frame=Letterbox(fill=0)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_sample_depends_on_its_generator_only(name):
    pipeline, before = PIPELINES[name], [sample.image.copy() for sample in SCENES]
    others = 0
    for index in range(6):
        first, again = (pipeline(SCENES[index], SAMPLER, sample_generator(1, 2, index)) for _ in range(2))
        others += not np.array_equal(first.image, pipeline(SCENES[index], SAMPLER, sample_generator(1, 3, index)).image)
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.boxes, again.boxes)
        assert first.image.shape == (*SIZE, 3) and first.image.dtype == np.uint8
        assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64
        assert len(first.boxes) == len(first.labels)
        assert first.boxes.min(initial=0) >= 0 and first.boxes.max(initial=0) <= SIZE[0] + 1e-3
        assert ((first.boxes[:, 2:] - first.boxes[:, :2]) > 0).all()
    assert others >= 4
    for sample, image in zip(SCENES, before):
        np.testing.assert_array_equal(sample.image, image)


@pytest.mark.parametrize("with_polygons", [True, False])
def test_boxes_fit_the_pixels_of_their_objects(with_polygons):
    upright = DamoAugment(affine=RandomAffine(0.0, 0.2, (0.5, 1.5), 0.0), mix=None, box_level=None)
    samples = [s if with_polygons else replace(s, polygons=None) for s in SCENES]
    seen = 0
    for index in range(20):
        found = upright(samples[index % 12], ListSampler(samples, SIZE), sample_generator(0, 0, index))
        for label, box in zip(found.labels, found.boxes):
            if (found.labels == label).sum() == 1 and (here := extent(found.image, COLOURS[label])) is not None:
                np.testing.assert_allclose(here, box, atol=2.5)
                seen += 1
    assert seen > 8


def test_the_closing_epochs_stretch_the_image_and_flip_it():
    closing = DamoAugment(box_level=None).without_mosaic
    sample = SCENES[3]
    expected = cv2.resize(sample.image, SIZE[::-1])
    scale = np.array(SIZE[::-1] * 2) / np.array(sample.image.shape[1::-1] * 2)
    images = []
    for seed in range(8):
        found = closing(sample, SAMPLER, sample_generator(0, 0, seed))
        flipped = not np.array_equal(found.image, expected)
        np.testing.assert_array_equal(found.image, expected[:, ::-1] if flipped else expected)
        there = flip_horizontally(found).boxes if flipped else found.boxes
        np.testing.assert_allclose(there, sample.boxes * scale, rtol=1e-5)
        images.append(flipped)
    assert set(images) == {True, False}
    assert not closing.uses_polygons and DamoAugment().uses_polygons


def test_an_image_without_objects_is_accepted():
    empty = Sample(SCENES[0].image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for pipeline in PIPELINES.values():
        found = pipeline(empty, ListSampler([empty], SIZE, 1.0), sample_generator(0, 0, 0))
        assert found.image.shape == (*SIZE, 3) and found.boxes.shape == (0, 4)


@pytest.mark.parametrize("side", [96, 224, 416, 640])
def test_limits_of_object_sizes_follow_the_input(side):
    """Stated for 640 pixels, they are as many pixels of the input as a mosaic of 640 pixels would be shrunk by."""
    size, part = (side, side), side / 640
    published = default_recipe("damo-yolo-ns").augment
    scaled = replace(published, keep=BoxFilter(2.0 * part, 0.1, 20.0), smallest=4.0 * part**2, reference_side=None)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (60, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(0.5, 12, (60, 2))), 1).astype(np.float32)
    sample = Sample(SCENES[0].image, boxes, np.arange(60))
    sampler = ListSampler([sample], size, 1.0)
    counts = []
    for index in range(8):
        found, expected = (kind(sample, sampler, sample_generator(0, 0, index)) for kind in (published, scaled))
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        fixed = replace(published, reference_side=None)(sample, sampler, sample_generator(0, 0, index))
        counts.append(len(found.labels) - len(fixed.labels))
    assert sum(counts) > 0 if side < 640 else not any(counts)


def test_a_reference_side_is_above_0():
    with pytest.raises(ValueError, match="reference_side is a number of pixels above 0"):
        DamoAugment(reference_side=0)
