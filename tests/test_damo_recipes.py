"""DAMO-YOLO's trainings: rates, averages and parameter groups are the recorded ones; the parts fit other families."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onelook.api.recipe_choice import RecipeChoice
from onelook.api.train import train
from onelook.api.validate import validate
from onelook.assign.align_ota import AlignOta
from onelook.assign.atss import Atss
from onelook.assign.simota import SimOta
from onelook.assign.task_aligned import TaskAligned
from onelook.config import change, diff, from_plain, to_plain
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.losses.generalized_focal import DistributionFocal
from onelook.networks.build import build
from onelook.ops.nms import Nms
from onelook.recipes import RECIPE_TYPES, default_recipe
from onelook.training.optimizer import AdamW
from onelook.training.recipe import shortened
from shared import SHARED, needs_shared, reference

FACTS = json.loads((reference("damo_yolo") / "schedules.json").read_text()) if SHARED is not None else {}
NAMES = ("t", "s", "m", "l", "ns", "nm", "nl")


@needs_shared
@pytest.mark.parametrize(("row", "name"), [("T/S/M/L", "t"), ("T/S/M/L", "l"), ("Nano", "ns"), ("Nano", "nl")])
def test_learning_rates_are_the_recorded_ones(row, name):
    facts, recipe = FACTS[row], default_recipe(f"damo-yolo-{name}")
    base = recipe.optimizer.lr_per_image * recipe.batch_size
    assert base == pytest.approx(facts["base_lr"], rel=1e-12)
    assert recipe.epochs == facts["total_epochs"] and recipe.closing.epochs == facts["no_aug_epochs"]
    for step, rate in zip(facts["iterations"], facts["lr"]):
        found = recipe.schedule(step, facts["iters_per_epoch"], recipe.epochs)
        assert base * found.scale == pytest.approx(rate, rel=1e-9, abs=1e-15), step


@needs_shared
def test_the_ema_has_the_recorded_momentum():
    ema = default_recipe("damo-yolo-s").ema
    for step, momentum in FACTS["ema_momentum"].items():
        assert ema.at(int(step) + 1) == pytest.approx(momentum, rel=1e-12, abs=1e-15)


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_optimizers_and_their_groups_are_the_recorded_ones(name):
    facts = FACTS["optimiser_groups"][{"ns": "Ns", "nm": "Nm", "nl": "Nl"}.get(name, name.upper())]
    recipe = default_recipe(f"damo-yolo-{name}")
    assert isinstance(recipe.optimizer, AdamW) == (facts["optimiser"] == "AdamW")
    with torch.device("meta"):
        optimizer = recipe.optimizer.build(build(f"damo-yolo-{name}"), recipe.batch_size)
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    undecayed = [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    assert (len(decayed), sum(p.numel() for p in decayed)) == (facts["decayed"], facts["decayed_elements"])
    assert (len(undecayed), sum(p.numel() for p in undecayed)) == (facts["undecayed"], facts["undecayed_elements"])
    assert sum(p.ndim == 0 for p in decayed) == len(facts["decayed_scalars"])
    for setting, value in facts["defaults"].items():
        wanted = tuple(value) if isinstance(value, list) else value
        found = decayed and next(group for group in optimizer.param_groups if group["weight_decay"])[setting]
        assert found == pytest.approx(wanted), setting


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_a_file_and_a_shorter_training(name):
    recipe = default_recipe(f"damo-yolo-{name}")
    assert from_plain(to_plain(recipe), RECIPE_TYPES) == recipe
    short = shortened(recipe, 30)
    assert (short.closing.epochs, short.schedule.flat_epochs, short.schedule.warmup_epochs) == (6, 6, 1)
    assert short.closing.augment.mosaic == 0 and short.closing.augment.box_level == recipe.augment.box_level


@pytest.mark.parametrize("assigner", [Atss(), SimOta(), TaskAligned(), AlignOta()], ids=lambda a: type(a).__name__)
def test_table_6_is_one_setting(assigner):
    recipe = default_recipe("damo-yolo-s")
    changed = change(recipe, {"loss.assigner": assigner})
    assert {difference.path for difference in diff(recipe, changed)} <= {"loss.assigner"}
    assert changed.loss.assigner == assigner


def test_distribution_loss_is_an_error_for_a_head_without_bins():
    yolox = default_recipe("yolox-s")
    with pytest.raises(ValueError, match="DistributionFocal needs bins, which the head of Yolox does not provide"):
        replace(yolox, loss=yolox.loss.with_terms(DistributionFocal()))


@needs_shared
@pytest.mark.parametrize(
    ("case", "confidence", "iou", "limit"),
    [("eval", 0.05, 0.7, 500), ("nano", 0.03, 0.65, 500), ("cap", 0.05, 0.7, 100)],
)
def test_detections_are_those_of_the_published_nms(case, confidence, iou, limit):
    with np.load(reference("damo_yolo") / "postprocess.npz") as arrays:
        boxes, scores, labels = Nms(confidence, iou, multi_label=True, limit=limit)(arrays["boxes"], arrays["scores"])
        np.testing.assert_array_equal(scores, arrays[f"{case}_scores"])
        np.testing.assert_array_equal(labels, arrays[f"{case}_labels"])
        np.testing.assert_array_equal(boxes, arrays[f"{case}_boxes"])


@pytest.mark.slow
def test_t_overfits_eight_images(tmp_path):
    """Through the command's own parts: eight drawn images, no augmentation, AP50 above 0.95.

    Closing epochs would bring their own augmentation. The flat end is long because batch norm's running statistics
    follow with a momentum of 0.03 (as published): the network knows its images long before, but by their own
    statistics only.
    """
    scenes = Scenes(size=(128, 128), objects=(1, 3), extent=(0.25, 0.6), difficulty=0.2, classes=3, seed=1)
    data = write_synthetic(tmp_path / "data", scenes, {"train": 8, "val": 1})
    still = ("augment.mosaic=0", "augment.flip=0", "augment.box_level=none", "closing=none")
    settings = (
        *still,
        "optimizer=AdamW(lr_per_image=0.000125)",
        "schedule.warmup_epochs=20",
        "schedule.flat_epochs=130",
        "schedule.floor=0.01",
        "ema.decay=0.9",
        "ema.warmup=20",
    )
    training = train(
        RecipeChoice(model="damo-yolo-t", epochs=230, size=128, batch=8, overrides=settings),
        data,
        out=tmp_path / "run",
        validation="none",
        device="cpu",
        workers=0,
    )
    assert training.reason == "finished"
    stats = validate(tmp_path / "run" / "last.safetensors", data, split="train").stats
    assert stats["AP50"] > 0.95
