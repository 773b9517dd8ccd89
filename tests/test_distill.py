"""Distillation: the published losses, and trainings with a teacher of any family."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from descent import share_of_the_fall
from onelook.errors import ConfigError, WeightsError
from onelook.losses.feature_distillation import Cwd, Mgd, Mimic, normalised
from onelook.networks.build import build
from onelook.networks.detector import FeaturePart
from onelook.networks.yolox.architecture import Yolox
from onelook.recipes import default_recipe
from onelook.training.checkpoint import load_checkpoint, save_checkpoint
from onelook.training.distillation import OFFICIAL_CODE, PAPER, TERM_NAME, AlignModule, Distillation, matched_levels
from onelook.training.loop import Step, train
from onelook.training.optimizer import Sgd
from onelook.training.recipe import Closing
from onelook.training.schedule import Constant
from onelook.training.teacher import open_teacher
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.weights import save_weights
from shared import fill_module, needs_shared, reference
from test_train_loop import assert_same, run, weights_of
from training import ALONE, RECIPE, Squares, changed, detector_of

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = {"cwd": Cwd(), "mgd": Mgd(), "mimic": Mimic()}


class Part(FeaturePart):
    """What the align module must know of a neck."""

    def __init__(self, channels, strides=(8, 16, 32)):
        super().__init__()
        self.channels, self.strides = tuple(channels), strides


@pytest.fixture(scope="module")
def golden():
    folder = reference("damo_yolo")
    with np.load(folder / "distillation.npz") as file:
        return {key: file[key] for key in file.files}, json.loads((folder / "distillation.json").read_text())


def aligned(settings, facts):
    """The align module with the reference's weights, and what of them the reference calls how."""
    fill = fill_module().fill
    align = AlignModule(settings, Part(facts["student_channels"]), Part(facts["teacher_channels"]))
    with torch.no_grad():
        for level, project in enumerate(align.project):
            for name, parameter in project.named_parameters():
                parameter.copy_(torch.from_numpy(fill(f"align_module.{level}.{name}", tuple(parameter.shape))))
        for level, learnt in enumerate(align.learnt):
            for name, parameter in learnt.named_parameters():
                official = f"feature_loss.generation.{level}.{name}"
                parameter.copy_(torch.from_numpy(fill(official, tuple(parameter.shape))))
    return align


