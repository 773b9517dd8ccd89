"""Tests of `NAME:published`: the rules of the authors' code, where the defaults of a model's name depart from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onelook
from loading import STILL, ten_images
from onelook.api.recipe_choice import RecipeChoice, resumed
from onelook.config import change, diff, from_plain, to_plain
from onelook.data import Dataset, open_dataset
from onelook.data.anchors import flat
from onelook.data.loader import Loader
from onelook.data.objects import object_sizes
from onelook.data.order import Sampling
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import ConfigError, UserError
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.yolov4 import DarknetBox
from onelook.networks.variants import VARIANTS
from onelook.recipes import RECIPE_TYPES, default_recipe, find_recipe
from onelook.training.batches import make_loader
from onelook.training.ema import Ema
from onelook.training.fit_anchors import MIN_ANCHOR_RECALL, anchor_recall, with_fitting_anchors
from onelook.training.frozen_start import FrozenStart, matching_parameters
from onelook.training.loop import Epoch, Step, train
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe, adapted, shortened
from onelook.training.schedule import Constant
from onelook.training.start import round_to_float16, starting_point
from onelook.training.train_state import TrainState
from training import RECIPE, Squares, train_state_of

NAMES = sorted(name for name, row in VARIANTS.items() if row.family in ("YOLOv4", "YOLOX", "YOLOv7", "DAMO-YOLO"))
DEPARTURES = {
    "YOLOv4": {"schedule.warmup_epochs", "schedule.warmup_steps", "accumulate", "nominal_batch", "fixed_phases"}
    | {"loss.terms.box"},
    "YOLOX": {"closing.epochs", "sampling.beyond_image", "sampling.last_batch", "fixed_phases"},
    "YOLOv7": {
        "max_labels",
        "nominal_batch",
        "grow_accumulation",
        "fixed_phases",
        "least_anchor_recall",
        "float16_start",
    },
    "DAMO-YOLO": {"max_labels", "sampling.last_batch", "fixed_phases"},
}
MORE_DEPARTURES = {
    "yolov4-csp": {"ema.warmup", "ema.start", "ema.statistics", "ema.last_steps"},
    "yolov4x-mish": {"frozen_start"},
}
ONE_OF_EACH = ("yolov4", "yolox-s", "yolov7", "damo-yolo-s")


@pytest.mark.parametrize("name", NAMES)
def test_the_default_departs_from_the_code_in_the_named_settings_only(name: str) -> None:
    default, code = default_recipe(name), find_recipe(f"{name}:published")
    changed = {one.path for one in diff(default, code)}
    expected = DEPARTURES[VARIANTS[name].family] | MORE_DEPARTURES.get(name, set())
    assert changed == (expected - {"accumulate"} if name.startswith("yolov4-tiny") else expected)
    assert from_plain(to_plain(code), RECIPE_TYPES) == code


@pytest.mark.parametrize("name", NAMES)
def test_the_schedules_agree_on_coco(name: str) -> None:
    default, code = default_recipe(name), find_recipe(f"{name}:published")
    steps = -(-118_287 // default.batch_size)
    for step in (0, 1, 10, 999, 1001, 5 * steps, 150 * steps, default.epochs * steps - 1):
        first, second = (recipe.schedule(step, steps, recipe.epochs) for recipe in (default, code))
        assert second.scale == pytest.approx(first.scale, rel=2e-3), step


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_short_training_keeps_the_whole_warm_up_and_closing_phase(name: str) -> None:
    code = find_recipe(f"{name}:published")
    short = shortened(code, 30)
    assert (short.epochs, short.schedule, short.evaluate_every) == (30, code.schedule, code.evaluate_every)
    assert short.closing == code.closing
    shortest = shortened(code, 4)
    assert shortest.closing is None or shortest.closing.epochs == 4
    default = shortened(default_recipe(name), 30)
    if name != "yolov4":  # half an epoch of COCO is short already
        assert default.schedule != default_recipe(name).schedule


@pytest.mark.parametrize("images", [20, 640, 118_287])
def test_yolov4_burns_in_for_1000_steps_on_any_data_set(images: int) -> None:
    steps = -(-images // 64)
    schedule, epochs = find_recipe("yolov4:published").schedule, 2000
    for step in (0, 1, 500, 999):
        assert schedule(step, steps, epochs).scale == pytest.approx((step / 1000) ** 4)
    assert schedule(1000, steps, epochs).scale == 1
    assert default_recipe("yolov4").schedule(30, 20 // 64 + 1, epochs).scale == 1  # the default follows the data


@pytest.mark.parametrize(
    ("batch", "accumulate", "images"), [(64, 1, 64), (16, 4, 64), (24, 3, 72), (1, 64, 64), (128, 1, 128)]
)
@pytest.mark.parametrize("name", ["yolov7", "yolov4", "yolov4-tiny"])
def test_batches_are_accumulated_to_64_images(name: str, batch: int, accumulate: int, images: int) -> None:
    found = adapted(find_recipe(f"{name}:published"), ("thing",), None, None, batch)
    assert (found.accumulate, found.batch_size) == (accumulate, images)
    warmup = getattr(found.schedule, "warmup_steps")  # noqa: B009
    assert warmup == 1000  # of YOLOv7 in batches, which is what its schedule counts; of Darknet in steps
    default = adapted(default_recipe(name), ("thing",), None, None, batch)
    assert (default.accumulate, default.batch_size) == (1, batch)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolov4", DarknetBoxGradient(0.07, max_delta=(5.0, 5.0, 5.0))),
        ("csresnext50-panet-spp", DarknetBoxGradient(0.07)),
        ("yolov4-tiny", DarknetBoxGradient(0.07, shares=False)),
        ("yolov4-csp", DarknetBoxGradient(0.05, coordinates="sigmoid", max_delta=(5.0, 5.0, 2.0))),
        ("yolov4x-mish", DarknetBoxGradient(0.05, coordinates="sigmoid", max_delta=(5.0, 5.0, 2.0))),
    ],
)
def test_box_gradients_are_those_of_the_cfg_file(name: str, expected: DarknetBoxGradient) -> None:
    assert find_recipe(f"{name}:published").loss.terms[0] == expected
    assert isinstance(default_recipe(name).loss.terms[0], DarknetBox)


def test_what_is_frozen_first_in_yolov4x_mish_is_what_darknet_freezes() -> None:
    code = change(find_recipe("yolov4x-mish:published"), {"model.width": 0.125})
    start = code.frozen_start
    assert start is not None and start.steps == 800
    detector = code.model.build()
    frozen = {id(one) for one in matching_parameters(detector, start.names, "frozen_start.names")}
    # The first 111 convolutions of the file, of which layer 165 is the last: those of its file of first layers.
    official = code.model.official_names()
    numbers = {
        name: int(re.search(r"\d+", official[name])[0])  # type: ignore[index]
        for name, _ in detector.named_parameters()
    }
    for name, parameter in detector.named_parameters():
        assert (id(parameter) in frozen) == (numbers[name] <= 110), name
    assert max(numbers.values()) > 130


def test_frozen_parameters_are_trained_after_the_first_steps() -> None:
    start = FrozenStart(("backbone.*",), 2)
    recipe = replace(RECIPE, frozen_start=start, schedule=Constant(), closing=None, epochs=2)
    state = train_state_of(recipe)
    first = {name: one.detach().clone() for name, one in state.detector.named_parameters()}
    statistics = next(one for name, one in state.detector.backbone.named_buffers() if name.endswith("running_mean"))
    before = statistics.clone()
    for event in train(recipe, state, Squares()):
        if isinstance(event, Step) and event.number in (1, 2):
            same = {name: torch.equal(one, first[name]) for name, one in state.detector.named_parameters()}
            held = [same[name] for name in same if name.startswith("backbone.")]
            assert all(held) if event.number == 1 else not any(held)
            assert not all(same.values()) and not torch.equal(statistics, before)
    with pytest.raises(ConfigError, match=r"frozen_start\.names: no parameter is called 'backbon"):
        train_state_of(replace(RECIPE, frozen_start=FrozenStart(("backbon.*",), 2)))
    with pytest.raises(ValueError, match="steps is 0 or more"):
        FrozenStart((), -1)


def test_the_average_of_yolov4_csp_replaces_the_weights_near_the_end() -> None:
    ema = Ema(decay=0.5, warmup=0.0, start=0.5, statistics=False, last_steps=2)
    recipe = replace(RECIPE, ema=ema, schedule=Constant(), closing=None, epochs=4)
    state = train_state_of(recipe)
    average = dict(state.evaluated_model.named_parameters())
    means = [name for name, _ in state.detector.named_buffers() if name.endswith("running_mean")]
    expected: dict[str, torch.Tensor] = {}
    steps = [event for event in train_recording(recipe, state, expected, average) if isinstance(event, Step)]
    assert len(steps) == 12 and means


def train_recording(
    recipe: Recipe, state: TrainState, expected: dict[str, torch.Tensor], average: dict[str, torch.Tensor]
) -> Iterator[Step | Epoch]:
    """Trains, and checks average and statistics after every step; `expected` is the average computed here."""
    weights = dict(state.detector.named_parameters())
    began, start_of_step = state.begin_step, {}

    def begin(**settings: Any) -> None:
        began(**settings)
        start_of_step.update({name: one.detach().clone() for name, one in weights.items()})

    state.begin_step = begin  # type: ignore[method-assign]
    for event in train(recipe, state, Squares()):
        if isinstance(event, Step):
            if event.number == 10:  # two steps are left: this one began with the average
                assert all(torch.equal(start_of_step[name], one) for name, one in expected.items())
            follows = event.number < 6 or event.number >= 10  # before the middle, and behind the average
            expected.update(
                {
                    name: one.detach().clone() if follows else torch.lerp(expected[name], one.detach(), 0.5)
                    for name, one in weights.items()
                }
            )
            for name, one in average.items():
                torch.testing.assert_close(one, expected[name], msg=name)
            for one, other in zip(state.evaluated_model.buffers(), state.detector.buffers()):
                assert not one.is_floating_point() or torch.equal(one, other)
        yield event


def test_other_families_do_not_accumulate() -> None:
    for name in ("yolox-s", "damo-yolo-s"):
        found = adapted(find_recipe(f"{name}:published"), ("thing",), None, None, 16)
        assert (found.accumulate, found.batch_size) == (1, 16)


# The last batch.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ten_images(tmp_path_factory.mktemp("set"))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_partial_last_batch_shows_every_image_once(dataset: Dataset, world: int, accumulate: int) -> None:
    seen: list[int] = []
    sizes = []
    for rank in range(world):
        with Loader(
            dataset,
            (64, 64),
            8,
            sampling=Sampling(last_batch="partial"),
            world=world,
            rank=rank,
            accumulate=accumulate,
        ) as loader:
            batches = list(loader.epoch(1, STILL, 0))
        assert len(batches) == len(loader) == 2 * accumulate
        assert all(len(batch.images) == len(batch.indices) for batch in batches)
        sizes += [len(batch.indices) for batch in batches[accumulate:]]
        seen += [row for batch in batches for row in batch.indices]
    # Two images are left: with four parts, two of these have an image of the second shuffle.
    assert sum(sizes) == max(2, world * accumulate) and min(sizes) >= 1
    times = Counter(seen)
    assert set(times) == set(range(10)) and sum(times.values()) == 8 + sum(sizes)


def test_samples_of_a_partial_batch_are_those_of_the_full_one(dataset: Dataset) -> None:
    both = []
    for kind in ("partial", "full"):
        with Loader(dataset, (64, 64), 8, sampling=Sampling(last_batch=kind)) as loader:  # type: ignore[arg-type]
            both.append(list(loader.epoch(0, STILL, 0))[-1])
    partial, full = both
    assert partial.indices == full.indices[:2] and len(full.indices) == 8
    np.testing.assert_array_equal(partial.images, full.images[:2])


def test_epochs_of_a_stream_are_parts_of_one_endless_shuffle(dataset: Dataset) -> None:
    with Loader(dataset, (64, 64), 4, epochs=5, sampling=Sampling(last_batch="stream")) as loader:
        epochs = [[row for batch in loader.epoch(e, STILL, 0) for row in batch.indices] for e in range(5)]
        resumed = [row for batch in loader.epoch(2, STILL, 1) for row in batch.indices]
    shown = [row for epoch in epochs for row in epoch]
    assert [len(epoch) for epoch in epochs] == [12] * 5 and resumed == epochs[2][4:]
    shuffles = [shown[first : first + 10] for first in range(0, 60, 10)]
    assert all(sorted(one) == list(range(10)) for one in shuffles) and len({tuple(one) for one in shuffles}) == 6
    with pytest.raises(ValueError, match="cannot be combined"):
        Sampling(last_batch="stream", repeat_factor=0.1)


def test_micro_batches_that_grow_fill_the_last_one_only(dataset: Dataset) -> None:
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    recipe = adapted(find_recipe("yolov7-tiny:published"), dataset.names, 1, 64, 3)
    with make_loader(dataset, recipe, alone, workers=0) as growing:
        assert (recipe.accumulate, len(growing)) == (21, 4)  # 10 images in batches of 3
    with make_loader(dataset, replace(recipe, grow_accumulation=False), alone, workers=0) as steps:
        assert len(steps) == 21


def test_an_image_may_have_any_number_of_objects(dataset: Dataset) -> None:
    most = int(dataset.num_objects.max())
    for limit, expected in ((1, 1), (None, most)):
        with Loader(dataset, (64, 64), 10, max_labels=limit) as loader:
            assert int(next(loader.epoch(0, STILL, 0)).targets.valid.sum(1).max()) == expected
    assert most > 1


# Anchors.


@pytest.fixture(scope="module")
def small_objects(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Objects of a few pixels in an input of 64 pixels, which YOLOv7's anchors do not fit."""
    scenes = Scenes(size=(64, 64), objects=(2, 4), extent=(0.03, 0.1), empty=0.0)
    return open_dataset(write_synthetic(tmp_path_factory.mktemp("small"), scenes, {"train": 16}), "train")


