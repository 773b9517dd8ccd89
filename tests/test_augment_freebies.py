"""Darknet's augmentation against a plain reference and its golden, and the augmentations of finished images."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.augment.batch_augment import AugmentedSampler, OneOf, WithBatchAugments
from onelook.augment.blur import Blur
from onelook.augment.classifier import CentreCrop, ClassifierAugment
from onelook.augment.cutmix import CutMix, remove_covered
from onelook.augment.darknet import Crop, DarknetAugment, Tile, clip_to_rectangle, drop_small
from onelook.augment.geometry import translation_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.mixup import BatchMixUp
from onelook.augment.mosaic import BatchMosaic, quarter
from onelook.augment.random_erasing import CutOut, GridMask, HideAndSeek, RandomErase
from onelook.augment.yolox import SingleImageAugment
from onelook.config import from_plain, to_plain
from onelook.recipes import RECIPE_TYPES
from onelook.types import Sample
from sampling import ListSampler, sample_generator
from scenes import SCENES, SIZE
from shared import needs_shared, reference
from training import changed

SAMPLER = ListSampler(SCENES, SIZE)
IMAGES = AugmentedSampler(SingleImageAugment(hsv=None), SAMPLER)
EXTRAS = (CutOut(1), RandomErase(1), HideAndSeek(1), GridMask(1), Blur(1, 0), Blur(0, 1), CutMix(1), BatchMixUp(1))


# Darknet


def textbook(crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The input that one crop fills, pixel by pixel on a padded copy."""
    x1, y1, x2, y2 = crop.rectangle
    image = crop.sample.image
    mean = image.mean((0, 1))
    far = 400
    padded = np.empty((image.shape[0] + 2 * far, image.shape[1] + 2 * far, 3), np.uint8)
    padded[:] = mean.round()
    padded[far:-far, far:-far] = image
    filled = cv2.resize(padded[far + y1 : far + y2, far + x1 : far + x2], size[::-1])
    return filled[:, ::-1] if crop.flips else filled


@pytest.mark.parametrize("settings", [{}, {"resize": 1.5}, {"letterbox": True, "jitter": 0.1}], ids=str)
def test_every_pixel_of_a_mosaic_equals_the_reference(settings):
    augment = DarknetAugment(hsv=None, mosaic=1, **settings)
    for seed in range(4):
        rng = sample_generator(0, 0, seed)
        crops = [augment.sample_parameters(SCENES[seed + tile], SIZE, tile, rng) for tile in range(4)]
        tiles = [Tile(crop, *quarter(number, (70, 90), SIZE, crop.padding(SIZE))) for number, crop in enumerate(crops)]
        made = augment.render(tiles, SIZE).image.astype(int)
        for tile in tiles:
            x1, y1, x2, y2 = tile.rectangle
            dx, dy = tile.move
            wanted = textbook(tile.crop, SIZE)[y1 - dy : y2 - dy, x1 - dx : x2 - dx].astype(int)
            difference = np.abs(made[y1:y2, x1:x2] - wanted).max(-1)
            # Where the image meets its padding, one blends and the other does not.
            assert np.mean(difference <= 3) > 0.93, (seed, tile.rectangle)


