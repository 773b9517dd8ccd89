"""Assignments, losses and gradients equal YOLOv7's goldens, whatever cases its files hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onelook.assign.anchor_cells import AnchorCells
from onelook.assign.anchor_ota import AnchorOta
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.lead_guided import Auxiliary
from onelook.losses.pairs import Pairs
from onelook.losses.yolov7 import LevelBoxIou, LevelClasses, LevelObjectness
from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.ops.iou import box_iou
from onelook.ops.priors import flatten_levels, grid_priors
from onelook.recipes import default_recipe
from onelook.types import Predictions, Targets
from shared import SHARED, needs_shared, reference

CASES = json.loads((reference("yolov7") / "losses.json").read_text()) if SHARED is not None else {}
ANCHORS = {
    3: (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401))),
    4: (
        ((19, 27), (44, 40), (38, 94)),
        ((96, 68), (86, 152), (180, 137)),
        ((140, 301), (303, 264), (238, 542)),
        ((436, 615), (739, 380), (925, 792)),
    ),
}
STRIDES = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(reference("yolov7") / "losses.npz") as file:
        return dict(file)


def decoded(maps: list[torch.Tensor], auxiliary: Predictions | None = None) -> Predictions:
    """Raw maps (B, 3, H, W, 5 + C) of every level as a YOLOv7 head would return them."""
    shapes = [(level.shape[2], level.shape[3]) for level in maps]
    priors = grid_priors(shapes, STRIDES[: len(maps)], anchors=ANCHORS[len(maps)], dtype=maps[0].dtype)
    raw = flatten_levels([level.permute(0, 1, 4, 2, 3).flatten(1, 2) for level in maps], anchors=3)
    centres = (2 * raw[..., :2].sigmoid() - 1) * priors.strides[:, None] + priors.points
    boxes = cxcywh_to_xyxy(torch.cat([centres, (2 * raw[..., 2:4].sigmoid()) ** 2 * priors.sizes], -1))
    return Predictions(boxes, raw[..., 5:], raw[..., 4], raw[..., :4], priors, auxiliary)


def targets_of(rows: np.ndarray, batch: int, size: int, dtype: torch.dtype) -> tuple[Targets, np.ndarray]:
    """Rows (image, class, x, y, w, h as fractions) as targets, and the row's number of every object (B, M)."""
    longest = max([int((rows[:, 0] == image).sum()) for image in range(batch)])
    boxes, labels = torch.zeros(batch, longest, 4, dtype=dtype), torch.zeros(batch, longest, dtype=torch.int64)
    numbers = np.full((batch, longest), -1)
    for image in range(batch):
        own = np.flatnonzero(rows[:, 0] == image)
        numbers[image, : len(own)] = own
        labels[image, : len(own)] = torch.from_numpy(rows[own, 1]).long()
        boxes[image, : len(own)] = cxcywh_to_xyxy(torch.from_numpy(rows[own, 2:6]).to(dtype) * size)
    return Targets(boxes, labels, torch.from_numpy(numbers >= 0)), numbers


def problem(arrays, case: str, dtype: torch.dtype = torch.float64):
    facts = CASES[case]
    folder, levels = f"inputs/{facts['inputs']}", facts["levels"]
    count = sum(key.startswith(f"{folder}/") for key in arrays)
    maps = [torch.from_numpy(arrays[f"{folder}/{i}"]).to(dtype).requires_grad_() for i in range(count)]
    auxiliary = decoded(maps[levels:]) if "Aux" in facts["loss_class"] else None
    targets, numbers = targets_of(arrays[f"{case}/targets"], facts["batch"], facts["image_size"], dtype)
    return maps, decoded(maps[:levels], auxiliary), targets, numbers