def small(recipe: Recipe) -> Recipe:
    return change(recipe, {"size": (64, 64), "model.size": (64, 64), "model.num_classes": 3})


def test_ill_fitting_anchors_are_replaced_as_in_yolov7s_code(small_objects: Dataset) -> None:
    code = small(find_recipe("yolov7-tiny:published"))
    before = anchor_recall(code, small_objects)
    found, note = with_fitting_anchors(code, small_objects)
    after = anchor_recall(found, small_objects)
    assert before is not None and after is not None and before < MIN_ANCHOR_RECALL < after
    assert note is not None and "those that replace them" in note
    assert all(one.path.startswith("model.anchors.") for one in diff(code, found))
    assert with_fitting_anchors(found, small_objects) == (found, None)
    default = small(default_recipe("yolov7-tiny"))
    assert with_fitting_anchors(default, small_objects) == (default, None)


def test_the_fit_of_anchors_is_checked_with_images_a_tenth_smaller_or_larger(tmp_path: Path) -> None:
    # One size of object, 9.5 pixels a side: an anchor of 2.5 pixels fits it where the image is smaller by a twentieth.
    scenes = Scenes(size=(64, 64), objects=(1, 1), extent=(0.1, 0.2), empty=0.0)
    dataset = open_dataset(write_synthetic(tmp_path, scenes, {"train": 40}), "train")
    sizes = object_sizes(dataset, (64, 64))
    factors = np.random.default_rng(1).uniform(0.9, 1.1, len(dataset))
    varied = object_sizes(dataset, (64, 64), None, factors)
    ratio = varied[:, 0] / sizes[:, 0]
    assert ratio.min() < 0.92 and ratio.max() > 1.08 and np.allclose(ratio, varied[:, 1] / sizes[:, 1])
    side = float(np.median(sizes.min(1))) / 4  # the largest ratio that fits is 4
    code = small(find_recipe("yolov7-tiny:published"))
    code = change(code, {"model.anchors": tuple(((side, side),) * 3 for _ in range(3))})
    still = anchor_recall(code, dataset)
    found, note = with_fitting_anchors(code, dataset)
    anchors = flat(found.model.anchors)  # type: ignore[attr-defined]
    assert np.array_equal(anchors, anchors.astype(np.float16)) and not np.array_equal(anchors, anchors.round())
    assert still is not None and note is not None and f"{still:.1%}" not in note.split(";")[0]


