"""Every head with every assigner: what fits trains, what does not is refused when the recipe is made."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from networks import narrow
from onelook import assign
from onelook.assign.anchor_ota import AnchorOta
from onelook.assign.simota import SimOta
from onelook.config import change, from_plain, to_plain
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.lead_guided import Auxiliary
from onelook.losses.yolov7 import LevelBoxIou, LevelClasses, LevelObjectness
from onelook.losses.yolox import BoxIou, Classes, Objectness
from onelook.networks.build import build
from onelook.networks.detector import Architecture
from onelook.networks.variants import VARIANTS, variant
from onelook.networks.yolox.architecture import YOLOV3_ANCHORS
from onelook.recipes import DEFAULTS, RECIPE_TYPES, default_recipe
from onelook.recipes.yolov7 import AUXILIARY_SCHEMES
from onelook.training.recipe import Recipe
from onelook.types import Targets
from training import RECIPE, TINY

# A narrow network of every family, and of each kind of head in it.
NARROW: dict[str, Architecture] = {
    "YOLOX": TINY,
    "YOLOX with coupled head": replace(TINY, head="coupled"),
    "YOLOX with anchors": replace(TINY, anchors=YOLOV3_ANCHORS),
    "YOLOX with one-to-one head": replace(TINY, one_to_one=True),
    "YOLOv4": replace(variant("yolov4-tiny").architecture, width=0.25, num_classes=3),
    "YOLOv4 with Gaussian head": replace(
        variant("yolov4").architecture, width=0.125, depth=0.1, gaussian=True, num_classes=3
    ),
    "YOLOv4 with bounded sides": replace(variant("yolov4-csp").architecture, width=0.125, depth=0.1, num_classes=3),
    "YOLOv7": replace(variant("yolov7-tiny").architecture, width_multiple=0.125, num_classes=3),
    "YOLOv7 with auxiliary head": replace(variant("yolov7-w6").architecture, width_multiple=0.03, num_classes=3),
    "DAMO-YOLO": replace(variant("damo-yolo-ns").architecture, num_classes=3),
}
ASSIGNERS = {name: kind for name, kind in RECIPE_TYPES.items() if kind.__module__.startswith("onelook.assign.")}


# What an assigner needs of all that a head may provide besides boxes and classes; the others accept every head.
ASKED = {
    "AnchorCells": ("anchors",),
    "AnchorOta": ("anchors", "objectness"),
    "BestAnchor": ("anchors",),
    "CentreCell": ("anchor-free",),
    "DarknetAnchors": ("objectness", "anchors"),
}


def test_every_family_and_every_assigner_is_tested() -> None:
    assert {row.family for row in VARIANTS.values()} == {name.split(" with ")[0] for name in NARROW}
    files = Path(assign.__path__[0]).glob("*.py")
    written = [
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name == "__call__" for part in node.body)
    ]
    assert sorted(written) == sorted(ASSIGNERS)
    assert {name: kind().needs for name, kind in ASSIGNERS.items() if kind().needs} == ASKED


def test_heads_provide_what_they_declare() -> None:
    for name, model in NARROW.items():
        found = build(model, 3)(torch.rand(2, 3, 64, 64) * 255)
        given = {
            "objectness": found.objectness is not None,
            "anchors": found.priors.sizes is not None,
            "anchor-free": found.priors.sizes is None,
            "auxiliary": found.auxiliary is not None,
        }
        assert {what for what, there in given.items() if there} == model.provides & given.keys(), name


def recipe_of(model: Architecture, loss: DetectionLoss) -> Recipe:
    if "auxiliary" in model.provides and loss.auxiliary is None:
        loss = replace(loss, auxiliary=Auxiliary())
    return replace(RECIPE, model=model, loss=loss, closing=None)


TARGETS = Targets(
    torch.tensor([[[4.0, 6, 40, 50], [30, 20, 60, 61]], [[10, 10, 30, 34], [0, 0, 0, 0]]]),
    torch.tensor([[0, 2], [1, 0]]),
    torch.tensor([[True, True], [True, False]]),
)


def step(recipe: Recipe, seed: int = 0) -> dict[str, torch.Tensor]:
    """The losses of one step on noise with objects in it; every gradient must be finite and some must be there."""
    torch.manual_seed(seed)
    detector = build(recipe.model, 3).train()
    losses = recipe.loss(detector(torch.rand(2, 3, 64, 64) * 255), TARGETS)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    return losses


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("head", NARROW)
def test_an_assigner_trains_a_head_or_raises(head: str, assigner: str) -> None:
    model, rule = NARROW[head], ASSIGNERS[assigner]()
    objectness = (Objectness(),) if "objectness" in model.provides else ()
    loss = DetectionLoss(rule, (BoxIou(), Classes(), *objectness))
    lacking = [need for need in getattr(rule, "needs", ()) if need not in model.provides]
    if lacking:
        message = f"{assigner} needs {lacking[0]}, which the head of {type(model).__name__} does not provide"
        with pytest.raises(ValueError, match=re.escape(message)):
            recipe_of(model, loss)
    else:
        assert all(loss.isfinite() and loss > 0 for loss in step(recipe_of(model, loss)).values())


def without_values(value: Any) -> Any:
    """The same on the meta device, where there are shapes and no values: whatever waits for one raises."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if not is_dataclass(value):
        return value
    parts = {one.name: getattr(value, one.name) for one in fields(value)}
    return replace(value, **{name: without_values(part) for name, part in parts.items()})  # type: ignore[type-var]


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("head", NARROW)
def test_no_assigner_copies_a_value_from_the_device(head: str, assigner: str) -> None:
    rule = ASSIGNERS[assigner]()
    if all(need in NARROW[head].provides for need in getattr(rule, "needs", ())):
        predictions = without_values(build(NARROW[head], 3).train()(torch.rand(2, 3, 64, 64) * 255))
        matches = rule(predictions, without_values(TARGETS))
        assert matches.priors.device.type == "meta" and matches.priors.shape == matches.valid.shape


