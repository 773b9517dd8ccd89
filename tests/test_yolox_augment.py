"""YOLOX's augmentation: samples depend on their generator only, equal the plain reference, and keep published edges."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from baseline.augment import Textbook
from onelook.augment.copy_paste import CopyPaste, remove_occluded
from onelook.augment.geometry import (
    BoxFilter,
    RandomAffine,
)
from onelook.augment.instances import Instances
from onelook.augment.mixup import MixUp
from onelook.augment.yolox import YOLOX_OCTOBER_2021, YOLOX_PAPER, SingleImageAugment, YoloxAugment
from sampling import ListSampler, sample_generator
from scenes import COLOURS, SAMPLER, SCENES, SIZE, extent

PIPELINES = {
    "paper": YOLOX_PAPER,
    "later": YOLOX_OCTOBER_2021,
    "nano": YoloxAugment(mosaic=0.5, affine=RandomAffine(scale=(0.5, 1.5)), mix=None),
    "copy-paste": YoloxAugment(mix=CopyPaste()),
    "plain": SingleImageAugment(),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_sample_depends_on_its_generator_only(name: str) -> None:
    pipeline = PIPELINES[name]
    before = [sample.image.copy() for sample in SCENES]
    for index in range(6):
        first = pipeline(SCENES[index], SAMPLER, sample_generator(1, 2, index))
        again = pipeline(SCENES[index], SAMPLER, sample_generator(1, 2, index))
        other = pipeline(SCENES[index], SAMPLER, sample_generator(1, 3, index))
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.boxes, again.boxes)
        assert not np.array_equal(first.image, other.image)
        assert first.image.shape == (*SIZE, 3) and first.image.dtype == np.uint8
        assert first.boxes.dtype == np.float32 and first.labels.dtype == np.int64
        assert len(first.boxes) == len(first.labels)
        assert first.boxes.min(initial=0) >= 0 and first.boxes.max(initial=0) <= SIZE[0]
    for sample, image in zip(SCENES, before):
        np.testing.assert_array_equal(sample.image, image)


@pytest.mark.parametrize("name", ["paper", "later", "nano"])
def test_the_plain_reference_makes_the_same_samples(name: str) -> None:
    """The same random numbers give the same objects; pixels differ by half a pixel of place and one resampling less."""
    pipeline = PIPELINES[name]
    assert isinstance(pipeline, YoloxAugment)
    textbook, ours_levels, their_levels = Textbook(pipeline), [], []
    for index in range(40):
        sample = SCENES[index % len(SCENES)]
        ours = pipeline(sample, SAMPLER, sample_generator(0, 0, index))
        theirs, rows = textbook(sample, SAMPLER, sample_generator(0, 0, index))
        np.testing.assert_array_equal(ours.labels, rows[:, 0])
        np.testing.assert_allclose(ours.boxes, rows[:, 1:], atol=2)  # the textbook truncates twice
        image = theirs.transpose(1, 2, 0)
        assert np.abs(cv2.blur(ours.image, (5, 5)).astype(float) - cv2.blur(image, (5, 5))).mean() < 3
        ours_levels.append([ours.image.mean(), ours.image.std()])
        their_levels.append([image.mean(), image.std()])
    np.testing.assert_allclose(np.mean(ours_levels, 0), np.mean(their_levels, 0), atol=0.5)


def test_an_image_without_objects_is_only_resized() -> None:
    sample = replace(SCENES[0], boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), polygons=None)
    empty = ListSampler((sample,), SIZE)
    resized = SingleImageAugment()(sample, empty, sample_generator(0, 0, 0))
    np.testing.assert_array_equal(resized.image, SingleImageAugment().frame(sample.image, SIZE)[0])
    assert resized.boxes.shape == (0, 4)
    mosaic = YOLOX_PAPER(sample, empty, sample_generator(0, 0, 0))
    still = replace(YOLOX_PAPER, hsv=None, flip=0.0, mix=None)(sample, empty, sample_generator(0, 0, 0))
    np.testing.assert_array_equal(mosaic.image, still.image)


def test_if_all_objects_are_too_small_they_are_kept_and_the_image_is_not_changed() -> None:
    sample = replace(SCENES[0], boxes=np.array([[5, 5, 8, 9], [4, 4, 4, 9]], np.float32), polygons=None)
    found = SingleImageAugment(flip=1.0, smallest=50)(sample, SAMPLER, sample_generator(0, 0, 1))
    np.testing.assert_array_equal(found.image, SingleImageAugment().frame(sample.image, SIZE)[0])
    assert len(found.boxes) == 1


def test_a_flip_stays_inside_the_letterbox() -> None:
    sample = SCENES[1]
    still = SingleImageAugment(hsv=None, flip=0.0)(sample, SAMPLER, sample_generator(0, 0, 0))
    flipped = SingleImageAugment(hsv=None, flip=1.0)(sample, SAMPLER, sample_generator(0, 0, 0))
    for colour, box in zip(COLOURS, flipped.boxes):
        np.testing.assert_allclose(extent(flipped.image, colour), box, atol=1.5)
    # The padding stays at the right and the bottom, as in prediction.
    height, width = SingleImageAugment().frame.get_transform(sample.image.shape[:2], SIZE)[1]
    assert (flipped.image[height:] == 114).all() and (flipped.image[:, width:] == 114).all()
    np.testing.assert_array_equal(flipped.image[:height, :width], still.image[:height, :width][:, ::-1])


def test_mixup_without_a_surviving_object_blends_nothing() -> None:
    strict = YoloxAugment(mix=MixUp(keep=BoxFilter(side=1e9)))
    without = replace(strict, mix=None)
    rng = sample_generator(0, 0, 5)
    mixed = strict(SCENES[5], SAMPLER, rng)
    assert mixed.image.max() > 0
    assert MixUp(keep=BoxFilter(side=1e9)).sample_parameters(SAMPLER, sample_generator(0, 0, 1)) is None
    assert MixUp(probability=0.0).sample_parameters(SAMPLER, sample_generator(0, 0, 1)) is None
    assert without.mix is None


def test_mixup_boxes_fit_the_pixels_of_the_second_image() -> None:
    for seed in range(20):
        blend = MixUp(keep=None).sample_parameters(SAMPLER, sample_generator(0, 1, seed))
        assert blend is not None
        for turned in (blend, blend.flipped()):
            image = turned.mix_image.render()
            for colour, box in zip(COLOURS, turned.instances.boxes):
                found = extent(image, colour)
                if found is not None and (box[2:] - box[:2]).min() > 4:
                    np.testing.assert_allclose(found, box, atol=2)


def test_copy_paste_pastes_pixels_and_removes_covered_objects() -> None:
    pasted = 0
    for seed in range(30):
        paste = CopyPaste(part=1.0).sample_parameters(SAMPLER, sample_generator(0, 2, seed))
        if paste is None:
            continue
        pasted += 1
        image = paste.apply(np.full((*SIZE, 3), 200, np.uint8))
        for label, box in zip(paste.pasted.labels, paste.pasted.boxes):
            found = extent(image, COLOURS[label])
            if found is not None:
                assert (found[:2] >= box[:2] - 2).all() and (found[2:] <= box[2:] + 2).all()
        everywhere = Instances(np.array([[0.0, 0, 160, 160]]), np.array([7]))
        assert len(paste.add_instances(everywhere)) == len(paste.pasted) + 1
    assert pasted > 10
    without_polygons = ListSampler(tuple(replace(sample, polygons=None) for sample in SCENES), SIZE)
    assert CopyPaste().sample_parameters(without_polygons, sample_generator(0, 0, 0)) is None


def test_an_object_behind_a_pasted_one_keeps_its_visible_part() -> None:
    square = np.array([[20, 20], [60, 20], [60, 60], [20, 60]], np.float32)
    objects = Instances(np.array([[20.0, 20, 60, 60], [70, 70, 90, 90]]), np.array([1, 2]), ((square,), ()))
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 40:65] = 255
    seen = remove_occluded(objects, mask, 0.1)
    np.testing.assert_allclose(seen.boxes, [[20, 20, 40, 60], [70, 70, 90, 90]], atol=1)
    assert seen.polygons is not None and seen.polygons[0][0][:, 0].max() <= 40
    mask[:, 10:65] = 255
    assert remove_occluded(objects, mask, 0.1).labels.tolist() == [2]
