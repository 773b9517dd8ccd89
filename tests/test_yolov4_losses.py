"""Assignments, losses and gradients equal what Darknet's own code writes down, in all its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onelook.assign.darknet_anchors import DarknetAnchors
from onelook.layers.anchor_predictions import anchor_predictions, decode_sigmoid
from onelook.losses.adversarial import no_object_loss
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.pairs import Pairs
from onelook.losses.yolov4 import (
    DarknetBox,
    DarknetClasses,
    DarknetObjectness,
    DarknetSquares,
    GaussianBox,
    box_errors,
    first_occurrences,
    input_sides,
)
from onelook.networks.yolov4.head import decode_exponential
from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.ops.iou import box_iou
from onelook.types import Matches, Predictions, Targets
from shared import SHARED, needs_shared, reference

FACTS: dict[str, Any] = json.loads((reference("yolov4") / "losses.json").read_text()) if SHARED is not None else {}
VARIANTS: dict[str, Any] = FACTS.get("variants", {})
LEARNT = [name for name in VARIANTS if not VARIANTS[name]["settings"]["adversarial"]]
SMOOTH = {"yolov4_csp": (False, True, True)}
BALANCE = {"yolov4_csp": (4.0, 1.0, 0.4)}


@cache
def arrays() -> dict[str, np.ndarray]:
    with np.load(reference("yolov4") / "losses.npz") as file:
        return dict(file)


def problem(name: str, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Predictions, Targets]:
    """The raw maps of a setting (leaves, (B, A, 85, h, w)), predictions made of them, and the objects."""
    settings, levels = VARIANTS[name]["settings"], VARIANTS[name]["levels"]
    anchors = torch.tensor(settings["anchors"], dtype=dtype).reshape(-1, 2)
    raw = [torch.from_numpy(arrays()[f"raw_{settings['inp']}_{k}"]).to(dtype) for k in range(len(levels))]
    raw = [level.requires_grad_() for level in raw]
    scales = torch.tensor([level["scale_x_y"] for level in levels], dtype=dtype)

    def decode(regression: Tensor, priors: Any) -> Tensor:
        return decode_exponential(regression, priors, scales[priors.levels])

    predictions = anchor_predictions(
        [level.flatten(1, 2) for level in raw],
        [level["stride"] for level in levels],
        [anchors[level["mask"]] for level in levels],
        decode_sigmoid if settings["new_coords"] else decode,
    )
    truth = torch.from_numpy(arrays()["truth"]).to(dtype)
    count = torch.from_numpy(arrays()["truth_count"]) * (not settings["adversarial"])
    sides = torch.tensor([FACTS["width"], FACTS["height"]] * 2, dtype=dtype)
    valid = torch.arange(truth.shape[1]) < count[:, None]
    return raw, predictions, Targets(cxcywh_to_xyxy(truth[..., :4]) * sides, truth[..., 4].long(), valid)


def assigner(name: str) -> DarknetAnchors:
    settings, levels = VARIANTS[name]["settings"], VARIANTS[name]["levels"]
    used = {index for level in levels for index in level["mask"]}
    anchors = np.array(settings["anchors"], float).reshape(-1, 2)
    unused = tuple((float(w), float(h)) for index, (w, h) in enumerate(anchors) if index not in used)
    return DarknetAnchors(settings["iou_thresh"], settings["ignore_thresh"], soft=SMOOTH.get(name, ()), unused=unused)


def rows(name: str, column: slice | int) -> np.ndarray:
    """Darknet's deltas in the order of our rows: (B, N, columns)."""
    count = len(VARIANTS[name]["levels"])
    deltas = [np.moveaxis(arrays()[f"delta_{name}_{level}"], 2, -1) for level in range(count)]
    return np.concatenate([delta.reshape(len(delta), -1, 85) for delta in deltas], 1)[..., column]