@pytest.mark.parametrize("name", ["yolox-nano", "yolov4-tiny", "yolov7-tiny", "yolov7-w6", "damo-yolo-ns"])
def test_no_published_loss_copies_a_value_from_the_device(name: str) -> None:
    recipe = default_recipe(name)
    predictions = without_values(build(narrow(recipe.model), 3).train()(torch.rand(2, 3, 64, 64) * 255))
    for epoch in {0, recipe.epochs - 1}:
        losses = recipe.loss_at(epoch)(predictions, without_values(TARGETS))
        assert len(losses) > 2 and all(value.shape == () for value in losses.values())


@pytest.mark.parametrize("head", NARROW)
def test_terms_by_level_fit_every_head_that_provides_what_they_need(head: str) -> None:
    model = NARROW[head]
    rule = AnchorOta() if "anchors" in model.provides else SimOta()
    loss = DetectionLoss(rule, (LevelBoxIou(), LevelObjectness(), LevelClasses()))
    if "objectness" in model.provides:
        step(recipe_of(model, loss))
    else:
        with pytest.raises(ValueError, match="needs objectness"):
            recipe_of(model, loss)


@pytest.mark.parametrize("scheme", AUXILIARY_SCHEMES)
def test_every_auxiliary_scheme_trains_the_auxiliary_head(scheme: str) -> None:
    model = NARROW["YOLOv7 with auxiliary head"]
    loss = replace(default_recipe("yolov7-w6").loss, auxiliary=AUXILIARY_SCHEMES[scheme])
    losses = step(recipe_of(model, loss))
    assert {name for name in losses if name.startswith("auxiliary_")} == {
        "auxiliary_box",
        "auxiliary_objectness",
        "auxiliary_classes",
    }


@pytest.mark.parametrize("head", ["YOLOX", "YOLOv4", "YOLOv7", "DAMO-YOLO"])
def test_an_auxiliary_loss_without_auxiliary_head_raises(head: str) -> None:
    loss = DetectionLoss(lambda *_: None, (BoxIou(),), auxiliary=Auxiliary())
    with pytest.raises(ValueError, match="Auxiliary needs auxiliary"):
        recipe_of(NARROW[head], loss)


def test_an_auxiliary_head_without_loss_raises() -> None:
    recipe = default_recipe("yolov7-w6")
    with pytest.raises(ValueError, match="the auxiliary head would not be trained"):
        replace(recipe, loss=replace(recipe.loss, auxiliary=None))


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.family in DEFAULTS])
def test_every_model_has_a_published_training_that_a_file_can_hold(name: str) -> None:
    recipe = default_recipe(name)
    assert recipe.model is variant(name).architecture
    assert from_plain(to_plain(recipe), RECIPE_TYPES) == recipe
    assert change(recipe, {"model.num_classes": 3}).epochs == recipe.epochs


def test_simota_trains_a_yolov7_head() -> None:
    """Its loss reaches every parameter, and a small step against the gradient lowers it (in float64)."""
    torch.manual_seed(0)
    detector = build(NARROW["YOLOv7"], 3).train().double()
    loss = DetectionLoss(SimOta(), (BoxIou(), Objectness(), Classes()))
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 255
    targets = Targets(
        torch.tensor([[[4.0, 6, 40, 50]], [[20, 10, 60, 40]]]), torch.tensor([[0], [1]]), torch.ones(2, 1).bool()
    )
    before = torch.stack(list(loss(detector(images), targets).values())).sum()
    before.backward()
    gradients = [parameter.grad for parameter in detector.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    step = 1e-4 / sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
    with torch.no_grad():
        for parameter, gradient in zip(detector.parameters(), gradients):
            parameter.sub_(step * gradient)
        after = torch.stack(list(loss(detector(images), targets).values())).sum()
    # To first order it falls by step x squared gradient, but for the targets that are the IoUs of predicted boxes.
    assert 0 < float(before.detach() - after) < 1.1e-4


def test_tables_of_the_paper_are_changes() -> None:
    """Table 6: how the auxiliary head is assigned; table 7: a bound by distance; table 8: the partial head."""
    recipe = default_recipe("yolov7-w6")
    for scheme in AUXILIARY_SCHEMES.values():
        assert change(recipe, {"loss.auxiliary": scheme}).loss.auxiliary == scheme
    without = change(recipe, {"model.auxiliary": None, "loss.auxiliary": None})
    assert "auxiliary" not in without.model.provides
    assert change(default_recipe("yolov7-e6e"), {"model.partial_auxiliary": False}).model.copies == 2
    with pytest.raises(ValueError, match="Auxiliary needs auxiliary"):
        replace(recipe, model=replace(recipe.model, auxiliary=None))