def test_boxes_fit_the_pixels_of_their_objects():
    colours = {0: (255, 0, 0), 1: (0, 255, 0)}
    for seed in range(20):
        made = DarknetAugment(hsv=None, mosaic=seed % 2)(SCENES[seed % 12], SAMPLER, sample_generator(1, 0, seed))
        assert made.image.shape == (*SIZE, 3) and made.image.dtype == np.uint8
        assert (made.boxes >= 0).all() and (made.boxes <= SIZE[0]).all()
        for label, colour in colours.items():
            inside = np.zeros(SIZE, bool)
            for x1, y1, x2, y2 in made.boxes[made.labels == label].round().astype(int):
                inside[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            shown = np.abs(made.image.astype(int) - colour).max(-1) < 20
            assert (shown & ~inside).sum() <= 0.02 * max(shown.sum(), 50)


@needs_shared
@pytest.mark.parametrize("bound", [False, True])
def test_mosaic_moves_boxes_as_darknet_does(bound):
    with np.load(reference("yolov4") / "preprocess.npz") as file:
        given_truths, moves = file["mosaic_input"], file["mosaic_shift_left_right_top_bottom"]
        width, height, x, y = file["mosaic_size_cut"].tolist()
        wanted = file[f"mosaic_truth_bound{int(bound)}"]
    wanted, size, found = wanted[wanted[:, 2] > 0], (height, width), []
    for number, (padded, (left, right, top, bottom)) in enumerate(zip(given_truths, moves.tolist())):
        truths = padded[padded[:, 2] > 0].astype(float)
        low, sides = truths[:, :2] - truths[:, 2:4] / 2, truths[:, 2:4]
        boxes = np.concatenate((low, low + sides), 1) * np.array((width, height, width, height))
        move, place = quarter(number, (x, y), size, (left, top, right, bottom))
        objects = Instances(boxes, truths[:, 4].astype(int)).transformed(translation_matrix(*move))
        found.append(drop_small(clip_to_rectangle(objects, place) if bound else objects.clipped(size)))
    objects = concatenate(found)
    assert objects.labels.tolist() == wanted[:, 4].astype(int).tolist()
    scale = np.array((width, height))
    centres = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    # Darknet cuts whole pixels off, so that edges at the border differ by less than one.
    tolerance = 0.51 if not bound else 1.01
    assert np.abs(centres - wanted[:, :2] * scale).max() < tolerance
    assert np.abs(objects.boxes[:, 2:] - objects.boxes[:, :2] - wanted[:, 2:4] * scale).max() < 2 * tolerance


def test_the_augmentation_is_a_pure_function_of_its_generator():
    one, two = (DarknetAugment(mosaic=1)(SCENES[0], SAMPLER, sample_generator(3, 1, 4)) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.boxes, two.boxes)


def test_colour_change_of_zero_keeps_the_image():
    from onelook.augment.colour import HsvScale

    image = SCENES[0].image
    scale = HsvScale(hue=0, saturation=1, exposure=1)
    assert np.abs(scale.apply(image, scale.sample_parameters(sample_generator(0, 0, 0))).astype(int) - image).max() <= 5
    darker = HsvScale(0, 1, 1).apply(image, (0.0, 1.0, 0.5))
    assert np.abs(darker.max(-1) - image.max(-1) / 2).max() <= 1


# Of finished images


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: type(extra).__name__)
def test_a_batch_augment_keeps_the_size_and_its_input_and_changes_pixels(extra):
    changes = []
    for seed in range(5):
        image = IMAGES(sample_generator(0, 1, seed))
        before, boxes = image.image.copy(), image.boxes.copy()
        made = extra(image, IMAGES, sample_generator(0, 2, seed))
        assert np.array_equal(image.image, before) and np.array_equal(image.boxes, boxes)
        assert made.image.shape == before.shape and made.image.dtype == np.uint8
        changes.append(not np.array_equal(made.image, before))
        assert len(made.boxes) == len(made.labels) and (made.boxes[:, 2:] > made.boxes[:, :2]).all()
        again = extra(image, IMAGES, sample_generator(0, 2, seed))
        assert np.array_equal(made.image, again.image)
        never = replace(extra, probability=0) if hasattr(extra, "probability") else Blur(0, 0)
        assert never(image, IMAGES, sample_generator(0, 2, seed)) is image
    assert sum(changes) >= 3  # a hole may fall on the grey around the image, small objects forbid much blur


def test_cutmix_shows_the_other_image_in_one_rectangle():
    first, second = IMAGES(sample_generator(0, 1, 0)), IMAGES(sample_generator(0, 1, 1))

    class Second:
        size, progress = SIZE, 0.0

        def __call__(self, rng):
            return second

    made = CutMix(1, visible=0.3)(first, Second(), sample_generator(0, 0, 0))
    foreign = (made.image != first.image).any(-1)
    rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
    place = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    assert np.array_equal(made.image[place], second.image[place])
    assert 0.25 < len(rows) / SIZE[0] < 0.85 and len(made.boxes) >= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=8, max_size=8))