def test_weights_start_as_float16_in_yolov7s_code(small_objects: Dataset) -> None:
    code = change(small(find_recipe("yolov7-tiny:published")), {"model.width_multiple": 0.125})
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    rounded, _ = starting_point(code, small_objects, alone, None)
    plain, _ = starting_point(replace(code, float16_start=False), small_objects, alone, None)
    pairs = list(zip(rounded.state_dict().values(), plain.state_dict().values()))
    assert all(torch.equal(a, b.half().to(b.dtype) if b.is_floating_point() else b) for a, b in pairs)
    assert not all(torch.equal(a, b) for a, b in pairs)
    with torch.no_grad():
        next(plain.parameters()).fill_(1e6)
    with pytest.raises(UserError, match="beyond the range of float16"):
        round_to_float16(plain)


def test_anchors_stay_where_no_others_can_be_found(small_objects: Dataset) -> None:
    code = small(find_recipe("yolov7-tiny:published"))
    found, note = with_fitting_anchors(code, small_objects.view(range(1)))
    assert found == code and note is not None and "and stay" in note


def test_anchors_are_compared_only_where_there_are_some() -> None:
    with pytest.raises(ConfigError, match="least_anchor_recall needs a model with anchors"):
        change(default_recipe("damo-yolo-t"), {"least_anchor_recall": 0.98})
    with pytest.raises(ConfigError, match="between 0 and 1"):
        change(default_recipe("yolov7"), {"least_anchor_recall": 98.0})