@needs_shared
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_the_published_ones(golden, name, monkeypatch):
    arrays, facts = golden
    expected = facts["results"][name]
    align = aligned(Distillation(loss=LOSSES[name]), facts)
    student = tuple(torch.from_numpy(arrays[f"student_{k}"]).requires_grad_() for k in range(3))
    teacher = tuple(torch.from_numpy(arrays[f"teacher_{k}"]) for k in range(3))
    draws = iter([torch.from_numpy(arrays[f"mgd_uniform_{k}"]) for k in range(3)])
    monkeypatch.setattr(torch, "rand_like", lambda like: next(draws))
    loss = align(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    for level in range(3):
        gradient = student[level].grad
        assert gradient.norm().item() == pytest.approx(expected["grad_norm_student"][level], rel=1e-5)
        index = torch.from_numpy(arrays[f"{name}_grad_student_{level}_index"])
        wanted = torch.from_numpy(arrays[f"{name}_grad_student_{level}_value"])
        torch.testing.assert_close(gradient.flatten()[index], wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
        weight, bias = align.project[level].weight.grad, align.project[level].bias.grad
        assert weight.norm().item() == pytest.approx(expected["grad_norm_align_weight"][level], rel=1e-5)
        assert bias.norm().item() < 1e-7  # normalisation takes every constant away


@needs_shared
@pytest.mark.parametrize("name", ["cwd", "mimic"])
def test_every_level_has_its_published_value(golden, name):
    arrays, facts = golden
    align = aligned(Distillation(loss=LOSSES[name]), facts)
    for level in range(3):
        told = normalised(align.project[level](torch.from_numpy(arrays[f"student_{level}"])))
        wanted = normalised(torch.from_numpy(arrays[f"teacher_{level}"]))
        value = LOSSES[name](told, wanted, nn.Identity()).item()
        assert value == pytest.approx(facts["results"][name]["per_level"][level], rel=1e-5)


@needs_shared
def test_the_weight_falls_as_published():
    wanted = json.loads((reference("damo_yolo") / "schedules.json").read_text())["distill_weight"]
    for step, weight in wanted["values"].items():
        assert OFFICIAL_CODE.at(int(step), 100, wanted["total_iterations"] // 100, 16) == pytest.approx(
            weight, rel=1e-12
        )


def test_with_the_papers_settings_closing_epochs_have_no_distillation():
    weights = [PAPER.at(step, 10, 30, 4) for step in range(300)]
    assert weights[0] == 0.5 and weights[130] == pytest.approx(0.5 * 0.55)
    assert weights[259] == pytest.approx(0.05, rel=1e-3) and set(weights[260:]) == {0.0}
    assert OFFICIAL_CODE.at(299, 10, 30, 4) == pytest.approx(0.1, rel=1e-3)


def test_equal_features_have_no_loss_at_any_scale():
    maps = torch.randn(2, 6, 5, 7)
    for loss in (Cwd(), Mimic()):
        assert loss(normalised(maps), normalised(3.0 * maps + 2.0), nn.Identity()).item() == pytest.approx(0, abs=1e-5)
    assert Cwd(temperature=4.0)(maps, maps + 1.0, nn.Identity()).item() == pytest.approx(0, abs=1e-5)


def test_the_masked_fraction_is_the_setting():
    torch.manual_seed(0)
    ones = torch.ones(4, 2, 50, 50)
    plain = nn.Identity()
    for masked in (0.0, 0.65):
        loss = Mgd(masked=masked, scale=1.0)(ones, torch.zeros_like(ones), plain) / ones[0].numel()
        assert loss.item() == pytest.approx(1.0 - masked, abs=0.02)
    assert all(p.requires_grad for p in Mgd().trainable_module(3).parameters())
    assert not any(p.requires_grad for p in Mgd(trains=False).trainable_module(3).parameters())


def test_levels_are_matched_by_stride():
    assert matched_levels(Part((1, 2, 3)), Part((4, 5, 6, 7), (4, 8, 16, 32))) == ((0, 1), (1, 2), (2, 3))
    # A neck that feeds an auxiliary head has every stride twice: its lead levels count.
    assert matched_levels(Part((1,) * 4, (8, 16, 8, 16)), Part((1,) * 3)) == ((0, 0), (1, 1))
    with pytest.raises(ConfigError, match=r"teacher's features have 4, the student's 8, 16, 32"):
        matched_levels(Part((1, 2, 3)), Part((1,), (4,)))


PAIRS = [
    ("yolox-nano", "yolox-s"),
    ("damo-yolo-ns", "yolox-s"),
    ("yolox-nano", "damo-yolo-t"),
    ("yolov7-tiny", "yolox-s"),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS, ids=[" from ".join(pair) for pair in PAIRS])
def test_a_student_of_any_family_gets_a_gradient_from_a_teacher_of_any(student, teacher):
    """For 3 classes and for 80: only features meet."""
    torch.manual_seed(0)
    small, large = build(student, 3).train(), build(teacher).eval()
    align = AlignModule(Distillation(), small.neck, large.neck)
    images = torch.rand(2, 3, 64, 96) * 255
    with torch.no_grad():
        wanted = large.features(images)
    align(small.features(images), wanted).backward()
    assert len(align.levels) == 3
    for part in (small.backbone, small.neck, align):
        missing = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


def test_a_teacher_is_a_name_with_weights_a_file_or_the_folder_of_a_run(tmp_path):
    torch.manual_seed(0)
    file = save_weights(build("damo-yolo-ns", 2), tmp_path / "run" / "best.safetensors")
    ways = [("damo-yolo-ns", str(file)), (str(file), None), (str(file.parent), None)]
    records = [open_teacher(*way)[1] for way in ways]
    assert len({record.fingerprint for record in records}) == 1
    assert [(record.model, record.weights) for record in records] == ways  # by absolute path, to be found again
    for model, weights, said in (
        ("damo-yolo-ns", None, "a file as teacher_weights"),
        ("yolox-s", str(file), "not of yolox-s"),
    ):
        with pytest.raises(WeightsError, match=said):
            open_teacher(model, weights)


# --- Trainings -------------------------------------------------------------------------------------------------------

TAUGHT = changed(epochs=3, distillation=Distillation())


def teacher_of(width=0.25, **settings):
    torch.manual_seed(99)
    return build(Yolox(depth=0.33, width=width, num_classes=7, size=(64, 64), **settings))


def pupil(recipe=TAUGHT, **runtime):
    return TrainState(recipe, detector_of(recipe), ALONE, RuntimeOptions(**runtime), teacher_of())


@pytest.mark.parametrize("loss", [Cwd(), Mgd(masked=0.3, scale=1e-3), Mimic()], ids=LOSSES)
def test_a_student_approaches_the_features_of_its_teacher(loss):
    settings = Distillation(loss=loss, final=1.0)
    recipe = changed(epochs=4, distillation=settings, closing=None, optimizer=Sgd(lr_per_image=0.05 / 8))
    steps = [event for event in train(recipe, pupil(recipe), Squares()) if isinstance(event, Step)]
    told = [float(step.losses[TERM_NAME]) for step in steps]
    assert list(steps[0].losses) == ["box", "objectness", "classes", TERM_NAME] == list(recipe.terms_at(0)[:4])
    assert all(math.isfinite(value) for value in told) and sum(told[-3:]) < sum(told[:3])


def test_the_teacher_and_what_is_saved_do_not_change():
    train_state, teacher = pupil(), teacher_of()
    before = {name: tensor.clone() for name, tensor in train_state.distiller.teacher.state_dict().items()}
    projection = train_state.align.project[0].weight.clone()
    run(TAUGHT, train_state)
    assert_same(before, train_state.distiller.teacher.state_dict())
    assert not train_state.distiller.teacher.training and not any(
        m.training for m in train_state.distiller.teacher.modules()
    )
    assert train_state.step.training
    assert not torch.equal(projection, train_state.align.project[0].weight)  # it is in the optimizer
    assert train_state.evaluated_model.state_dict().keys() == detector_of(TAUGHT).state_dict().keys()
    images = torch.rand(1, 3, 64, 64) * 255
    for ours, theirs in zip(train_state.distiller.targets(images), teacher.eval().features(images)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_at_weight_zero_training_equals_one_without_a_teacher():
    alone, told = (changed(epochs=2, clip=0.5, distillation=d) for d in (None, Distillation(weight=0.0)))
    one = TrainState(alone, detector_of(alone), ALONE, RuntimeOptions())
    two = pupil(told)
    assert run(alone, one) == run(told, two)
    assert_same(weights_of(one), weights_of(two))


@pytest.mark.parametrize(("loss", "stop"), [(Cwd(), 1), (Mgd(), 4)], ids=["cwd", "mgd"])
def test_resume_with_a_teacher_is_bit_equal(tmp_path, loss, stop):
    recipe = changed(epochs=2, distillation=Distillation(loss=loss), accumulate=2)
    whole, broken, fresh = (pupil(recipe) for _ in range(3))
    batches = Squares(batch=4)
    curve = run(recipe, whole, batches)
    before = run(recipe, broken, batches, stop_after=stop)
    save_checkpoint(tmp_path / "state.pt", broken, {})
    with torch.no_grad():
        fresh.align.project[0].weight.add_(1)  # whatever it was, the state decides
    load_checkpoint(tmp_path / "state.pt", fresh)
    assert before + run(recipe, fresh, batches) == curve
    assert_same(weights_of(whole), weights_of(fresh))
    assert_same(dict(whole.align.state_dict()), dict(fresh.align.state_dict()))


def test_in_the_papers_second_stage_the_teacher_is_not_run(monkeypatch):
    recipe = changed(epochs=3, distillation=PAPER, closing=Closing(epochs=1))
    train_state = pupil(recipe)
    looks = []
    features = train_state.distiller.teacher.features
    monkeypatch.setattr(train_state.distiller.teacher, "features", lambda images: looks.append(1) or features(images))
    told = [float(e.losses[TERM_NAME]) for e in train(recipe, train_state, Squares()) if isinstance(e, Step)]
    assert len(looks) == 6 and all(value > 0 for value in told[:6]) and told[6:] == [0.0] * 3


def test_distillation_works_in_half_precision_and_other_layouts():
    for runtime in ({"precision": "bf16"}, {"channels_last": False}):
        recipe = changed(epochs=1, distillation=Distillation(), closing=None)
        steps = [event for event in train(recipe, pupil(recipe, **runtime), Squares()) if isinstance(event, Step)]
        assert all(
            step.losses[TERM_NAME].dtype == torch.float32 and step.losses[TERM_NAME].isfinite() for step in steps
        )


def test_a_teacher_that_does_not_fit_is_an_error():
    with pytest.raises(ConfigError, match="has distillation, but there is no teacher"):
        TrainState(TAUGHT, detector_of(TAUGHT), ALONE, RuntimeOptions())
    with pytest.raises(ConfigError, match="has no distillation"):
        TrainState(RECIPE, detector_of(RECIPE), ALONE, RuntimeOptions(), teacher_of())
    far = teacher_of()
    far.backbone.strides = (8, 16, 128)
    with pytest.raises(ConfigError, match="64x64 do not fit the teacher"):
        TrainState(TAUGHT, detector_of(TAUGHT), ALONE, RuntimeOptions(), far)
    for wrong in ({"weight": -1.0}, {"final": 2.0}):
        with pytest.raises(ValueError, match="weight is 0 or more"):
            replace(OFFICIAL_CODE, **wrong)


@pytest.mark.parametrize("name", ["yolox-nano", "damo-yolo-ns"])
def test_yolox_s_is_a_teacher_for_a_few_steps(name):
    """The student's published recipe at 64 pixels: the loss terms stay, and the distillation term can be learnt.

    That is a fact of its gradient, in float64: a small step against it lowers the term as much as it promises.
    """
    recipe = default_recipe(name, distilled=True)
    recipe = replace(
        recipe,
        model=replace(recipe.model, num_classes=3),
        distillation=Distillation(final=1.0),
        optimizer=replace(recipe.optimizer, lr_per_image=1e-3 if name == "damo-yolo-ns" else 6e-3),
        schedule=Constant(),
        epochs=1,
        batch_size=8,
        size=(64, 64),
        multiscale=None,
        closing=None,
        ema=None,
    )
    torch.manual_seed(1)
    train_state = TrainState(recipe, build(recipe.model), ALONE, RuntimeOptions(), build("yolox-s"))
    told = [event.losses for event in train(recipe, train_state, Squares()) if isinstance(event, Step)]
    assert list(told[0]) == list(recipe.terms_at(0)) and len(told) == 3
    assert all(value.isfinite() for losses in told for value in losses.values())
    student, distiller = build(recipe.model).train().double(), train_state.distiller
    teacher, align = distiller.teacher.double(), distiller.align.double()
    images = Squares().take(range(4)).images.double()
    wanted = [level.detach() for level in teacher.features(images)]
    trained = [*student.backbone.parameters(), *student.neck.parameters(), *align.parameters()]
    share = share_of_the_fall(lambda: align(student.features(images), wanted), trained)
    assert share == pytest.approx(1, abs=0.1)