def test_the_rest_of_a_covered_box_fits_its_visible_pixels(numbers):
    x1, y1, x2, y2 = (*numbers[:2], numbers[0] + numbers[2] + 1, numbers[1] + numbers[3] + 1)
    left, top, right, bottom = (*numbers[4:6], numbers[4] + numbers[6] + 1, numbers[5] + numbers[7] + 1)
    pixels = np.zeros((80, 80), bool)
    pixels[y1:y2, x1:x2] = True
    whole = pixels.sum()
    pixels[top:bottom, left:right] = False
    objects = remove_covered(
        Instances(np.array([[x1, y1, x2, y2]], float), np.array([0])), np.array((left, top, right, bottom), float), 0.3
    )
    assert len(objects) == (pixels.sum() >= 0.3 * whole)
    if len(objects):
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        assert objects.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_erased_parts_have_the_given_sizes():
    white = Sample(np.full((100, 100, 3), 255, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    rng = sample_generator(0, 0, 0)
    holes = [(CutOut(1, 0.4, 0)(white, SAMPLER, rng).image == 0).all(-1).mean() for _ in range(200)]
    assert max(holes) == pytest.approx(0.16, abs=0.01)
    grid = [(GridMask(1, (0.2, 0.2), 0.5, 0)(white, SAMPLER, rng).image == 0).mean() for _ in range(20)]
    assert np.mean(grid) == pytest.approx(0.25, abs=0.01)
    noise = [(RandomErase(1, (0.1, 0.1), 1.0)(white, SAMPLER, rng).image != 255).any(-1).mean() for _ in range(20)]
    assert np.mean(noise) == pytest.approx(0.1, abs=0.02)
    black = replace(white, image=np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 3, 2).repeat(100, 1))
    seeks = [(HideAndSeek(1, (20,))(black, SAMPLER, rng).image != black.image).any(-1).mean() for _ in range(50)]
    assert np.mean(seeks) == pytest.approx(0.5, abs=0.1)


def test_blur_of_the_background_keeps_the_objects_sharp():
    image = IMAGES(sample_generator(0, 1, 2))
    made = Blur(whole=0, background=1)(image, IMAGES, sample_generator(0, 0, 0))
    for x1, y1, x2, y2 in image.boxes.round().astype(int):
        assert np.array_equal(made.image[y1:y2, x1:x2], image.image[y1:y2, x1:x2])


def test_extras_follow_the_augmentation_until_the_closing_epochs():
    from onelook.training.recipe import Closing

    plain = SingleImageAugment(hsv=None)
    recipe = changed(augment=plain, batch_augments=(CutMix(1), CutOut()), closing=Closing(1, augment=plain))
    assert recipe.augment_at(0) == WithBatchAugments(plain, recipe.batch_augments) and recipe.augment_at(3) is plain
    assert recipe.augment_at(0).uses_polygons is plain.uses_polygons
    assert from_plain(to_plain(recipe.batch_augments[0]), RECIPE_TYPES) == CutMix(1)
    made = recipe.augment_at(0)(SCENES[0], SAMPLER, sample_generator(0, 0, 0))
    assert made.image.shape == (*SIZE, 3)


# For classifiers


def class_image(label: int) -> Sample:
    image = np.full((50, 80, 3), 40 * label, np.uint8)
    return Sample(image, np.array([[0, 0, 80, 50]], np.float32), np.array([label]))


CLASS_SAMPLER = ListSampler([class_image(label) for label in range(6)], (64, 64))
CLASS_IMAGES = AugmentedSampler(CentreCrop(), CLASS_SAMPLER)


@pytest.mark.parametrize("extra", [CutMix(1), BatchMixUp(1), BatchMosaic(1)], ids=lambda e: type(e).__name__)
def test_shares_are_the_areas_of_the_classes(extra):
    for seed in range(10):
        rng = sample_generator(2, 0, seed)
        made = extra(CLASS_IMAGES(rng), CLASS_IMAGES, rng)
        assert made.shares is not None and made.shares.sum() == pytest.approx(1, abs=1e-5)
        assert len(set(made.labels.tolist())) == len(made.labels) == len(made.shares)
        if not isinstance(extra, BatchMixUp):
            for label, share in zip(made.labels, made.shares):
                assert (made.image[..., 0] == 40 * label).mean() == pytest.approx(share, abs=1e-6)


def test_one_of_several_augmentations_is_chosen_equally_often():
    either = OneOf((CutOut(1, fill=1), CutOut(1, fill=2)), probability=0.5)
    rng = sample_generator(0, 0, 0)
    image = replace(CLASS_IMAGES(rng), image=np.full((64, 64, 3), 255, np.uint8))
    kinds = [int(either(image, CLASS_IMAGES, rng).image.min()) for _ in range(400)]
    assert {kind: kinds.count(kind) for kind in (1, 2)} == pytest.approx({1: 100, 2: 100}, abs=40)


def test_classifier_images_fill_the_input_with_the_image():
    for seed in range(10):
        made = ClassifierAugment(shorter=(1.5, 1.75), degrees=0, hsv=None)(
            class_image(5), CLASS_SAMPLER, sample_generator(0, 0, seed)
        )
        assert made.image.shape == (64, 64, 3) and (made.image == 200).all()
        assert made.labels.tolist() == [5] and made.shares.tolist() == [1.0]
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 40:80] = 255
    middle = CentreCrop()(replace(class_image(1), image=image), CLASS_SAMPLER, sample_generator(0, 0, 0))
    assert middle.image.shape == (64, 64, 3) and (middle.image[:, 3:-3] > 250).all()
