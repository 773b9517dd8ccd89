"""Distillation of predictions: its mathematics, the matching of cells and classes, the balance of gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from onelook.config import diff, override
from onelook.errors import ConfigError
from onelook.losses.prediction_distillation import (
    box_loss,
    cells_in_common,
    distribution_loss,
    log_scores,
    score_loss,
)
from onelook.networks.build import build
from onelook.networks.yolox.architecture import Yolox
from onelook.ops.priors import grid_priors
from onelook.recipes import RECIPE_TYPES
from onelook.training.checkpoint import load_checkpoint, save_checkpoint
from onelook.training.distillation import TERM_NAME, Distillation
from onelook.training.gradient_balance import EVERY, GradientBalance
from onelook.training.loop import Step, train
from onelook.training.prediction_distillation import PredictionDistillation, PredictionTerm
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.types import Predictions
from test_train_loop import assert_same, run, weights_of
from training import ALONE, Squares, changed, detector_of

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = ("red", "green", "blue")
RNG = np.random.default_rng(0)


def predictions_of(shapes, strides, *, classes=2, anchors=0, objectness=False, regression=4, seed=0):
    """Random predictions of a head with these grids; anchors: of a cell, 0 for a head without."""
    draw = torch.Generator().manual_seed(seed)
    sides = [[(8.0 * (k + 1), 6.0 * (k + 1)) for k in range(anchors)] for _ in shapes]
    priors = grid_priors(shapes, strides, anchors=sides if anchors else None)
    rows = len(priors.points)
    corners = priors.points - 4 - 8 * torch.rand(1, rows, 2, generator=draw)
    boxes = torch.cat((corners, corners + 8 + 16 * torch.rand(2, rows, 2, generator=draw)[:1]), -1).repeat(2, 1, 1)
    boxes = boxes + torch.rand(boxes.shape, generator=draw)
    logits = torch.randn(2, rows, classes, generator=draw)
    return Predictions(
        boxes,
        logits,
        torch.randn(2, rows, generator=draw) if objectness else None,
        torch.randn(2, rows, regression, generator=draw),
        priors,
    )


# --- The terms, against loops over numbers -------------------------------------------------------------------------


def test_the_score_loss_is_the_focal_cross_entropy_over_the_sum_of_the_teachers_scores():
    student, teacher = RNG.uniform(0.02, 0.98, (2, 2, 5, 3))
    total = 0.0
    for place in np.ndindex(2, 5, 3):
        p, t = student[place], teacher[place]
        total -= abs(t - p) ** 1.5 * (t * math.log(p) + (1 - t) * math.log(1 - p))
    found = score_loss(torch.from_numpy(student).log(), torch.from_numpy(teacher).log(), 1.5)
    assert found.item() == pytest.approx(total / teacher.sum(), rel=1e-9)


def test_certain_scores_have_finite_losses_and_gradients():
    sure = torch.tensor([[[0.0, -1e-9, -200.0]]], requires_grad=True)
    loss = score_loss(sure, torch.tensor([[[-200.0, 0.0, 0.0]]]), 2.0)
    loss.backward()
    assert loss.isfinite() and sure.grad.isfinite().all()
    assert score_loss(torch.full((1, 4, 2), -9.0), torch.full((1, 4, 2), -300.0), 2.0).item() < 1e-6  # no object


def test_the_box_loss_is_the_weighted_mean_of_one_minus_giou():
    first, second = ({"a": RNG.uniform(0, 20, (2, 6, 2)), "s": RNG.uniform(1, 20, (2, 6, 2))} for _ in range(2))
    boxes = [np.concatenate((one["a"], one["a"] + one["s"]), -1) for one in (first, second)]
    weights = RNG.uniform(0, 1, (2, 6))
    total = 0.0
    for place in np.ndindex(2, 6):
        a, b = boxes[0][place], boxes[1][place]
        overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
        around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        total += weights[place] * (1 - overlap / union + (around - union) / around)
    found = box_loss(*map(torch.from_numpy, (*boxes, weights)))
    assert found.item() == pytest.approx(total / weights.sum(), rel=1e-9)


@pytest.mark.parametrize(("bins", "teacher_bins"), [(5, 5), (4, 6), (6, 4)])
def test_distributions_of_other_lengths_are_compared_up_to_the_students_last_bin(bins, teacher_bins):
    student, teacher = RNG.normal(size=(2, 3, 4, bins)), RNG.normal(size=(2, 3, 4, teacher_bins))
    weights, heat, total = RNG.uniform(0.2, 1, (2, 3)), 2.0, 0.0
    for image, cell, side in np.ndindex(2, 3, 4):
        p, q = (np.exp(logits[image, cell, side] / heat) for logits in (student, teacher))
        p, q = p / p.sum(), q / q.sum()
        target = np.zeros(bins)
        for k, share in enumerate(q):
            target[min(k, bins - 1)] += share
        divergence = sum(t * (math.log(t) - math.log(s)) for t, s in zip(target, p) if t > 0)
        total += weights[image, cell] * heat**2 * divergence / 4
    flat = [torch.from_numpy(one).flatten(2) for one in (student, teacher)]
    found = distribution_loss(*flat, torch.from_numpy(weights), heat)
    assert found.item() == pytest.approx(total / weights.sum(), rel=1e-9)


def test_scores_are_those_of_the_predictions():
    for settings in ({}, {"objectness": True}):
        found = predictions_of([(2, 3)], [8], **settings)
        torch.testing.assert_close(log_scores(found).exp(), found.scores())


# --- Cells ---------------------------------------------------------------------------------------------------------


def test_equal_layouts_are_compared_prior_by_prior():
    grids = [(4, 6), (2, 3)], [8, 16]
    student, teacher = predictions_of(*grids), predictions_of(*grids, seed=1, objectness=True)
    for cells, whole in zip(cells_in_common(student, teacher), (student, teacher)):
        assert torch.equal(cells.boxes, whole.boxes) and torch.equal(cells.regression, whole.regression)
        assert torch.equal(cells.log_scores, log_scores(whole))


def test_of_several_priors_in_a_cell_one_is_compared():
    """The teacher's with the highest score, and the student's whose box overlaps that one most; by a loop."""
    student = predictions_of([(2, 3), (4, 6), (1, 1)], [16, 8, 32], anchors=3)
    teacher = predictions_of([(4, 6), (2, 3)], [8, 16], anchors=2, seed=1, objectness=True)
    ours, theirs = cells_in_common(student, teacher)
    assert ours.boxes.shape == theirs.boxes.shape == (2, 30, 4)  # the grid of one cell is the student's alone

    def overlap(a, b):
        shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    scores = teacher.scores()
    starts, teacher_starts, cell = {6: 0, 24: 18}, {24: 0, 6: 48}, 0
    for count in (6, 24):
        for place in range(count):
            for image in range(2):
                rows = [teacher_starts[count] + anchor * count + place for anchor in range(2)]
                best = max(rows, key=lambda row: scores[image, row].max().item())
                assert torch.equal(theirs.boxes[image, cell], teacher.boxes[image, best])
                rows = [starts[count] + anchor * count + place for anchor in range(3)]
                box = teacher.boxes[image, best].tolist()
                near = max(rows, key=lambda row: overlap(student.boxes[image, row].tolist(), box))
                assert torch.equal(ours.boxes[image, cell], student.boxes[image, near])
                assert torch.equal(ours.regression[image, cell], student.regression[image, near])
            cell += 1


def test_predictions_without_a_common_grid_are_an_error():
    with pytest.raises(ValueError, match="no grid"):
        cells_in_common(predictions_of([(4, 4)], [8]), predictions_of([(2, 2)], [16]))


# --- Classes and refusals ------------------------------------------------------------------------------------------


def tiny(names, **settings):
    torch.manual_seed(1)
    return build(Yolox(depth=0.33, width=0.125, num_classes=len(names), size=(64, 64), **settings), classes=names)


def test_classes_are_matched_by_name():
    student, teacher = tiny(("cat", "dog", "cow")), tiny(("ant", "dog", "bee", "cat"))
    term = PredictionTerm(PredictionDistillation(boxes=0.0), student, teacher)
    assert term.own.tolist() == [0, 1] and term.others.tolist() == [3, 1]
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        ours, theirs = student.eval()(images), teacher.eval()(images)
    expected = score_loss(log_scores(ours)[..., [0, 1]], log_scores(theirs)[..., [3, 1]], 2.0)
    assert term(ours, theirs).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "said"),
    [
        (("cat",), ("ant", "bee"), {}, "the teacher knows ant, bee, the student learns cat"),
        (("cat",), (), {}, "The teacher has no class names"),
        (("cat",), ("cat",), {"scores": 0.0, "boxes": 0.0}, "Only distributions"),
    ],
)
def test_a_teacher_that_cannot_teach_predictions_is_refused(student, teacher, settings, said):
    two = tiny(teacher or ("cat",))
    two.class_names = teacher
    with pytest.raises(ConfigError, match=said):
        PredictionTerm(PredictionDistillation(**settings), tiny(student), two)


def test_a_teacher_of_other_classes_teaches_boxes():
    term = PredictionTerm(PredictionDistillation(scores=0.0), tiny(("cat",)), tiny(("ant", "bee")))
    images = torch.rand(1, 3, 64, 64) * 255
    assert term(tiny(("cat",)).eval()(images), tiny(("ant", "bee")).eval()(images)).item() > 0


def test_a_teacher_at_other_strides_is_refused():
    far = tiny(("cat",))
    far.neck.strides = (64, 128)
    with pytest.raises(ConfigError, match=r"predicts at 64, 128, the student at 8, 16, 32"):
        PredictionTerm(PredictionDistillation(), tiny(("cat",)), far)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": -1.0},
        {"scores": 0.0, "boxes": 0.0, "distributions": 0.0},
        {"temperature": 0.0},
        {"share": 0.0},
        {"start": 0.5, "end": 0.5},
        {"every": 0},
    ],
    ids=str,
)
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(ValueError, match=r"not|above|below"):
        PredictionDistillation(**wrong)


def test_it_is_a_setting_of_a_recipe():
    base = changed()
    settings = ("distillation=PredictionDistillation()", "distillation.boxes=3.0")
    found = override(base, *settings, types=RECIPE_TYPES)
    assert found.distillation == PredictionDistillation(boxes=3.0)
    assert [one.path for one in diff(base, found)] == ["distillation"]


def test_the_weight_is_0_outside_its_part_of_the_training():
    settings = PredictionDistillation(start=0.2, end=0.8, final=0.5)
    weights = [settings.at(step, 10, 10, 2) for step in range(100)]
    assert set(weights[:20]) == {0.0} == set(weights[80:]) and weights[20] == 1.0
    assert weights[50] == pytest.approx(0.75) and weights[79] == pytest.approx(0.5, abs=0.01)


# --- The balance ---------------------------------------------------------------------------------------------------


def test_the_term_gets_its_share_of_the_gradient_norm():
    balance = GradientBalance(0.5)
    features = tuple(torch.randn(2, 3, size, size, requires_grad=True) for size in (4, 2))
    task = sum((level**2).sum() for level in features)
    term = 1e-4 * sum((level**3).sum() for level in features)
    assert balance.factor().item() == 0.0  # nothing is known yet
    balance.measure(task, term, features)

    def norm(loss):
        found = torch.autograd.grad(loss, features, retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in found]).norm().item()

    assert norm(balance.factor() * term) == pytest.approx(0.5 * norm(task), rel=1e-5)
    before = balance.norms.clone()
    balance.measure(task * torch.nan, term, features)
    assert torch.equal(balance.norms, before)  # the optimizer skips such a step too
    balance.measure(2 * task, term, features)
    assert balance.norms[0].item() == pytest.approx(1.1 * before[0].item(), rel=1e-5)


TAUGHT = changed(epochs=3, distillation=PredictionDistillation(share=0.3))


def pupil(recipe=TAUGHT, **runtime):
    return TrainState(recipe, detector_of(recipe), ALONE, RuntimeOptions(**runtime), tiny(COLOURS))


def terms_of(recipe, train_state, batches=None):
    steps = [event for event in train(recipe, train_state, batches or Squares()) if isinstance(event, Step)]
    return [float(step.losses[TERM_NAME]) for step in steps]


def test_a_training_measures_in_every_tenth_step(monkeypatch):
    measured = []
    measure = GradientBalance.measure
    monkeypatch.setattr(GradientBalance, "measure", lambda self, *given: (measured.append(1), measure(self, *given)))
    state = pupil(changed(epochs=4, distillation=PredictionDistillation(share=0.3)))
    told = terms_of(changed(epochs=4, distillation=PredictionDistillation(share=0.3)), state)
    assert len(told) == 12 and len(measured) == 2 and EVERY == 10
    assert all(math.isfinite(value) and value > 0 for value in told)


@pytest.mark.parametrize(("settings", "learns"), [(PredictionDistillation(), True), (Distillation(share=0.3), False)])
def test_a_student_with_a_frozen_neck_is_taught_at_its_head(settings, learns):
    """Its features cannot change, so that a loss between features has no weight."""
    recipe = changed(epochs=1, distillation=settings, freeze=("backbone.*", "neck.*"))
    told = terms_of(recipe, pupil(recipe))
    assert all(math.isfinite(value) and (value > 0) == learns for value in told)


def test_the_teacher_is_run_in_every_second_step_only(monkeypatch):
    recipe = changed(epochs=2, distillation=PredictionDistillation(every=2))
    state, looks = pupil(recipe), []
    features = state.distiller.teacher.features
    monkeypatch.setattr(state.distiller.teacher, "features", lambda images: looks.append(1) or features(images))
    told = terms_of(recipe, state)
    assert [value > 0 for value in told] == [True, False] * 3 and len(looks) == 3


@pytest.mark.parametrize("settings", [Distillation(share=0.2, start=0.3), PredictionDistillation(start=0.2, every=2)])
def test_resume_is_bit_equal(tmp_path, settings):
    recipe = changed(epochs=4, distillation=settings, accumulate=2)
    whole, broken, fresh = (pupil(recipe) for _ in range(3))
    batches = Squares(batch=4)
    curve = run(recipe, whole, batches)
    before = run(recipe, broken, batches, stop_after=11)
    save_checkpoint(tmp_path / "state.pt", broken, {})
    load_checkpoint(tmp_path / "state.pt", fresh)
    assert before + run(recipe, fresh, batches) == curve
    assert_same(weights_of(whole), weights_of(fresh))
    assert_same(dict(whole.align.state_dict()), dict(fresh.align.state_dict()))
    assert whole.align.balance.norms.min() > 0


def test_it_works_in_half_precision():
    recipe = changed(epochs=1, distillation=PredictionDistillation(), closing=None)
    assert all(math.isfinite(value) and value > 0 for value in terms_of(recipe, pupil(recipe, precision="bf16")))


PAIRS = [
    ("damo-yolo-ns", "damo-yolo-t"),
    ("yolox-nano", "damo-yolo-t"),
    ("damo-yolo-ns", "yolov7-tiny"),
    ("yolov7-tiny", "yolov4-tiny"),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS, ids=[" from ".join(pair) for pair in PAIRS])
def test_a_student_of_any_family_learns_the_predictions_of_a_teacher_of_any(student, teacher):
    torch.manual_seed(0)
    small, large = (build(name, classes=COLOURS) for name in (student, teacher))
    small.train(), large.eval()
    term = PredictionTerm(PredictionDistillation(), small, large)
    images = torch.rand(2, 3, 64, 96) * 255
    with torch.no_grad():
        wanted = large(images)
    features = small.features(images)
    loss = term(small.head(features), wanted)
    loss.backward()
    assert loss.item() > 0
    for part in (small.backbone, small.neck):
        missing = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
