"""The recipe `small`: its rules stay in range and change the right way, for any training; the choice of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.api.recipe_choice import RecipeChoice, knows_classes, resolved, resumed
from onelook.config import diff, from_plain, to_plain, write_yaml
from onelook.data import open_dataset
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import ConfigError
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.yolov4 import DarknetBox
from onelook.networks.build import build
from onelook.recipes import RECIPE_TYPES, find_recipe
from onelook.recipes.small import COCO_OBJECTS, FEWEST_STEPS, Facts, multiscale, small
from onelook.training.distillation import Distillation
from onelook.training.frozen_start import FrozenStart
from onelook.training.gradient_clip import RelativeClip
from onelook.training.loop import train
from onelook.training.optimizer import Sgd
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.weights import save_weights
from training import Squares, changed, train_state_of

FAMILIES = {name: find_recipe(name) for name in ("yolox-nano", "yolox-s", "yolov7-tiny", "yolov4-tiny", "damo-yolo-ns")}
LARGE = {name: find_recipe(name) for name in ("yolov4", "yolov7-w6", "damo-yolo-s", "yolov4-csp")}
SIDES = st.tuples(st.floats(1, 600), st.floats(1, 4)).map(lambda pair: (pair[0], pair[0] * pair[1]))
FACTS = st.builds(
    Facts,
    images=st.integers(1, 200_000),
    epochs=st.integers(1, 1000),
    batch=st.sampled_from((1, 4, 8, 16, 64, 256)),
    has_weights=st.booleans(),
    knows_classes=st.booleans(),
    sides=st.none() | SIDES,
    objects=st.floats(0, 100),
)
NAMES = st.sampled_from(sorted(FAMILIES | LARGE))


def fitted(name, facts, keep=()):
    return small((FAMILIES | LARGE)[name], facts, keep)


@given(name=NAMES, facts=FACTS)
def test_every_value_is_in_range_for_any_training(name, facts):
    published, found = (FAMILIES | LARGE)[name], fitted(name, facts)  # a Recipe checks itself
    augment, before = found.augment, published.augment
    assert 0 <= getattr(augment, "mosaic", 0) <= getattr(before, "mosaic", 1)
    assert found.schedule.warmup_epochs + found.schedule.flat_epochs < facts.epochs
    assert 0 <= found.ema.decay <= 0.9999 and 1 <= found.ema.warmup <= 2000
    total, base = found.optimizer.lr_per_image * facts.batch, published.optimizer.lr_per_image
    least_rate = 0.1 if facts.has_weights and facts.knows_classes else 1
    if name.startswith("yolov4"):
        least_rate *= min(1, COCO_OBJECTS / max(facts.objects, 1))
    assert base * 0.999 * least_rate <= found.optimizer.lr_per_image
    assert total <= base * max(published.batch_size, facts.batch) * 1.001
    assert 1 <= found.optimizer.weight_decay / published.optimizer.weight_decay <= 2.001
    assert found.clip.factor > 1 and 5 <= found.clip.memory <= 50
    assert found.closing is None or 0 < found.closing.epochs <= 0.3 * facts.epochs + 0.5
    if hasattr(before, "affine"):
        (low, high), (least, most) = augment.affine.scale, before.affine.scale
        assert least * 0.999 <= low <= 1 <= high <= most * 1.001
    if hasattr(before, "jitter"):
        assert 0 <= augment.jitter <= before.jitter and 1 <= augment.resize <= max(before.resize, 1)


@given(name=NAMES, facts=FACTS, more=st.integers(2, 20))
def test_longer_trainings_have_more_variety_and_longer_memory(name, facts, more):
    short, long = fitted(name, facts), fitted(name, replace(facts, epochs=facts.epochs * more))
    assert short.ema.decay <= long.ema.decay and short.ema.warmup <= long.ema.warmup
    assert short.optimizer.weight_decay >= long.optimizer.weight_decay
    assert short.optimizer.lr_per_image >= long.optimizer.lr_per_image
    assert getattr(short.augment, "mosaic", 0) <= getattr(long.augment, "mosaic", 0)
    if hasattr(short.augment, "affine"):
        assert short.augment.affine.scale[0] >= long.augment.affine.scale[0]
        assert short.augment.affine.scale[1] <= long.augment.affine.scale[1]


@given(name=NAMES, facts=FACTS)
def test_objects_near_the_size_of_a_cell_are_not_made_smaller(name, facts):
    found = fitted(name, replace(facts, sides=(8.0, 20.0)))
    if hasattr(found.augment, "affine"):
        assert found.augment.affine.scale[0] == 1
    if hasattr(found.augment, "jitter"):
        assert found.augment.jitter == 0 and found.augment.resize == 1
    assert found.multiscale is None or getattr(found.multiscale, "low", 1) >= 1


def test_small_objects_are_not_dropped():
    facts = Facts(images=300, epochs=30, batch=16, has_weights=True, sides=(6.0, 20.0))
    found = fitted("yolox-nano", facts)
    assert found.augment.smallest == found.closing.augment.smallest == 3
    assert fitted("yolox-nano", replace(facts, sides=(60.0, 90.0))).augment.smallest == 8


def test_mosaics_are_rarer_where_they_would_cut_the_objects():
    facts = Facts(images=300, epochs=100, batch=16, has_weights=True, sides=(30.0, 100.0))
    usual, cut = (fitted("yolox-nano", replace(facts, sides=sides)) for sides in ((30.0, 100.0), (200.0, 416.0)))
    assert (usual.augment.mosaic, cut.augment.mosaic) == (0.5, 0.25)


def test_a_training_of_published_length_has_nearly_the_published_values():
    published = FAMILIES["yolox-s"]
    facts = Facts(images=118_287, epochs=300, batch=64, has_weights=False, sides=(10.0, 200.0))
    found = small(published, facts)
    assert not facts.is_small and found.ema == published.ema and found.closing.epochs == published.closing.epochs
    assert found.optimizer == published.optimizer and found.augment.mosaic == published.augment.mosaic


def test_sizes_vary_from_fifty_passes_on():
    facts = Facts(images=300, epochs=50, batch=16, has_weights=True, sides=(60.0, 90.0))
    published = FAMILIES["yolox-nano"].multiscale
    assert multiscale(published, 416, facts) is None
    assert multiscale(published, 416, replace(facts, epochs=100)) == replace(published, low=0.7692, high=1.538)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_recipe_survives_its_file(name):
    found = fitted(name, Facts(images=30, epochs=40, batch=8, has_weights=True, sides=(20.0, 50.0)))
    assert from_plain(to_plain(found), RECIPE_TYPES) == found


def test_no_rule_changes_what_is_set_by_hand():
    facts = Facts(images=300, epochs=60, batch=16, has_weights=False, sides=(30.0, 100.0))
    kept = fitted("yolox-nano", facts, ("multiscale.low", "optimizer", "augment.affine.scale", "ema.decay"))
    published = FAMILIES["yolox-nano"]
    assert kept.multiscale == replace(published.multiscale, high=1.09) and kept.optimizer == published.optimizer
    assert kept.augment.affine == published.augment.affine
    assert kept.ema == replace(published.ema, warmup=57)
    assert kept.augment.mosaic < published.augment.mosaic and kept.clip is not None


def test_yolov4_tiny_gets_several_anchors_for_an_object_and_darknets_gradient():
    facts = Facts(images=300, epochs=60, batch=16, has_weights=False)
    found, published = fitted("yolov4-tiny", facts).loss, FAMILIES["yolov4-tiny"].loss
    assert (published.assigner.iou_threshold, published.assigner.unused) == (1, ((10.0, 14.0),))
    assert (found.assigner.iou_threshold, found.assigner.unused) == (0.213, ())
    assert isinstance(found.terms[0], DarknetBoxGradient) and found.terms[0].weight == published.terms[0].weight
    kept = fitted("yolov4-tiny", facts, ("loss.assigner.iou_threshold", "loss.terms.box.weight")).loss
    assert kept.assigner.iou_threshold == 1 and kept.terms == found.terms
    for path in ("loss.terms.box.per_cell", "loss.terms.0", "loss.terms", "loss", "model", "model.coordinates"):
        assert isinstance(fitted("yolov4-tiny", facts, (path,)).loss.terms[0], DarknetBox)
    csp = fitted("yolov4-csp", facts).loss
    assert csp.assigner == LARGE["yolov4-csp"].loss.assigner and csp.terms[0].coordinates == "sigmoid"


@pytest.mark.parametrize(
    "setting",
    ["model.gaussian=true", "model.coordinates=sigmoid", "loss.terms.box.weight=0.1", "loss.terms.0.per_cell=false"],
)
def test_a_changed_yolov4_tiny_is_trained(scenes, setting):
    recipe = chosen(scenes, setting, model="yolov4-tiny", epochs=1, size=64, batch=4)
    step = next(train(recipe, train_state_of(recipe), Squares()))
    assert all(torch.isfinite(torch.as_tensor(value)) for value in step.losses.values())


def test_losses_summed_over_objects_learn_more_slowly_where_images_have_more_of_them_than_cocos():
    facts = Facts(images=300, epochs=60, batch=16, has_weights=False, objects=7.3)
    tiny, nano = FAMILIES["yolov4-tiny"], FAMILIES["yolox-nano"]
    for published, keep, slower in (
        (tiny, (), 0.5),
        (tiny, ("loss.terms.box", "augment"), 0.5),
        (tiny, ("loss",), 1.0),
        (tiny, ("loss.terms",), 1.0),
        (replace(tiny, loss=nano.loss), (), 1.0),
        (nano, (), 1.0),
    ):
        few, usual, many = (
            small(published, replace(facts, objects=objects), keep).optimizer.lr_per_image
            for objects in (1.0, 7.3, 14.6)
        )
        assert few == usual and many == pytest.approx(slower * usual, rel=1e-3)


def test_a_teachers_predictions_are_the_targets_unless_a_setting_of_features_is_given():
    facts = Facts(images=300, epochs=60, batch=16, has_weights=False)
    published = replace(FAMILIES["yolox-nano"], distillation=Distillation())
    for keep in ((), ("distillation.share", "distillation.boxes"), ("optimizer",), ("distillation.evry",)):
        assert small(published, facts, keep).distillation == PredictionDistillation()
    for keep in (("distillation",), ("distillation.weight",), ("distillation.share", "distillation.loss.temperature")):
        assert small(published, facts, keep).distillation == Distillation()
    assert small(FAMILIES["yolox-nano"], facts, ("distillation.share",)).distillation is None


def test_settings_of_a_teacher_choose_its_way(scenes):
    told = chosen(scenes, "distillation.share=0.3", has_teacher=True).distillation
    assert told == PredictionDistillation(share=0.3)
    assert chosen(scenes, "distillation.weight=0.3", has_teacher=True).distillation == Distillation(weight=0.3)
    published = {"model": None, "recipe": "damo-yolo-ns", "has_teacher": True}
    assert (chosen(scenes, **published).distillation, chosen(scenes, **published).clip) == (Distillation(), 30.0)


def test_what_a_rule_adds_can_be_changed():
    facts = Facts(images=300, epochs=60, batch=16, has_weights=False)
    assert fitted("yolov4-tiny", facts, ("ema.decay",)).ema is not None
    assert fitted("yolov4-tiny", facts, ("ema",)).ema is None


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    data = write_synthetic(tmp_path_factory.mktemp("small"), Scenes(size=(64, 64)), {"train": 12, "val": 2})
    return open_dataset(data, "train")


def chosen(scenes, *overrides, has_weights=False, has_teacher=False, **given):
    choice = RecipeChoice(**{"model": "yolox-nano", "overrides": overrides, **given})
    return resolved(choice, scenes, has_weights=has_weights, has_teacher=has_teacher, on_cpu=True)


def test_small_is_chosen_from_weights_or_for_few_steps(scenes):
    assert isinstance(chosen(scenes, epochs=10).clip, RelativeClip)
    assert isinstance(chosen(scenes, has_weights=True).clip, RelativeClip)
    assert chosen(scenes, epochs=FEWEST_STEPS).clip is None
    assert isinstance(chosen(scenes, epochs=FEWEST_STEPS, has_weights=True).clip, RelativeClip)
    assert isinstance(chosen(scenes, model=None, recipe="yolox-nano:small", epochs=FEWEST_STEPS).clip, RelativeClip)


def test_weights_that_know_all_classes_learn_at_a_tenth_of_the_rate(scenes, tmp_path):
    """Whatever file or detector they come from; weights of other classes learn faster than published, in few steps."""
    choice, model = RecipeChoice(model="yolox-nano", epochs=10), find_recipe("yolox-nano").model
    rates = {}
    for kind, names in {
        "same": scenes.names,
        "others": ("a", "b", *scenes.names[2:]),
        "more": (*scenes.names, "z"),
    }.items():
        detector = build(model, names)
        path = save_weights(detector, tmp_path / f"{kind}.safetensors")
        known = knows_classes(choice, scenes, str(path))
        assert known == knows_classes(choice, scenes, detector) == (kind != "others")
        found = resolved(choice, scenes, has_weights=True, knows_classes=known, on_cpu=True)
        assert ("that know all classes" in choice.says_small(found, scenes, True, known)) == known
        rates[kind] = found.optimizer.lr_per_image
    published = find_recipe("yolox-nano").optimizer.lr_per_image
    assert rates["others"] == pytest.approx(3 * published, rel=1e-3)
    assert rates["same"] == rates["more"] == pytest.approx(0.1 * published, rel=1e-3)
    assert not knows_classes(choice, scenes, None)
    assert not knows_classes(RecipeChoice(recipe="yolox-nano"), scenes, str(path))  # the published training


def test_few_images_are_shown_more_often(scenes):
    assert chosen(scenes, has_weights=True).epochs == 500
    assert chosen(scenes, "batch_size=2", has_weights=True, batch=2).epochs == 84


def test_the_published_recipe_is_had_by_its_name(scenes):
    for name in ("yolox-nano:published", "yolox-nano"):
        found = chosen(scenes, model=None, recipe=name)
        assert {one.path for one in diff(find_recipe(name), found)} == {"model.num_classes"}
    with pytest.raises(ConfigError, match="depends on the data"):
        find_recipe("yolox-nano:small")


def test_what_is_asked_for_wins(scenes):
    found = chosen(scenes, "epochs=20", "ema.decay=0.9", "multiscale.low=0.9", "clip=none", "augment.mosaic=0.7")
    assert (found.epochs, found.ema.decay, found.clip, found.augment.mosaic) == (20, 0.9, None, 0.7)
    assert found.multiscale.low == 0.9 and found.multiscale.high > 1
    assert found.closing.epochs == 6 and found.schedule.warmup_epochs == 1  # fitted to the 20 epochs


def test_a_resumed_run_keeps_the_recipe_that_was_fitted(scenes, tmp_path):
    recipe = chosen(scenes, epochs=10)
    write_yaml(tmp_path / "recipe.yaml", to_plain(recipe))
    assert resumed(RecipeChoice(model="yolox-nano", epochs=10), tmp_path) == recipe


def test_an_outlier_is_clipped_to_a_multiple_of_the_usual_norm():
    parameter, usual = torch.nn.Parameter(torch.zeros(4)), torch.zeros(())
    clip, norms = RelativeClip(factor=3.0, memory=10), []
    for size in (5.0, 6.0, 400.0, 5.0, float("nan"), 5.0):
        parameter.grad = torch.tensor([size, 0.0, 0.0, 0.0])
        clip.apply([parameter], usual)
        norms.append(float(parameter.grad.norm()))
    assert norms[:2] == [5.0, 6.0] and 15 < norms[2] < 16 and norms[3] == 5.0 == norms[5] and np.isnan(norms[4])
    assert 5 < float(usual) < 7


def test_a_backbone_learns_at_its_own_rate_and_a_frozen_start_keeps_its_statistics():
    start = FrozenStart(("backbone.*",), steps=2, statistics=False)
    recipe = changed(frozen_start=start, optimizer=Sgd(backbone_rate=0.1), clip=RelativeClip())
    state = train_state_of(recipe)
    groups = {(group["rate"], group["name"]): group for group in state.optimizer.param_groups}
    assert set(groups) == {(rate, name) for rate in (0.1, 1.0) for name in ("norm", "weights", "biases")}
    assert sum(len(group["params"]) for group in groups.values()) == len([*state.detector.parameters()])
    before = {name: value.clone() for name, value in state.detector.state_dict().items() if "num_batches" not in name}

    def moved():
        now = state.detector.state_dict()
        return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, now[name])}

    steps = train(recipe, state, Squares())
    next(steps), next(steps)
    assert moved() == {"neck", "head"}
    next(steps), next(steps)  # the third step, after the end of the epoch or before
    assert "backbone" in moved()
    full, own = groups[1.0, "weights"]["lr"], groups[0.1, "weights"]["lr"]
    assert own == pytest.approx(0.1 * full)
