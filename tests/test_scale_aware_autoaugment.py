"""Scale-aware AutoAugment against the published numbers, and properties that hold for any image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.augment.scale_aware_autoaugment import POLICIES, Policy, ScaleAwareAutoAugment, apply_geometry, gaussian
from onelook.types import Sample
from sampling import ListSampler
from shared import needs_shared, reference

COLOURS = {
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "SolarizeAdd": "solarize_add",
    "Color": "color",
    "Contrast": "contrast",
    "Brightness": "brightness",
    "Sharpness": "sharpness",
}
GEOMETRY = {
    "hflip": ("hflip", 5, 1e-3),
    "rotate": ("rotate", 5, 2.0),  # the published crops go through 8-bit images
    "shearX": ("shear_x", 5, 2.0),
    "shearY": ("shear_y", 5, 2.0),
    "translateX": ("translate_x", 0.5, 1e-3),
    "translateY": ("translate_y", 0.5, 1e-3),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(reference("damo_yolo") / "sada.npz") as file:
        return {name: file[name] for name in file.files}


def golden_image(golden):
    return np.ascontiguousarray(golden["image"].transpose(1, 2, 0))


@needs_shared
def test_gaussians_and_probabilities_are_the_published_ones(golden):
    augment, boxes, size = ScaleAwareAutoAugment(), golden["boxes"], (48, 64)
    np.testing.assert_allclose(augment.split_areas(size), golden["scale_splits"], rtol=1e-12)
    np.testing.assert_allclose(augment.gaussians(boxes, size), golden["gaussian_scaled"], atol=1e-6)
    area = 48 * 64 / (2 * np.pi)
    plain = gaussian(size, (18, 18), (26 / 64 * area**0.5, 22 / 48 * area**0.5))
    np.testing.assert_allclose(plain, golden["gaussian_plain"], atol=1e-6)
    for name, shares in (("area", augment.colour_shares), ("prob", augment.geometry_shares)):
        found = augment.probabilities(boxes, size, shares)
        np.testing.assert_allclose(found, golden[f"sample_prob_{name}"], rtol=1e-12)


@needs_shared
@pytest.mark.parametrize("level", [2, 6])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_the_published_ones(golden, name, level):
    found = ScaleAwareAutoAugment().recolour(golden_image(golden), golden["boxes"][[0, 2]], COLOURS[name], level)
    np.testing.assert_allclose(found.transpose(2, 0, 1), golden[f"color_{name}_{level}"], atol=1e-3)


@needs_shared
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_the_published_one(golden, name):
    geometry, level, tolerance = GEOMETRY[name]
    boxes, labels = golden["boxes"], golden["labels"]
    found, copies, rows = apply_geometry(golden_image(golden), boxes[:2], geometry, level)
    np.testing.assert_allclose(found.transpose(2, 0, 1), golden[f"geometric_{name}"], atol=tolerance)
    np.testing.assert_array_equal(np.concatenate((boxes, copies)), golden[f"geometric_{name}_boxes"])
    np.testing.assert_array_equal(np.concatenate((labels, labels[rows])), golden[f"geometric_{name}_labels"])


def sample_of(boxes, size=(40, 60), seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes), dtype=np.int64))


def always(policy, **changes):
    """The augmentation with this policy, applied to every object."""
    sure = replace(policy, colour_probability=1.0, geometry_probability=1.0)
    return ScaleAwareAutoAugment(
        policies=(sure,), selected=3.0, colour_shares=(1, 1, 1), geometry_shares=(1, 1, 1), **changes
    )


BOXES = st.lists(
    st.tuples(st.floats(0, 50), st.floats(0, 30), st.floats(0, 25), st.floats(0, 25)).map(
        lambda v: (v[0], v[1], min(v[0] + v[2], 60), min(v[1] + v[3], 40))
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(boxes=BOXES, policy=st.sampled_from(POLICIES), level=st.floats(0, 10), seed=st.integers(0, 99))
def test_any_image_keeps_its_size_and_its_objects(boxes, policy, level, seed):
    sample = sample_of(boxes)
    before = sample.image.copy()
    augment = always(replace(policy, geometry_level=level))
    found = augment(sample, ListSampler([sample], (40, 60), progress=1.0), np.random.default_rng(seed))
    assert found.image.shape == (40, 60, 3) and found.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, before)  # the sample is not edited
    np.testing.assert_array_equal(found.boxes[: len(boxes)], sample.boxes)
    assert len(found.boxes) == len(found.labels) and found.boxes.dtype == np.float32
    assert (found.boxes >= -1e-4).all() and (found.boxes <= (60.001, 40.001) * 2).all()
    again = augment(sample, ListSampler([sample], (40, 60), progress=1.0), np.random.default_rng(seed))
    np.testing.assert_array_equal(found.image, again.image)


def test_a_gaussian_of_almost_no_width_is_one_line():
    found = gaussian((3, 5), (2.0, 1.0), (1e-30, 1e30))
    np.testing.assert_array_equal(found, np.eye(5, dtype=np.float32)[[2, 2, 2]])


def test_a_copied_object_fits_its_box():
    sample = sample_of([(4, 6, 16, 20)])
    augment = always(Policy("brightness", 0, 5, "translate_x", 1, 2))
    shifts = set()
    for seed in range(8):
        found = augment(sample, ListSampler([sample], (40, 60), progress=1.0), np.random.default_rng(seed))
        assert found.labels.tolist() == [0, 0] if len(found.boxes) == 2 else [0]
        for box in found.boxes[1:]:
            shifts.add(float(box[0] - 4))
            x, y = int(box[0]) + 6, int(box[1]) + 7  # the middle, where nothing of the image below is left
            np.testing.assert_array_equal(found.image[y, x], sample.image[13, 10])
    assert shifts == {24.0}  # to the left it would be outside: no copy


def test_nothing_happens_at_the_start_of_a_training_or_without_objects():
    for sample, progress in ((sample_of([(4, 6, 16, 20)]), 0.0), (sample_of([]), 1.0)):
        for seed in range(5):
            found = always(POLICIES[0])(sample, ListSampler([sample], (40, 60), progress), np.random.default_rng(seed))
            assert found is sample


def test_its_probability_grows_over_the_training():
    sample = sample_of([(5 * k, 4 * k, 5 * k + 9, 4 * k + 9) for k in range(7)])
    changed = []
    for progress in (0.1, 1.0):
        draw = ListSampler([sample], (40, 60), progress)
        changed.append(
            sum(ScaleAwareAutoAugment()(sample, draw, np.random.default_rng(seed)) is not sample for seed in range(400))
        )
    assert 0 < changed[0] < 0.3 * changed[1]


@pytest.mark.parametrize(("wrong", "said"), [({"policies": ()}, "empty"), ({"splits": (3.0, 2.0, 4.0)}, "ascending")])
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ScaleAwareAutoAugment(**wrong)