@pytest.mark.slow
def test_a_run_with_replaced_anchors_is_resumed_by_the_same_words(small_objects: Dataset, tmp_path) -> None:
    changes = ("model.width_multiple=0.125", "augment.mosaic=0")
    choice = RecipeChoice(recipe="yolov7-tiny:published", epochs=1, size=64, batch=4, overrides=changes)
    run = tmp_path / "run"
    onelook.train(choice, small_objects, out=run, validation="none", device="cpu", workers=0)
    kept = onelook.recipe(run)
    assert kept.model.anchors != default_recipe("yolov7-tiny").model.anchors  # type: ignore[attr-defined]
    assert "those that replace them" in (run / "train.log").read_text()
    assert (kept.accumulate, kept.batch_size) == (16, 64)
    own = RecipeChoice(batch=4).resumed(run)
    assert own == kept
    whole = choice.resolve(small_objects.names)
    assert resumed(whole, run) == kept
    with pytest.raises(UserError):
        RecipeChoice(batch=8).resumed(run)


@pytest.mark.parametrize(
    ("model", "message", "remedy"),
    [
        ("yolox-table2:simota", "is a recipe, and --model", "--recipe yolox-table2:simota"),
        ("yolox-s:paper", "is a recipe, and --model", "--recipe yolox-s:paper"),
        ("yolox-s:papr", "no recipe 'yolox-s:papr'. Did you mean 'yolox-s:paper'?", "yolox-s:published"),
        ("yolox-table2:simoto", "yolox-table2 has no row 'simoto'", "simota"),
    ],
)
def test_a_recipe_given_as_model_names_the_right_flag(model: str, message: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        RecipeChoice(model=model).resolve(("thing",))
    assert message in error.value.message and remedy in str(error.value.remedy)


def test_a_recipe_of_one_epoch_says_so_in_the_singular() -> None:
    recipe = default_recipe("yolox-nano")
    assert "; 300 epochs in batches of 64 images;" in str(recipe)
    assert "; 1 epoch in batches" in str(replace(recipe, epochs=1, closing=None))