def gradient(loss: Tensor, raw: list[Tensor]) -> Tensor:
    """Of a sum over the batch, in the order of our rows: (B, N, 85)."""
    found = torch.autograd.grad(loss * len(raw[0]), raw, allow_unused=True)
    parts = [torch.zeros_like(one) if part is None else part for one, part in zip(raw, found)]
    return torch.cat([part.movedim(2, -1).flatten(1, 3) for part in parts], 1)


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEARNT)
def test_pairs_and_ignored_priors_are_identical(name: str, dtype: torch.dtype) -> None:
    _, predictions, targets = problem(name, dtype)
    matches = assigner(name)(predictions, targets)
    priors = predictions.priors
    copies = 3
    found = set()
    for image, pair in matches.valid.nonzero().tolist():
        row, truth = int(matches.priors[image, pair]), int(matches.objects[image, pair])
        level = int(priors.levels[row])
        height, width = priors.shapes[level]
        start = copies * sum(h * w for h, w in priors.shapes[:level])
        slot, cell = divmod(row - start, height * width)
        found.add((level, image, truth, slot, cell % width, cell // width, int(targets.labels[image, truth])))
    columns = ["level", "image", "truth", "slot", "i", "j", "class"]
    expected = arrays()[f"match_int_{name}"][:, [0, 1, 2, 5, 6, 7, 8]]
    assert found == {tuple(row) for row in expected.tolist()}, columns
    assert len(found) == int(matches.valid.sum()) == VARIANTS[name]["totals"]["matches"]
    assert matches.ignored is not None
    np.testing.assert_array_equal(matches.ignored, rows(name, 4) == 0)


@needs_shared
@pytest.mark.parametrize("name", LEARNT)
def test_objectness_and_class_gradients_are_darknets(name: str) -> None:
    raw, predictions, targets = problem(name)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    settings = VARIANTS[name]["settings"]
    terms = (
        DarknetObjectness(balance=BALANCE.get(name, ())),
        DarknetClasses(smoothing=settings.get("label_smooth_eps", 0.0), focal=bool(settings.get("focal_loss"))),
    )
    found = gradient(torch.stack([term(pairs) for term in terms]).sum(), raw)
    np.testing.assert_allclose(-found[..., 4], rows(name, 4), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(-found[..., 5:], rows(name, slice(5, None)), rtol=1e-5, atol=1e-5)
    totals = VARIANTS[name]["totals"]
    assert float(found[..., 4].square().sum()) == pytest.approx(totals["delta_square_objectness"], rel=1e-5)
    assert float(found[..., 5:].square().sum()) == pytest.approx(totals["delta_square_class"], rel=1e-5)


# Darknet counts other classes too where targets are smoothed, and has another formula for squared errors.
OVERLAPS = [name for name in LEARNT if "smooth" not in name and VARIANTS[name]["settings"]["iou_loss"] != "mse"]


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OVERLAPS)
def test_box_gradients_are_darknets(name: str, dtype: torch.dtype) -> None:
    raw, predictions, targets = problem(name, dtype)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    settings, levels = VARIANTS[name]["settings"], VARIANTS[name]["levels"]
    limits = [level.get("max_delta", settings["max_delta"]) for level in levels]
    term = DarknetBoxGradient(
        weight=settings["iou_normalizer"],
        kind=settings["iou_loss"],
        coordinates="sigmoid" if settings["new_coords"] else "exponential",
        max_delta=() if None in limits else tuple(limits),
        shares=settings["iou_thresh"] < 1,
    )
    found = -gradient(term.weight * term(pairs), raw)[..., :4].detach().numpy()
    expected = rows(name, slice(0, 4)).astype(float)
    assert float(np.square(expected).sum()) == pytest.approx(VARIANTS[name]["totals"]["delta_square_box"], rel=1e-5)
    if settings["new_coords"]:  # there the sigmoid belongs to the convolution, which Darknet propagates through
        fractions = torch.cat([one.detach().movedim(2, -1).flatten(1, 3)[..., :4] for one in raw], 1).sigmoid().numpy()
        expected *= fractions * (1 - fractions)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 2e-5)
    losses = [1 - box_iou(pairs.boxes, pairs.target_boxes, "giou" if settings["iou_loss"] == "giou" else "iou")]
    logged = torch.where(pairs.valid, losses[0], 0.0).sum() / len(raw[0])
    assert float(term(pairs).detach()) == pytest.approx(float(logged.detach()), rel=1e-4)


@needs_shared
def test_box_gradients_are_limited_in_each_level() -> None:
    raw, predictions, targets = problem("yolov4")
    pairs = Pairs(predictions, targets, assigner("yolov4")(predictions, targets))
    limits = (0.5, 0.05, 0.005)
    term = DarknetBoxGradient(max_delta=limits)
    free, limited = (term.weight * gradient(replace(term, max_delta=one)(pairs), raw)[..., :4] for one in ((), limits))
    pairs_of = torch.zeros(free.shape[:2], dtype=torch.long).scatter_add_(1, pairs.matches.priors, pairs.valid.long())
    limit = torch.tensor(limits, dtype=free.dtype)[predictions.priors.levels].unsqueeze(-1)
    expected = free.maximum(-limit).minimum(limit)
    assert torch.allclose(limited[pairs_of == 1], expected[pairs_of == 1]) and not torch.allclose(limited, free)
    broken = torch.tensor([[[torch.nan, torch.inf, 1.0, -1.0]]], dtype=torch.float64)
    assert DarknetBoxGradient()._limited(broken, pairs).tolist() == [[[0, 0, 1, -1]]]
    with pytest.raises(ValueError, match="above 0"):
        DarknetBoxGradient(max_delta=(5.0, 0.0, 1.0))


@needs_shared
@pytest.mark.parametrize("name", LEARNT)
def test_overlaps_are_darknets(name: str) -> None:
    _, predictions, targets = problem(name)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    sides = input_sides(predictions.priors).repeat(2)
    overlap = partial(box_iou, pairs.boxes / sides, pairs.target_boxes / sides)
    iou, giou, diou, ciou = (overlap(kind) for kind in ("iou", "giou", "diou", "ciou"))
    distance, aspect = iou - diou, diou - ciou
    # What Darknet logs as DIoU has the exponent of its NMS.
    logged = torch.stack((iou, giou, iou - distance**0.6, iou - distance - aspect), -1)[pairs.valid].detach().numpy()
    integers, floats = arrays()[f"match_int_{name}"], arrays()[f"match_float_{name}"]
    images, places = pairs.valid.nonzero(as_tuple=True)
    keys = [
        (int(predictions.priors.levels[pairs.matches.priors[b, p]]), int(b), int(pairs.matches.objects[b, p]))
        for b, p in zip(images, places)
    ]
    ours = sorted((*key, *row) for key, row in zip(keys, logged.tolist()))
    theirs = sorted((*key, *row) for key, row in zip(map(tuple, integers[:, :3].tolist()), floats.tolist()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    level = predictions.priors.levels[pairs.matches.priors]
    for index, facts in enumerate(VARIANTS[name]["levels"]):
        total = (1 - iou)[pairs.valid & (level == index)].sum().item()
        assert total == pytest.approx(facts["sum_one_minus_iou"], rel=1e-5)


@needs_shared
def test_squared_errors_have_darknets_gradient_and_the_sigmoids_derivative() -> None:
    name = "yolov4_mse"
    raw, predictions, targets = problem(name)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    found = -gradient(0.75 * DarknetSquares()(pairs), raw)[..., :4]
    scales = torch.tensor([level["scale_x_y"] for level in VARIANTS[name]["levels"]])[predictions.priors.levels]
    slope = predictions.regression[..., :2].sigmoid()
    slope = (slope * (1 - slope) * scales.unsqueeze(-1)).detach()
    found = torch.cat((found[..., :2] / slope, found[..., 2:]), -1)
    np.testing.assert_allclose(found.detach(), rows(name, slice(0, 4)), rtol=1e-4, atol=1e-5)


@needs_shared
@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_box_gradients_have_darknets_direction(kind: Any) -> None:
    """They are not equal: Darknet leaves factors of the chain rule out. Those are positive, so the signs agree."""
    name = "yolov4" if kind == "ciou" else f"yolov4_{kind}"
    raw, predictions, targets = problem(name)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    found = -gradient(DarknetBox(kind=kind)(pairs), raw)[..., :4].detach().numpy()
    expected = rows(name, slice(0, 4))
    np.testing.assert_array_equal((found != 0).any(-1), (expected != 0).any(-1))
    positives = (expected != 0).any(-1)
    agreement = (found[positives] * expected[positives]).sum(-1) / (
        np.linalg.norm(found[positives], axis=-1) * np.linalg.norm(expected[positives], axis=-1)
    )
    assert np.median(agreement) > 0.9
    # The weight stands for the missing factors: steps are of one size.
    ratio = np.linalg.norm(found[positives], axis=-1) / np.linalg.norm(expected[positives], axis=-1)
    assert 0.1 < np.median(ratio) * 0.07 < 3


@needs_shared
def test_adversarial_gradients_are_darknets() -> None:
    name = "yolov4_adversarial"
    raw, predictions, _ = problem(name)
    found = -gradient(no_object_loss(predictions) / len(raw[0]), raw)
    np.testing.assert_allclose(found[..., 4], rows(name, 4), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[..., 5:], rows(name, slice(5, None)), rtol=1e-5, atol=1e-5)


@needs_shared
def test_squares_are_darknets_gradient_before_a_sigmoid_in_the_convolution() -> None:
    name = "yolov4_csp"
    raw, predictions, targets = problem(name)
    pairs = Pairs(predictions, targets, assigner(name)(predictions, targets))
    loss = DarknetObjectness(balance=BALANCE[name], squares=True)(pairs) + DarknetClasses(squares=True)(pairs)
    found = -gradient(loss, raw)[..., 4:].detach().numpy()
    probability = torch.cat((predictions.objectness.unsqueeze(-1), predictions.classes), -1).sigmoid().detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(found, rows(name, slice(4, None)) * probability * (1 - probability), 1e-5, 1e-5)


def test_first_pairs_of_a_key_are_found() -> None:
    keys = torch.tensor([[5, 3, 5, 3, 0, 5], [1, 1, 1, 1, 1, 1]])
    valid = torch.tensor([[False, True, True, True, True, True], [True] * 6])
    assert first_occurrences(keys, valid).tolist() == [[False, True, True, False, True, False], [True] + [False] * 5]


def scene(dtype: torch.dtype = torch.float32) -> tuple[Predictions, Targets]:
    """Random predictions of two levels with an objectness that varies, and objects, some of them padding."""
    torch.manual_seed(3)
    anchors = [torch.tensor([(10.0, 12.0), (20.0, 25.0)]), torch.tensor([(30.0, 28.0), (50.0, 60.0)])]
    maps = [torch.randn(2, 2 * 8, 8, 8, dtype=dtype), torch.randn(2, 2 * 8, 4, 4, dtype=dtype)]

    def decode(regression: Tensor, priors: Any) -> Tensor:
        return decode_exponential(regression, priors, torch.ones_like(priors.strides))

    predictions = anchor_predictions(maps, [8, 16], anchors, decode)
    boxes = torch.tensor([[[4.0, 6, 15, 20], [30, 20, 60, 61]], [[10, 10, 30, 34], [0, 0, 0, 0]]])
    return predictions, Targets(boxes, torch.tensor([[0, 2], [1, 0]]), torch.tensor([[True, True], [True, False]]))


LOSS = DetectionLoss(DarknetAnchors(), (DarknetBox(), DarknetObjectness(), DarknetClasses(smoothing=0.1, focal=True)))


def test_padding_and_images_without_objects_change_nothing() -> None:
    predictions, targets = scene()
    before = LOSS(predictions, targets)
    pad = Targets(
        torch.cat((targets.boxes, torch.full((2, 3, 4), 7.0)), 1),
        torch.cat((targets.labels, torch.zeros(2, 3, dtype=torch.int64)), 1),
        torch.cat((targets.valid, torch.zeros(2, 3, dtype=torch.bool)), 1),
    )
    after = LOSS(predictions, pad)
    assert all(torch.allclose(after[name], value) for name, value in before.items())
    none = LOSS(predictions, Targets(targets.boxes[:, :0], targets.labels[:, :0], targets.valid[:, :0]))
    assert none["box"] == 0 and none["classes"] == 0 and none["objectness"] > 0


def test_permuted_objects_give_permuted_matches() -> None:
    predictions, targets = scene()
    swapped = Targets(targets.boxes.flip(1), targets.labels.flip(1), targets.valid.flip(1))

    def pairs(matches: Matches, order: list[int]) -> set[tuple[int, int, int]]:
        images, places = matches.valid.nonzero(as_tuple=True)
        return {(int(b), int(matches.priors[b, p]), order[int(matches.objects[b, p])]) for b, p in zip(images, places)}

    rule = DarknetAnchors()
    assert pairs(rule(predictions, targets), [0, 1]) == pairs(rule(predictions, swapped), [1, 0])


def test_no_value_is_copied_from_the_device() -> None:
    """On the meta device there are shapes and no values: whatever waits for one raises."""
    predictions, targets = scene()

    def shapes(value: Any) -> Any:
        moved = {name: part.to("meta") for name, part in vars(value).items() if isinstance(part, Tensor)}
        return replace(value, **moved)

    lead = replace(shapes(predictions), priors=shapes(predictions.priors))
    rule = DarknetAnchors(soft=(False, True), unused=((5.0, 5.0),))
    terms = (*LOSS.terms, DarknetSquares(name="squares"), DarknetObjectness(balance=(4.0, 1.0), name="balanced"))
    losses = DetectionLoss(rule, terms)(lead, shapes(targets))
    assert len(losses) == 5 and all(value.shape == () for value in losses.values())


def test_uncertainty_is_trained_to_the_size_of_the_error() -> None:
    """The gradient increases sigma of a wrong box and decreases that of a right one."""
    predictions, targets = scene()
    matches = DarknetAnchors()(predictions, targets)
    raw = predictions.regression.repeat_interleave(2, -1)
    raw[..., 1::2] = 0.0
    raw.requires_grad_()
    pairs = Pairs(replace(predictions, regression=raw), targets, matches)
    errors = box_errors(pairs, "exponential").detach()
    GaussianBox()(pairs).backward()
    assert raw.grad is not None
    positives: dict[tuple[int, int], list[Tensor]] = {}
    for b, p in matches.valid.nonzero().tolist():
        positives.setdefault((b, int(matches.priors[b, p])), []).append(errors[b, p])
    touched = raw.grad.abs().sum(-1).nonzero().tolist()
    assert {tuple(row) for row in touched} == set(positives)
    # d/dsigma of e^2 / (2 sigma^2) + log(sigma + 0.3) at sigma 1/2 changes its sign at |e| = 0.395.
    for (b, row), own in positives.items():
        if len(own) == 1:
            wants_more = raw.grad[b, row, 1::2] < 0
            assert torch.equal(wants_more, own[0].abs() > (0.5**3 / 0.8) ** 0.5)


@pytest.mark.parametrize("setting", ["iou_threshold", "ignore", "seen"])
def test_thresholds_outside_0_to_1_raise(setting: str) -> None:
    with pytest.raises(ValueError, match=setting):
        DarknetAnchors(**{setting: -1.0})