def loss_of(case: str) -> DetectionLoss:
    facts = CASES[case]
    gains = facts["hyperparameters"]
    kind, focal = facts["loss_class"], gains["fl_gamma"]
    terms = (
        LevelBoxIou(gains["box"], scaled=False),
        LevelObjectness(gains["obj"], focal=focal, scaled=False),
        LevelClasses(gains["cls"], smoothing=gains["label_smoothing"], focal=focal, scaled=False),
    )
    if "OTA" not in kind:
        return DetectionLoss(AnchorCells(), terms, scale=facts["batch"])
    ota = AnchorOta(candidates=20 if "Aux" in kind else 10)
    auxiliary = Auxiliary(assigner=replace(ota, cells=AnchorCells(reach=1.0))) if "Aux" in kind else None
    return DetectionLoss(ota, terms, auxiliary=auxiliary, scale=facts["batch"])


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_matches_are_identical(arrays, case):
    _, predictions, targets, numbers = problem(arrays, case)
    loss = loss_of(case)
    matches = {"lead": (predictions, loss.assigner(predictions, targets))}
    if loss.auxiliary is not None:
        coarse = loss.auxiliary.matches(predictions, predictions.auxiliary, targets, matches["lead"][1])
        matches["auxiliary"] = (predictions.auxiliary, coarse)
    for head, (seen, found) in matches.items():
        image, pair = found.valid.nonzero().unbind(1)
        rows, target = found.priors[image, pair].numpy(), numbers[image, found.objects[image, pair]]
        level = seen.priors.levels.numpy()[rows]
        for number in range(len(seen.priors.shapes)):
            prefix = f"{case}/{head}_{number}"
            own = np.flatnonzero(level == number)
            order = own[np.lexsort((target[own], rows[own], image.numpy()[own]))]
            np.testing.assert_array_equal(rows[order], arrays[f"{prefix}_row"])
            np.testing.assert_array_equal(image.numpy()[order], arrays[f"{prefix}_image"])
            np.testing.assert_array_equal(target[order], arrays[f"{prefix}_target"])


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_agree(arrays, case):
    facts = CASES[case]
    maps, predictions, targets, _ = problem(arrays, case)
    losses = loss_of(case)(predictions, targets)
    for name, theirs in {"box": "box", "objectness": "obj", "classes": "cls"}.items():
        value = losses[name].item() + (losses[f"auxiliary_{name}"].item() if f"auxiliary_{name}" in losses else 0.0)
        assert value == pytest.approx(facts["batch"] * facts[f"loss_{theirs}"], rel=1e-5), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(facts["loss"], rel=1e-5)
    total.backward()
    used = maps[: len(facts["gradient_norm_levels"])]  # a loss without auxiliary part leaves the other maps alone
    gradients = [torch.zeros_like(level) if level.grad is None else level.grad for level in used]
    norms = [gradient.norm().item() for gradient in gradients]
    assert np.linalg.norm(norms) == pytest.approx(facts["gradient_norm"], rel=1e-5)
    np.testing.assert_allclose(norms, facts["gradient_norm_levels"], rtol=1e-5, atol=1e-12)
    for number, gradient in enumerate(gradients):
        if f"{case}/gradient_{number}_index" in arrays:
            sample = gradient.flatten()[arrays[f"{case}/gradient_{number}_index"]]
            np.testing.assert_allclose(sample, arrays[f"{case}/gradient_{number}_value"], rtol=2e-5, atol=1e-8)


@needs_shared
@pytest.mark.parametrize("case", ["ota", "plain", "aux"])
def test_scaled_weights_are_the_published_ones(arrays, case):
    """p5 and p6 hyper-parameters with their gains adapted to the classes, levels and size of the case."""
    _, predictions, targets, _ = problem(arrays, case)
    loss = replace(loss_of(case), terms=(LevelBoxIou(), LevelObjectness(), LevelClasses()))
    published = loss_of(case)(predictions, targets)
    for name, value in loss(predictions, targets).items():
        assert value.item() == pytest.approx(published[name].item(), rel=1e-9), name


def scene(seed: int = 0, batch: int = 3, objects: int = 5, classes: int = 4) -> tuple[Predictions, Targets]:
    """Random objects, of which every fourth is padding, and the predictions of an untrained head."""
    rng = torch.Generator().manual_seed(seed)
    sides = [32, 16, 8]
    maps = [torch.randn(batch, 3, side, side, 5 + classes, generator=rng, dtype=torch.float64) for side in sides]
    size = (torch.rand(batch, objects, 2, generator=rng, dtype=torch.float64) * 3 + 2).exp()
    centre = torch.rand(batch, objects, 2, generator=rng, dtype=torch.float64) * 256
    labels = torch.randint(0, classes, (batch, objects), generator=rng)
    valid = torch.rand(batch, objects, generator=rng) < 0.75
    boxes = cxcywh_to_xyxy(torch.cat([centre, size], -1)).where(valid.unsqueeze(-1), 0.0)
    return decoded(maps), Targets(boxes, labels.where(valid, 0), valid)


