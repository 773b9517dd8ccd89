"""YOLOv4's methods that change a training of any family: CmBN, CBN, DropBlock, SAT, joined passes, smoothing, focal."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from onelook.config import from_plain, override, to_plain
from onelook.layers.cross_iteration_batch_norm import Cbn, CrossIterationNorm
from onelook.layers.cross_mini_batch_norm import Cmbn, CrossMiniBatchNorm
from onelook.layers.dropblock import drop_block
from onelook.losses.yolox import Classes
from onelook.networks.deploy import deploy
from onelook.recipes import RECIPE_TYPES, default_recipe
from onelook.training.adversarial import Adversarial, adversarial_images
from onelook.training.checkpoint import load_checkpoint, save_checkpoint
from onelook.training.dropblock import DropBlock
from onelook.training.loop import Step, train
from onelook.training.micro_batches import join_batches
from onelook.training.multiscale import DarknetShapes, MultiScale
from onelook.training.optimizer import AdamW
from onelook.training.schedule import Constant, CosineRestarts, MultiStep, Polynomial
from test_train_loop import assert_same, run, weights_of
from training import RECIPE, Squares, changed, train_state_of

pytestmark = pytest.mark.usefixtures("one_thread")


def small_network(normalization=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        network[1].weight.uniform_(0.5, 2)
        network[1].bias.normal_()
    if normalization is not None:
        normalization.convert(network)
    return network


# Cross mini-batch normalisation


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_statistics_of_the_last_micro_batch_are_those_of_all_together(passes):
    ours, plain = small_network(Cmbn()), small_network()
    assert isinstance(ours[1], CrossMiniBatchNorm)
    union = torch.randn(8, 3, 9, 7) * 3 + 5
    for _ in range(2):  # a second step starts anew
        ours[1].begin_step()
        for part in union.chunk(passes):
            ours(part)
    features = plain[0](union)
    variance, mean = torch.var_mean(features, (0, 2, 3), correction=0)
    torch.testing.assert_close(ours[1].mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[1].variance, variance, rtol=1e-5, atol=1e-6)
    ours[1].begin_step()
    outputs = [ours[1](ours[0](part)) for part in union.chunk(passes)]
    torch.testing.assert_close(outputs[-1], plain[1](features).chunk(passes)[-1], rtol=1e-4, atol=1e-5)


def test_one_micro_batch_is_plain_batch_norm_with_its_gradients_and_statistics():
    ours, plain = small_network(Cmbn()), small_network()
    images = torch.randn(4, 3, 9, 7)
    ours[1].begin_step()
    for network in (ours, plain):
        network(images).square().sum().backward()
    for one, two in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-3)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


# Cross-iteration batch norm


def test_moments_of_earlier_micro_batches_are_corrected_for_the_weights():
    """A channel's mean is linear in its kernel, so the correction is exact; the second moment's is to first order."""
    ours, images = small_network(Cbn(window=3)), [torch.randn(4, 3, 9, 7) + shift for shift in (0, 1, 2)]
    norm, convolution = ours[1], ours[0]
    assert isinstance(norm, CrossIterationNorm)
    for number, batch in enumerate(images):
        if number:
            with torch.no_grad():
                convolution.weight.add_(0.01 * torch.randn_like(convolution.weight))
        output = norm(convolution(batch))
    output, features = output.detach(), [convolution(batch).detach() for batch in images]  # with the present weights
    mean = torch.stack([x.mean((0, 2, 3)) for x in features]).mean(0)
    square = torch.stack([x.square().mean((0, 2, 3)) for x in features]).mean(0)
    wanted = nn.functional.batch_norm(features[2], mean, square - mean**2, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(output, wanted, rtol=1e-2, atol=1e-2)
    uncorrected = nn.functional.batch_norm(features[2], None, None, norm.weight, norm.bias, training=True)
    assert (output - wanted).abs().mean() < 0.02 * (uncorrected - wanted).abs().mean()


@pytest.mark.parametrize(("settings", "passes"), [(Cbn(), 1), (Cbn(burn_in=3), 3)])
def test_cross_iteration_norm_is_plain_at_first_and_during_its_burn_in(settings, passes):
    ours, plain = small_network(settings), small_network()
    for _ in range(passes):
        batch = torch.randn(4, 3, 9, 7)
        torch.testing.assert_close(ours(batch), plain(batch), rtol=1e-4, atol=1e-4)
    batch = torch.randn(4, 3, 9, 7)
    assert not torch.allclose(ours(batch), plain(batch), rtol=1e-3, atol=1e-3)


# DropBlock


@given(probability=st.floats(0, 0.9), size=st.integers(1, 9), shape=st.sampled_from([(2, 3, 5, 8), (1, 4, 13, 13)]))
def test_dropblock_keeps_the_mass_of_every_image(probability, size, shape):
    torch.manual_seed(0)
    kept = drop_block(torch.ones(shape), probability, size)
    for image in kept:
        assert image.sum().item() == pytest.approx(image.numel(), rel=1e-5) or not image.any()
        assert len(image.unique()) <= 2


def test_dropblock_drops_squares_with_about_the_set_probability():
    torch.manual_seed(0)
    kept = drop_block(torch.ones(64, 8, 26, 26), 0.1, 7) > 0
    assert 1 - kept.float().mean().item() == pytest.approx(0.1, rel=0.05)
    once = drop_block(torch.ones(400, 1, 26, 26), 0.002, 7) == 0
    areas = set(once.sum((1, 2, 3)).tolist())
    assert 49 in areas and min(areas - {0}) == 49


def test_dropblock_ramps_up_and_is_no_part_of_evaluation_and_weights():
    recipe = changed(dropblock=DropBlock(probability=0.4, size=3, ramp=0.5), epochs=2, closing=None)
    train_state = train_state_of(recipe)
    seen = [train_state._drop.probability.item() for _ in train(recipe, train_state, Squares(count=16))]
    assert seen == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.4])
    model = train_state.detector.eval()
    images = torch.rand(1, 3, 64, 64) * 255
    without = copy.deepcopy(model)
    without.after_backbone = nn.Identity()
    assert torch.equal(model(images).boxes, without(images).boxes)
    assert model.state_dict().keys() == train_state_of(RECIPE).detector.state_dict().keys()
    assert isinstance(deploy(model).after_backbone, nn.Identity)


# Self-adversarial training


def test_an_adversarial_image_hides_its_objects_and_changes_no_state():
    # A network that does not see the objects yet has none to hide: its objectness errs by seeing things elsewhere.
    recipe = changed(epochs=60, optimizer=AdamW(0.003 / 8), schedule=Constant(), ema=None, closing=None)
    train_state, batches = train_state_of(recipe), Squares(count=8)
    for module in train_state.detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3  # running statistics that are of use after a few steps
    run(recipe, train_state, batches)
    batch = batches.take(tuple(range(8)))
    images, targets = batch.images.float(), batch.targets
    train_state.set_train_mode()
    before = {name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()}
    altered = adversarial_images(train_state.detector, images, recipe.loss.adversarial_loss, rate=0.05)
    after = train_state.detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in train_state.detector.parameters())
    assert all(module.training for module in train_state.detector.modules())
    assert not torch.equal(altered, images) and altered.min() >= 0 and altered.max() <= 255
    train_state.detector.eval()
    with torch.no_grad():
        first, second = (recipe.loss(train_state.detector(batch), targets) for batch in (images, altered))
    assert second["objectness"] > 1.1 * first["objectness"]
    assert recipe.loss.adversarial_loss(train_state.detector(altered)) < recipe.loss.adversarial_loss(
        train_state.detector(images)
    )


@pytest.fixture(scope="module")
def attacked():
    """A detector, which an attack leaves as it is, and two images."""
    return train_state_of(RECIPE).detector, Squares(count=2, batch=2).take((0, 1)).images.float()


@settings(max_examples=40)
@given(limit=st.floats(0.5, 255), rate=st.floats(0, 10))
@example(limit=0.5, rate=10.0)
@example(limit=255.0, rate=10.0)
def test_an_attack_changes_no_pixel_by_more_than_its_limit(attacked, limit, rate):
    detector, images = attacked
    altered = adversarial_images(detector, images, RECIPE.loss.adversarial_loss, rate, limit=limit)
    assert (altered - images).abs().max() <= limit * (1 + 1e-5)
    assert altered.min() >= 0 and altered.max() <= 255


def test_the_default_attack_is_limited_and_darknets_is_a_setting():
    assert Adversarial().limit == 8 and Adversarial(limit=None).limit is None
    for limit in (0, -1, 256):
        with pytest.raises(ValueError, match="limit"):
            Adversarial(limit=limit)


def test_attacked_micro_batches_are_a_function_of_seed_step_and_number():
    attack = Adversarial(rate=2.0, probability=0.5, start=0.25)
    rates = [attack.strength(step / 400, (1, step)) for step in range(400)]
    assert rates == [attack.strength(step / 400, (1, step)) for step in range(400)]
    assert not any(rates[:100])
    assert 100 < sum(rate > 0 for rate in rates) < 200
    assert all(rate in (0.0, 2.0 * step / 400) for step, rate in enumerate(rates))


# All of them in a training


EVERYTHING = {
    "cmbn+sat": {"normalization": Cmbn(), "adversarial": Adversarial(probability=1), "accumulate": 2},
    "cbn+dropblock": {"normalization": Cbn(window=2), "dropblock": DropBlock(size=2)},
    "joined": {"join_micro_batches": True, "multiscale": MultiScale(0.5, 1.5, every=1), "accumulate": 4},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_resume_is_bit_equal_with_every_method(tmp_path, name):
    recipe = changed(epochs=3, closing=None, **EVERYTHING[name])
    batches = Squares(count=8, batch=8 // recipe.accumulate)
    whole, broken, fresh = (train_state_of(recipe) for _ in range(3))
    curve = run(recipe, whole, batches)
    before = run(recipe, broken, batches, stop_after=2)
    save_checkpoint(tmp_path / "state.pt", broken, {})
    load_checkpoint(tmp_path / "state.pt", fresh)
    assert before + run(recipe, fresh, batches) == curve
    assert_same(weights_of(whole), weights_of(fresh))


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization": Cmbn(), "accumulate": 2},
        {"adversarial": Adversarial(rate=0.5, ramp=False, probability=1)},
        {"dropblock": DropBlock(size=2, place="neck", ramp=0)},
    ],
    ids=["cmbn", "sat", "dropblock"],
)
def test_each_method_changes_the_first_step(settings):
    with_it, without = (
        changed(epochs=1, closing=None, **one) for one in (settings, {"accumulate": settings.get("accumulate", 1)})
    )
    batches = Squares(count=8, batch=8 // with_it.accumulate)
    assert run(with_it, train_state_of(with_it), batches) != run(without, train_state_of(without), batches)


def test_micro_batches_are_joined_where_the_input_is_small():
    recipe = changed(
        join_micro_batches=True, multiscale=MultiScale(0.5, 2.0, every=1), accumulate=4, epochs=3, closing=None
    )
    train_state, sizes = train_state_of(recipe), []
    train_state.step.register_forward_pre_hook(lambda module, inputs: sizes.append((len(inputs[0]), inputs[2][0])))
    steps = [event for event in train(recipe, train_state, Squares(batch=2)) if isinstance(event, Step)]
    assert all(len(step.images) == 8 for step in steps)
    largest = 128 * 128 * 2
    assert {count for count, _ in sizes} > {8}
    assert all(count * side * side <= largest for count, side in sizes)


def test_joined_batches_hold_the_same_objects():
    one, two = Squares().take((0, 1)), Squares().take((2,))
    targets = two.targets
    shorter = replace(targets, boxes=targets.boxes[:, :1], labels=targets.labels[:, :1], valid=targets.valid[:, :1])
    both = join_batches([one, replace(two, targets=shorter)])
    assert both.targets.shares is None
    assert both.indices == (0, 1, 2) and both.images.shape == (3, 3, 64, 64)
    assert torch.equal(both.targets.boxes[:2], one.targets.boxes)
    assert torch.equal(both.targets.valid, torch.tensor([[True, False]] * 3))


SWITCHES = {
    "adversarial=Adversarial()": "adversarial",
    "dropblock=DropBlock(size=5)": "dropblock",
    "normalization=Cmbn()": "normalization",
    "normalization=Cbn(window=8)": "normalization",
    "loss.terms.classes.smoothing=0.1": "loss",
    "multiscale=DarknetShapes()": "multiscale",
    "schedule=CosineRestarts(warmup_epochs=1)": "schedule",
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_method_is_one_setting_that_a_recipe_file_keeps(switch):
    recipe = override(default_recipe("yolox-nano"), switch, types=RECIPE_TYPES)
    assert recipe != default_recipe("yolox-nano")
    assert from_plain(to_plain(recipe), RECIPE_TYPES) == recipe


def test_settings_that_exclude_each_other_are_errors():
    with pytest.raises(ValueError, match="of one process"):
        changed(sync_batch_norm=True, normalization=Cbn())
    assert changed(sync_batch_norm=True, normalization=Cmbn()).sync_batch_norm
    with pytest.raises(ValueError, match="join_micro_batches needs"):
        changed(join_micro_batches=True)
    for make in (lambda: Cbn(window=1), lambda: DropBlock(probability=1.0), lambda: Adversarial(probability=2)):
        with pytest.raises(ValueError, match=r"is|lie"):
            make()


# Terms


@given(smoothing=st.floats(0, 0.9), logits=st.lists(st.floats(-4, 4), min_size=2, max_size=5))
def test_smoothed_classes_are_best_at_the_smoothed_target(smoothing, logits):
    from onelook.losses.pairs import Pairs
    from onelook.types import Matches, Predictions, Priors, Targets

    count = len(logits)
    optimum = torch.full((count,), smoothing / 2)
    optimum[0] = 1 - smoothing / 2
    best = torch.logit(optimum.clamp(1e-6, 1 - 1e-6)).requires_grad_()

    def value(classes, term):
        priors = Priors(torch.zeros(1, 2), torch.ones(1), torch.zeros(1, dtype=torch.long))
        boxes = torch.tensor([[[0.0, 0, 1, 1]]])
        predictions = Predictions(boxes, classes[None, None], None, boxes, priors)
        zero = torch.zeros(1, 1, dtype=torch.long)
        targets = Targets(boxes, zero, torch.ones(1, 1) > 0)
        return term(Pairs(predictions, targets, Matches(zero, zero, torch.ones(1, 1), torch.ones(1, 1) > 0)))

    term = Classes(smoothing=smoothing)
    lowest = value(best, term)
    assert lowest <= value(torch.tensor(logits), term) + 1e-5
    (slope,) = torch.autograd.grad(lowest, best)
    assert slope.abs().max() < 1e-5
    assert value(torch.tensor(logits), Classes(focal=2.0)) <= value(torch.tensor(logits), Classes()) + 1e-6


# Schedules and shapes


def test_darknet_burns_in_with_the_fourth_power():
    schedule = MultiStep(milestones=(0.8, 0.9), warmup_epochs=2, warmup_power=4)
    assert [schedule(step, 10, 100).scale for step in (0, 10, 20, 800, 900)] == pytest.approx([0, 1 / 16, 1, 0.1, 0.01])


def test_polynomial_and_cosine_end_at_their_floor():
    poly = Polynomial(power=4, warmup_epochs=0)
    assert [poly(step, 10, 10).scale for step in (0, 50, 100)] == pytest.approx([1, 1 / 16, 0])
    cosine = CosineRestarts(floor=0.1)
    assert [cosine(step, 10, 10).scale for step in (0, 50, 100)] == pytest.approx([1, 0.55, 0.1])
    restarts = CosineRestarts(cycle=0.25, growth=2)
    scales = [restarts(step, 100, 10).scale for step in (0, 125, 249, 250, 500, 749, 750)]
    assert scales == pytest.approx([1, 0.5, 0, 1, 0.5, 0, 1], abs=1e-3)


def test_darknet_shapes_are_the_published_ones():
    shapes = DarknetShapes()
    assert (shapes.largest((512, 512)), shapes.largest((608, 608))) == ((736, 736), (896, 896))
    sides = {shapes.size((512, 512), 0, step, 10**6)[0] for step in range(10, 20_000, 10)}
    assert (min(sides), max(sides)) == (384, 736) and all(side % 32 == 0 for side in sides)
    assert {shapes.size((608, 608), 0, step, 10**6)[0] for step in range(10, 20_000, 10)} == set(range(480, 897, 32))
    assert shapes.size((512, 512), 0, 3) == shapes.size((512, 512), 0, 950, 1000) == (736, 736)
