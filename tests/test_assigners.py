"""AlignOTA, ATSS and task-aligned assignment on whole batches equal the papers' loops over images and objects."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from onelook.assign.align_ota import PAPER, AlignOta
from onelook.assign.atss import Atss
from onelook.assign.simota import SimOta
from onelook.assign.task_aligned import TaskAligned
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.generalized_focal import DistributionFocal, QualityFocal
from onelook.losses.pairs import Pairs
from onelook.losses.yolox import BoxIou, Classes, Objectness
from onelook.ops.iou import box_iou
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Targets
from random_scenes import decode, random_scene

ASSIGNERS = [AlignOta(), PAPER, Atss(), TaskAligned(), SimOta()]


def found(matches: Matches, image: int) -> dict[int, tuple[int, float]]:
    """Prior -> object and quality."""
    valid = matches.valid[image]
    rows = (part[image][valid].tolist() for part in (matches.priors, matches.objects, matches.quality))
    return {prior: (one, quality) for prior, one, quality in zip(*rows)}


def same(first: dict[int, tuple[int, float]], second: dict[int, tuple[int, float]]) -> None:
    assert {prior: one for prior, (one, _) in first.items()} == {prior: one for prior, (one, _) in second.items()}
    assert {p: q for p, (_, q) in first.items()} == pytest.approx({p: q for p, (_, q) in second.items()}, rel=1e-6)


def atss_of_one_image(boxes, predicted, priors):
    """Algorithm 1 of the paper, object by object."""
    points, best = priors.points.to(boxes.dtype), {}
    sides = 8 * priors.strides.to(boxes.dtype).unsqueeze(1)
    anchors = torch.cat((points - sides / 2, points + sides / 2), 1)
    starts = level_starts(priors)
    for number, box in enumerate(boxes):
        centre, candidates = (box[:2] + box[2:]) / 2, []
        for start, end in pairwise(starts):
            distance = (points[start:end] - centre).norm(dim=1)
            candidates += (distance.argsort(stable=True)[:9] + start).tolist()
        overlap = box_iou(anchors[candidates], box)
        threshold = overlap.mean() + overlap.std()
        for prior, iou in zip(candidates, overlap.tolist()):
            inside = (points[prior] - box[:2]).min() > 0.01 and (box[2:] - points[prior]).min() > 0.01
            if iou >= threshold and inside and iou > best.get(prior, (0, 0.0))[1]:
                best[prior] = number, iou
    return {prior: (one, box_iou(predicted[prior], boxes[one]).item()) for prior, (one, _) in best.items()}


def task_aligned_of_one_image(boxes, labels, predicted, scores, priors):
    points, chosen = priors.points.to(boxes.dtype), []
    overlap = box_iou(boxes.unsqueeze(1), predicted)
    for number, box in enumerate(boxes):
        inside = ((points > box[:2]) & (points < box[2:])).all(1)
        alignment = torch.where(inside, scores[:, labels[number]] * overlap[number] ** 6, 0.0)
        for prior in alignment.argsort(descending=True, stable=True)[:13].tolist():
            if alignment[prior] > 0:
                chosen.append((prior, number, alignment[prior].item(), overlap[number, prior].item()))
    best = {}
    for prior, number, alignment, iou in chosen:
        if iou > best.get(prior, (0, 0.0, 0.0))[2]:
            best[prior] = number, alignment, iou
    result = {}
    for number in range(len(boxes)):
        own = {prior: (alignment, iou) for prior, (one, alignment, iou) in best.items() if one == number}
        for prior, (alignment, _) in own.items():
            highest = max(value for value, _ in own.values())
            result[prior] = number, alignment / highest * max(iou for _, iou in own.values())
    return result


@pytest.mark.parametrize("seed", range(4))
def test_atss_equals_the_algorithm_of_the_paper(seed: int) -> None:
    predictions, targets = random_scene(seed, 3, 6, size=(128, 192), dtype=torch.float64, missing=0.3)
    matches = Atss()(predictions, targets)
    assert matches.valid.any()
    for image in range(3):
        valid = targets.valid[image].nonzero().squeeze(1)
        expected = atss_of_one_image(targets.boxes[image][valid], predictions.boxes[image], predictions.priors)
        same(found(matches, image), {prior: (int(valid[one]), q) for prior, (one, q) in expected.items()})


@pytest.mark.parametrize("seed", range(4))
def test_task_aligned_equals_the_rule_of_the_paper(seed: int) -> None:
    predictions, targets = random_scene(seed, 3, 6, classes=5, size=(128, 192), dtype=torch.float64, missing=0.3)
    matches, scores = TaskAligned()(predictions, targets), predictions.scores()
    assert matches.valid.any()
    for image in range(3):
        valid = targets.valid[image].nonzero().squeeze(1)
        boxes, labels = targets.boxes[image][valid], targets.labels[image][valid]
        expected = task_aligned_of_one_image(boxes, labels, predictions.boxes[image], scores[image], predictions.priors)
        same(found(matches, image), {prior: (int(valid[one]), q) for prior, (one, q) in expected.items()})


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=str)
@pytest.mark.parametrize("bare", [False, True], ids=["objectness", "no objectness"])
def test_padding_and_other_images_of_the_batch_change_nothing(assigner, bare: bool) -> None:
    predictions, targets = random_scene(0, 3, 5, classes=4, size=(128, 128), dtype=torch.float64)
    if bare:
        predictions = replace(predictions, objectness=None)
    whole = assigner(predictions, targets)
    for image in range(3):
        alone = Predictions(
            predictions.boxes[image : image + 1],
            predictions.classes[image : image + 1],
            None if predictions.objectness is None else predictions.objectness[image : image + 1],
            predictions.regression[image : image + 1],
            predictions.priors,
        )
        padding = torch.zeros(1, 7, 4, dtype=torch.float64)
        padded = Targets(
            torch.cat((targets.boxes[image : image + 1], padding), 1),
            torch.cat((targets.labels[image : image + 1], torch.zeros(1, 7, dtype=torch.int64)), 1),
            torch.cat((targets.valid[image : image + 1], torch.zeros(1, 7, dtype=torch.bool)), 1),
        )
        same(found(assigner(alone, padded), 0), found(whole, image))


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=str)
def test_a_prior_has_one_object_and_every_pair_is_valid(assigner) -> None:
    predictions, targets = random_scene(1, 4, 12, classes=3, size=(128, 128), missing=0.4)
    matches = assigner(predictions, targets)
    assert matches.valid.any() and not matches.quality[~matches.valid].any()
    assert matches.quality.min() >= 0 and matches.quality.max() <= 1
    for image in range(4):
        priors = matches.priors[image][matches.valid[image]]
        assert len(priors.unique()) == len(priors)
        assert targets.valid[image][matches.objects[image][matches.valid[image]]].all()


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=str)
@pytest.mark.parametrize("objects", [0, 2])
def test_images_without_objects_have_no_pairs_and_a_finite_loss(assigner, objects: int) -> None:
    predictions, targets = random_scene(2, 2, objects, classes=3, size=(64, 64), missing=1.0)
    classes = predictions.classes.requires_grad_()
    boxes = predictions.boxes.requires_grad_()
    loss = DetectionLoss(assigner, (QualityFocal(), BoxIou(2.0, "giou", squared=False, emphasis="scores")))
    losses = loss(replace(predictions, classes=classes, boxes=boxes), targets)
    assert losses["box"].item() == 0 and losses["classes"].item() > 0
    sum(losses.values()).backward()
    assert classes.grad.isfinite().all() and not boxes.grad.any()


def test_alignota_without_quality_terms_is_simota_on_classes_alone() -> None:
    predictions, targets = random_scene(3, 2, 6, classes=4, size=(128, 128), dtype=torch.float64)
    bare = replace(predictions, objectness=None)
    # SimOTA takes the square root of its scores: AlignOTA gets the logits of these roots.
    rooted = replace(bare, classes=torch.logit(bare.classes.sigmoid().sqrt()))
    plain = AlignOta(soft=False, focus=0.0, penalty=1e5)(rooted, targets)
    for image in range(2):
        same(found(plain, image), found(SimOta()(bare, targets), image))


def test_quality_focal_uses_the_best_of_several_pairs_of_a_prior_and_skips_ignored_priors() -> None:
    predictions, targets = random_scene(4, 1, 2, classes=3, size=(64, 64), dtype=torch.float64)
    targets = replace(targets, labels=torch.ones_like(targets.labels))
    pairs = Matches(
        torch.tensor([[5, 5, 0]]),
        torch.tensor([[0, 1, 0]]),
        torch.tensor([[0.3, 0.8, 0.5]]),
        torch.tensor([[True, True, False]]),
    )
    target = torch.zeros_like(predictions.classes)
    target[0, 5, 1] = 0.8
    score = predictions.classes.sigmoid()
    loss = -(target * score.log() + (1 - target) * (1 - score).log()) * (target - score) ** 2
    torch.testing.assert_close(QualityFocal()(Pairs(predictions, targets, pairs)), loss.sum() / 2, check_dtype=False)
    by_quality = QualityFocal(divided_by="quality")(Pairs(predictions, targets, pairs))
    torch.testing.assert_close(by_quality, loss.sum() / 1.1, rtol=1e-6, atol=0, check_dtype=False)
    ignored = torch.zeros(1, len(predictions.priors.points), dtype=torch.bool)
    ignored[0, 7:] = True
    kept = QualityFocal()(Pairs(predictions, targets, replace(pairs, ignored=ignored)))
    torch.testing.assert_close(kept, loss[0, :7].sum() / 2, check_dtype=False)


def test_pairs_are_weighted_by_quality_or_score() -> None:
    predictions, targets = random_scene(5, 2, 4, classes=3, size=(128, 128), dtype=torch.float64)
    pairs = Pairs(predictions, targets, AlignOta()(predictions, targets))
    overlap = box_iou(pairs.boxes, pairs.target_boxes, "giou")[pairs.valid]
    weights = {"quality": pairs.matches.quality[pairs.valid], "scores": pairs.classes.amax(-1).sigmoid()[pairs.valid]}
    for kind, weight in weights.items():
        expected = ((1 - overlap) * weight).sum() / weight.sum().clamp(min=1)
        torch.testing.assert_close(BoxIou(1.0, "giou", squared=False, emphasis=kind)(pairs), expected)


def test_distributions_need_bins() -> None:
    predictions, targets = random_scene(6, 1, 2, classes=3, size=(64, 64))
    with pytest.raises(TypeError, match="distributions over bins"):
        DistributionFocal()(Pairs(predictions, targets, AlignOta()(predictions, targets)))


@pytest.mark.parametrize("assigner", [AlignOta, Atss, TaskAligned])
def test_invalid_settings_raise(assigner) -> None:
    with pytest.raises(ValueError):
        assigner(candidates=0)


def test_alignota_and_quality_focal_train_rows_with_objectness() -> None:
    """The raw rows of a head are the parameters, in float64: no network, whose rounding would decide."""
    scene, targets = random_scene(7, 2, 3, classes=3, size=(64, 64), dtype=torch.float64)
    loss = DetectionLoss(AlignOta(), (QualityFocal(), BoxIou(2.0, "giou", squared=False), Objectness(), Classes()))
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(2, len(scene.priors.points), 8, generator=rng, dtype=torch.float64) * 0.1
    raw.requires_grad_()
    optimizer = torch.optim.Adam([raw], 0.05)
    totals = []
    for _ in range(100):
        losses = loss(decode(raw, scene.priors), targets)
        assert all(torch.isfinite(value) for value in losses.values())
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.25 * totals[0]
