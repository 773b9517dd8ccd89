"""What a recipe refuses when it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from onelook.assign.simota import SimOta
from onelook.losses.yolox import BoxIou, RawL1
from onelook.networks.yolox.architecture import Yolox
from onelook.training.optimizer import AdamW, Sgd
from training import LOSS, RECIPE, TINY

REFUSED = {
    "a negative seed": lambda: replace(RECIPE, seed=-1),
    "a norm to clip to that is not above 0": lambda: replace(RECIPE, clip=0.0),
    "no patience at all": lambda: replace(RECIPE, patience=0),
    "a negative rate": lambda: Sgd(lr_per_image=-0.1),
    "a rate that is no number": lambda: AdamW(lr_per_image=float("nan")),
    "an endless rate": lambda: Sgd(lr_per_image=float("inf")),
    "a negative decay": lambda: AdamW(weight_decay=-1.0),
    "a momentum of 1": lambda: Sgd(momentum=1.0),
    "Nesterov's momentum without momentum": lambda: Sgd(momentum=0.0),
    "a beta of 1": lambda: AdamW(betas=(0.9, 1.0)),
    "a negative weight of a term": lambda: LOSS.with_terms(RawL1(weight=-1.0)),
    "a region without size": lambda: SimOta(radius=0.0),
    "no candidates": lambda: SimOta(candidates=0),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=list(REFUSED))
def test_a_number_out_of_range_is_an_error_when_it_is_set(make):
    with pytest.raises(ValueError, match="not"):
        make()


@dataclass(frozen=True)
class Bare(Yolox):
    """A network whose head gives boxes and classes only."""

    provides: ClassVar[frozenset[str]] = frozenset()


def test_a_loss_term_that_the_head_does_not_support_is_an_error_of_the_recipe():
    with pytest.raises(ValueError, match="Objectness needs objectness, which the head of Bare does not provide"):
        replace(RECIPE, model=Bare())
    assert replace(RECIPE, model=TINY, loss=LOSS.with_terms(BoxIou(name="more"))).loss.terms[-1].name == "more"


def test_the_closing_loss_is_checked_too():
    loss = replace(LOSS, assigner=lambda *_: None, terms=(BoxIou(),))
    closing = replace(RECIPE.closing, loss=loss.with_terms(RawL1()))
    with pytest.raises(ValueError, match="RawL1 needs cell offsets"):
        replace(RECIPE, model=Bare(), loss=loss, closing=closing)
