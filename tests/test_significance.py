"""AP of weighted images is hotcoco's, and the paired bootstrap tells models apart that differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.evaluation.coco import Evaluation, score
from onelook.evaluation.matches import match_table
from onelook.evaluation.significance import compare_pairs, holm, interval, mean_of_classes, p_value, resample
from onelook.evaluation.tables import GroundTruth, Results
from onelook.types import UNDEFINED


def random_truth(rng: np.random.Generator, images: int, objects: int, classes: int) -> GroundTruth:
    boxes = np.concatenate([rng.uniform(0, 80, (objects, 2)), rng.uniform(2, 60, (objects, 2))], 1)
    return GroundTruth(
        np.arange(images),
        tuple(f"{number}.jpg" for number in range(images)),
        tuple(f"class {number}" for number in range(classes)),
        tuple(range(1, classes + 1)),
        np.sort(rng.integers(0, images, objects)),
        rng.integers(0, classes, objects),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        rng.random(objects) < 0.1,
    )


def random_results(
    rng: np.random.Generator, truth: GroundTruth, count: int, *, noise: float = 8.0, ties: bool = False
) -> Results:
    """Detections near objects of the right class or another one; `noise` moves their sides, in pixels."""
    source = rng.integers(0, max(len(truth.images), 1), count if len(truth.images) else 0)
    source = np.sort(source)
    boxes = truth.boxes[source] + rng.normal(0, noise, (len(source), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0)
    scores = rng.random(len(source))
    labels = np.where(rng.random(len(source)) < 0.2, rng.integers(0, len(truth.names)), truth.labels[source])
    return Results.join([Results(truth.images[source], labels, boxes, scores.round(1) if ties else scores)])


def precision_by_hotcoco(evaluation: Evaluation) -> np.ndarray:
    """(C, 10) AP of every class and threshold."""
    return evaluation._arrays["precision"][:, :, :, 0, 2].mean(1).T


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    objects=st.integers(0, 60),
    classes=st.integers(1, 4),
    detections=st.integers(0, 300),
    ties=st.booleans(),
)
def test_average_precision_is_that_of_hotcoco(
    *, seed: int, images: int, objects: int, classes: int, detections: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images, objects, classes)
    evaluation = score(truth, random_results(rng, truth, detections, ties=ties))
    found = match_table(evaluation).average_precision()
    np.testing.assert_allclose(found, precision_by_hotcoco(evaluation), rtol=0, atol=1e-9)
    defined = found[found > UNDEFINED]
    assert evaluation.stats["AP"] == pytest.approx(defined.mean() if len(defined) else UNDEFINED, abs=1e-9)


def repeated(truth: GroundTruth, results: Results, weights: np.ndarray) -> Evaluation:
    """The evaluation of a data set that holds each image as often as `weights` says."""
    rows = np.repeat(np.arange(len(weights)), weights)
    objects = [np.flatnonzero(truth.images == row) for row in rows]
    found = [np.flatnonzero(results.images == row) for row in rows]
    places = np.concatenate([*objects, np.zeros(0, int)]).astype(int)
    hits = np.concatenate([*found, np.zeros(0, int)]).astype(int)
    numbers = np.arange(len(rows))
    return score(
        GroundTruth(
            numbers,
            tuple(map(str, numbers)),
            truth.names,
            truth.category_ids,
            np.repeat(numbers, [len(one) for one in objects]),
            truth.labels[places],
            truth.boxes[places],
            truth.areas[places],
            truth.crowds[places],
        ),
        Results(
            np.repeat(numbers, [len(one) for one in found]),
            results.labels[hits],
            results.boxes[hits],
            results.scores[hits],
        ),
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 6), objects=st.integers(0, 40))
def test_weights_are_images_that_occur_several_times_or_never(seed: int, images: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images, objects, 2)
    results = random_results(rng, truth, 80)
    weights = np.bincount(rng.integers(0, images, images), minlength=images)
    found = match_table(score(truth, results)).average_precision(weights)
    wanted = precision_by_hotcoco(repeated(truth, results, weights))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def compared(*noises: float, images: int = 40) -> tuple[list[float], np.ndarray]:
    """AP and resampled AP of models whose boxes are off by so many pixels."""
    truth = random_truth(np.random.default_rng(0), images, 4 * images, 2)
    evaluations = [
        score(truth, random_results(np.random.default_rng(5), truth, 8 * images, noise=one)) for one in noises
    ]
    samples = resample([match_table(one) for one in evaluations], 200, 0)
    return [one.stats["AP"] for one in evaluations], mean_of_classes(samples)


def test_a_model_does_not_differ_from_itself() -> None:
    values, samples = compared(4.0, 4.0)
    (found,) = compare_pairs(values, samples, [(0, 1)])
    assert found is not None
    assert (found.value, found.low, found.high, found.p, found.adjusted) == (0, 0, 0, 1, 1)
    assert not found.is_significant


def test_a_clearly_better_model_is_found_better_in_both_directions() -> None:
    values, samples = compared(8.0, 2.0)
    better, worse = compare_pairs(values, samples, [(0, 1), (1, 0)])
    assert better is not None and worse is not None
    assert better.is_significant and worse.is_significant
    assert 0 < better.low < better.value < better.high
    assert (worse.value, worse.low, worse.high) == pytest.approx((-better.value, -better.high, -better.low))


def test_a_difference_is_known_better_than_each_number_alone() -> None:
    """The same images are drawn for all models."""
    _, samples = compared(4.0, 4.2)
    alone, paired = interval(samples[0]), interval(samples[1] - samples[0])
    assert alone is not None and paired is not None
    assert paired[1] - paired[0] < alone[1] - alone[0]


def test_the_same_seed_resamples_the_same_images() -> None:
    assert np.array_equal(compared(4.0)[1], compared(4.0)[1])


def test_without_objects_nothing_is_said() -> None:
    truth = random_truth(np.random.default_rng(0), 3, 0, 2)
    samples = mean_of_classes(resample([match_table(score(truth, Results.empty()))] * 2, 10, 0))
    assert np.isnan(samples).all() and interval(samples[0]) is None
    assert compare_pairs([UNDEFINED, UNDEFINED], samples, [(0, 1)]) == [None]


def test_p_values_are_two_sided_and_never_zero() -> None:
    assert p_value(np.zeros(99)) == 1
    assert p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert p_value(-np.ones(99)) == pytest.approx(2 / 100)
    assert p_value(np.array([1.0] * 90 + [-1.0] * 9)) == pytest.approx(2 * 10 / 100)


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [([], []), ([0.03], [0.03]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, 0.9], [1.0, 1.0])],
    ids=["none", "one is itself", "the order of the values is kept", "at most 1"],
)
def test_several_p_values_are_adjusted(values: list[float], adjusted: list[float]) -> None:
    assert holm(values) == pytest.approx(adjusted)