def pairs_of(matches, image: int) -> list[tuple[int, int]]:
    valid = matches.valid[image]
    return sorted(zip(matches.priors[image][valid].tolist(), matches.objects[image][valid].tolist()))


def rows_of(predictions: Predictions, rows: slice) -> Predictions:
    parts = {name: getattr(predictions, name)[rows] for name in ("boxes", "classes", "objectness", "regression")}
    return replace(predictions, **parts)


RULES = {"plain": AnchorCells(), "coarse": AnchorCells(reach=1.0), "ota": AnchorOta(), "soft": AnchorOta(soft=True)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_equals_its_images_and_padding_changes_nothing(rule, seed):
    predictions, targets = scene(seed)
    together = RULES[rule](predictions, targets)
    assert together.valid.any()
    for image in range(3):
        rows = slice(image, image + 1)
        alone = Targets(targets.boxes[rows], targets.labels[rows], targets.valid[rows])
        padded = Targets(
            torch.nn.functional.pad(alone.boxes, (0, 0, 0, 3)),
            torch.nn.functional.pad(alone.labels, (0, 3)),
            torch.nn.functional.pad(alone.valid, (0, 3)),
        )
        one = RULES[rule](rows_of(predictions, rows), alone)
        assert pairs_of(one, 0) == pairs_of(RULES[rule](rows_of(predictions, rows), padded), 0)
        assert pairs_of(one, 0) == pairs_of(together, image)


@pytest.mark.parametrize("reach", [0.5, 1.0])
def test_candidates_follow_the_rule_for_each_prior(reach):
    """Asked of every prior: does its anchor fit, and is its cell the centre's or near enough to it?"""
    predictions, targets = scene(7)
    priors, found = predictions.priors, AnchorCells(reach=reach)(predictions, targets)
    for image in range(3):
        expected = []
        for number in targets.valid[image].nonzero().squeeze(1).tolist():
            x1, y1, x2, y2 = targets.boxes[image, number].tolist()
            for row, (stride, (width, height), (x, y)) in enumerate(
                zip(priors.strides.tolist(), priors.sizes.tolist(), priors.points.tolist())
            ):
                ratios = ((x2 - x1) / width, (y2 - y1) / height)
                fits = max(max(ratio, 1 / ratio) for ratio in ratios) < 4.0
                # Distance of the centre from the prior's cell, in cells: 0 inside it.
                beside = [max(abs(c - p) / stride - 0.5, 0.0) for c, p in (((x1 + x2) / 2, x), ((y1 + y2) / 2, y))]
                if fits and min(beside) == 0 and max(beside) < reach:
                    expected.append((row, number))
        assert pairs_of(found, image) == sorted(expected)


@pytest.mark.parametrize("rule", RULES)
def test_images_without_objects_have_no_pairs(rule):
    predictions, _ = scene()
    for objects in (0, 2):
        empty = Targets(torch.zeros(3, objects, 4), torch.zeros(3, objects).long(), torch.zeros(3, objects).bool())
        assert not RULES[rule](predictions, empty).valid.any()


def test_objectness_target_is_the_overlap_of_the_last_pair():
    predictions, targets = scene()
    loss = DetectionLoss(AnchorCells(), (LevelObjectness(),))
    pairs = Pairs(predictions, targets, loss.assigner(predictions, targets))
    desired = LevelObjectness().targets(pairs)
    overlap = box_iou(pairs.boxes, pairs.target_boxes, "ciou").clamp(min=0)
    expected = torch.zeros_like(desired)
    for image, pair in pairs.valid.nonzero().tolist():
        expected[image, pairs.matches.priors[image, pair]] = overlap[image, pair]
    torch.testing.assert_close(desired, expected)
    with pytest.raises(ValueError, match="balance has weights for 2 levels"):
        LevelObjectness(balance=(1.0, 1.0))(pairs)


def test_reach_bounds_the_objectness_of_far_cells():
    """A 40 pixel box at (100, 84), predicted perfectly by every cell: far cells have a lower objectness target."""
    predictions, _ = scene()
    box = torch.tensor([80.0, 64.0, 120.0, 104.0], dtype=torch.float64)
    predictions = replace(rows_of(predictions, slice(0, 1)), boxes=box.expand(1, len(predictions.priors.points), 4))
    targets = Targets(box[None, None], torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
    pairs = Pairs(predictions, targets, AnchorCells(reach=1.0)(predictions, targets))
    free, bound = LevelObjectness().targets(pairs)[0], LevelObjectness(reach=0.5).targets(pairs)[0]
    seen = set()
    for row in free.nonzero().squeeze(1).tolist():
        assert free[row].item() == pytest.approx(1.0)
        stride = predictions.priors.strides[row].item()
        (x, y) = predictions.priors.points[row].tolist()
        beyond = [max(abs(c - p) - 0.5 * stride, 0.0) for c, p in ((100, x), (84, y))]
        common = (40 - beyond[0]) * (40 - beyond[1])
        assert bound[row].item() == pytest.approx(common / (2 * 40 * 40 - common))
        seen.add(max(beyond) > 0)
    assert seen == {False, True}


SCHEMES = {
    "independent": Auxiliary(assigner=AnchorOta(), guide="own"),
    "lead-guided": Auxiliary(),
    "coarse-to-fine": Auxiliary(assigner=AnchorOta(AnchorCells(reach=1.0))),
    "other terms": Auxiliary(weight=1.0, terms=(LevelBoxIou(), LevelObjectness(reach=0.5))),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_an_auxiliary_head_is_trained_by_its_scheme(name):
    (lead, targets), (auxiliary, _) = scene(1), scene(2)
    scheme = SCHEMES[name]
    loss = DetectionLoss(AnchorOta(), (LevelBoxIou(), LevelObjectness(), LevelClasses()), auxiliary=scheme)
    predictions = replace(lead, auxiliary=auxiliary)
    matches = loss.assigner(predictions, targets)
    own = scheme.matches(predictions, auxiliary, targets, matches)
    expected = {
        "independent": AnchorOta()(auxiliary, targets),
        "coarse-to-fine": AnchorOta(AnchorCells(reach=1.0))(lead, targets),
    }.get(name, matches)
    assert [pairs_of(own, image) for image in range(3)] == [pairs_of(expected, image) for image in range(3)]
    losses = loss(predictions, targets)
    terms = loss.terms if scheme.terms is None else scheme.terms
    alone = DetectionLoss(AnchorOta(), terms).weighted_terms(Pairs(auxiliary, targets, own))
    assert list(losses) == ["box", "objectness", "classes", *(f"auxiliary_{term.name}" for term in terms)]
    for term in terms:
        torch.testing.assert_close(losses[f"auxiliary_{term.name}"], scheme.weight * alone[term.name])
    with pytest.raises(TypeError, match="no auxiliary predictions"):
        loss(lead, targets)


def test_one_class_has_no_class_loss():
    predictions, targets = scene(classes=1)
    losses = DetectionLoss(AnchorOta(), (LevelBoxIou(), LevelObjectness(), LevelClasses()))(predictions, targets)
    assert losses["classes"].item() == 0 and losses["box"].item() > 0


def test_a_head_without_anchors_raises():
    recipe = default_recipe("yolox-nano")
    with pytest.raises(ValueError, match="AnchorOta needs anchors, which the head of Yolox does not provide"):
        replace(recipe, loss=DetectionLoss(AnchorOta(), recipe.loss.terms), closing=None)
    with pytest.raises(ValueError, match="Auxiliary needs auxiliary, which the head of Yolox does not provide"):
        replace(recipe, loss=replace(recipe.loss, auxiliary=Auxiliary()), closing=None)


@pytest.mark.parametrize("rule", RULES)
def test_no_value_is_copied_from_the_device(rule):
    """On the meta device there are shapes and no values: whatever waits for one raises."""
    predictions, targets = scene()

    def shapes(value):
        moved = {name: part.to("meta") for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
        return replace(value, **moved)

    lead = replace(shapes(predictions), priors=shapes(predictions.priors))
    terms = (LevelBoxIou(), LevelObjectness(reach=0.5, focal=1.5), LevelClasses(smoothing=0.1))
    loss = DetectionLoss(RULES[rule], terms, auxiliary=Auxiliary(assigner=RULES[rule], guide="own"))
    losses = loss(replace(lead, auxiliary=lead), shapes(targets))
    assert len(losses) == 6 and all(value.shape == () for value in losses.values())
