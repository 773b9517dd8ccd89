"""SimOTA on random scenes: equal to the per-image textbook, and indifferent to padding, order and company."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baseline.simota import simota
from onelook.assign.simota import LATER, PAPER
from onelook.types import Matches, Predictions, Targets
from random_scenes import random_scene

RULES = {"paper": PAPER, "later": LATER}
SCENES = st.builds(
    random_scene,
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    objects=st.integers(0, 9),
    classes=st.sampled_from([1, 3, 20]),
    size=st.sampled_from([(64, 64), (96, 160), (224, 128)]),
    dtype=st.just(torch.float64),  # in float32 the penalty swallows small differences, and ties are anybody's
    missing=st.sampled_from([0.0, 0.3, 1.0]),
)
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
few = settings(max_examples=25, deadline=None)


def pairs_of(matches: Matches, image: int) -> list[tuple[int, int]]:
    """The pairs (prior, object) of an image, by prior."""
    valid = matches.valid[image]
    return sorted(zip(matches.priors[image][valid].tolist(), matches.objects[image][valid].tolist()))


def image_of(predictions: Predictions, image: int) -> Predictions:
    """One image of a batch, as a batch."""
    rows = slice(image, image + 1)
    return replace(
        predictions,
        boxes=predictions.boxes[rows],
        classes=predictions.classes[rows],
        objectness=predictions.objectness[rows],
        regression=predictions.regression[rows],
    )


@each_rule
@few
@given(scene=SCENES)
def test_matches_equal_the_plain_reference(rule, scene):
    predictions, targets = scene
    matches = rule(predictions, targets)
    for image, (priors, objects, iou) in enumerate(simota(predictions, targets, **asdict(rule))):
        rows = targets.valid[image].nonzero().squeeze(1)
        assert pairs_of(matches, image) == list(zip(priors.tolist(), rows[objects].tolist()))
        valid = matches.valid[image]
        quality = matches.quality[image][valid][matches.priors[image][valid].argsort()]
        torch.testing.assert_close(quality, iou)


@each_rule
@few
@given(scene=SCENES, rows=st.integers(1, 5))
def test_padding_objects_and_images_changes_nothing(rule, scene, rows):
    predictions, targets = scene
    padded = Targets(
        torch.nn.functional.pad(targets.boxes, (0, 0, 0, rows, 0, 1)),
        torch.nn.functional.pad(targets.labels, (0, rows, 0, 1)),
        torch.nn.functional.pad(targets.valid, (0, rows, 0, 1)),
    )
    more = image_of(predictions, 0)
    longer = replace(
        predictions,
        boxes=torch.cat([predictions.boxes, more.boxes]),
        classes=torch.cat([predictions.classes, more.classes]),
        objectness=torch.cat([predictions.objectness, more.objectness]),
        regression=torch.cat([predictions.regression, more.regression]),
    )
    before, after = rule(predictions, targets), rule(longer, padded)
    for image in range(len(targets.valid)):
        assert pairs_of(before, image) == pairs_of(after, image)
    assert pairs_of(after, len(targets.valid)) == []


@each_rule
@few
@given(scene=SCENES)
def test_a_batch_equals_its_images(rule, scene):
    predictions, targets = scene
    together = rule(predictions, targets)
    for image in range(len(targets.valid)):
        rows = slice(image, image + 1)
        alone = Targets(targets.boxes[rows], targets.labels[rows], targets.valid[rows])
        assert pairs_of(rule(image_of(predictions, image), alone), 0) == pairs_of(together, image)


@each_rule
@few
@given(scene=SCENES, seed=st.integers(0, 2**32))
def test_permuted_objects_give_permuted_matches(rule, scene, seed):
    predictions, targets = scene
    order = torch.randperm(targets.valid.shape[1], generator=torch.Generator().manual_seed(seed))
    permuted = Targets(targets.boxes[:, order], targets.labels[:, order], targets.valid[:, order])
    before, after = rule(predictions, targets), rule(predictions, permuted)
    for image in range(len(targets.valid)):
        renamed = [(prior, int(order[row])) for prior, row in pairs_of(after, image)]
        assert renamed == pairs_of(before, image)


@each_rule
@pytest.mark.parametrize("classes", [1, 4])
def test_predictions_are_left_as_they_are(rule, classes):
    predictions, targets = random_scene(8, 2, 5, classes=classes, size=(64, 64))
    before = predictions.classes.clone(), predictions.objectness.clone(), predictions.boxes.clone()
    rule(predictions, targets)
    for old, new in zip(before, (predictions.classes, predictions.objectness, predictions.boxes)):
        assert torch.equal(old, new)


@each_rule
def test_image_without_objects_has_no_pairs(rule):
    for objects, missing in ((0, 0.0), (4, 1.0)):
        predictions, targets = random_scene(1, 2, objects, classes=3, size=(64, 64), missing=missing)
        matches = rule(predictions, targets)
        assert not matches.valid.any()
        assert matches.priors.shape == matches.objects.shape == matches.quality.shape == matches.valid.shape


@each_rule
def test_every_prior_has_at_most_one_object_and_every_object_at_most_ten(rule):
    predictions, targets = random_scene(2, 4, 30, classes=5, size=(192, 192))
    matches = rule(predictions, targets)
    for image in range(4):
        priors, objects = zip(*pairs_of(matches, image))
        assert len(set(priors)) == len(priors)
        assert max(objects.count(row) for row in set(objects)) <= rule.candidates


@each_rule
def test_half_predictions_are_compared_in_float32(rule):
    predictions, targets = random_scene(3, 2, 5, classes=5, size=(128, 128))
    half = replace(
        predictions,
        boxes=predictions.boxes,
        classes=predictions.classes.bfloat16(),
        objectness=predictions.objectness.bfloat16(),
    )
    again = replace(half, classes=half.classes.float(), objectness=half.objectness.float())
    one, two = rule(half, targets), rule(again, targets)
    assert one.quality.dtype == torch.float32
    assert all(pairs_of(one, image) == pairs_of(two, image) for image in range(2))


@each_rule
def test_non_finite_predictions_do_not_spoil_other_pairs(rule):
    predictions, targets = random_scene(4, 2, 5, classes=5, size=(128, 128))
    broken = replace(predictions, boxes=torch.full_like(predictions.boxes, torch.nan))
    matches = rule(broken, targets)
    assert not matches.valid.any()
    assert int(matches.priors.max()) < predictions.boxes.shape[1]


def test_matches_do_not_depend_on_known_grid_shapes():
    predictions, targets = random_scene(5, 2, 8, classes=5, size=(160, 160), dtype=torch.float64)
    unknown = replace(predictions, priors=replace(predictions.priors, shapes=()))
    one, two = LATER(predictions, targets), LATER(unknown, targets)
    assert all(pairs_of(one, image) == pairs_of(two, image) for image in range(2))
