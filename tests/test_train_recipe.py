"""What a recipe refuses when it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from onelook.losses.terms import BoxIou, RawL1
from onelook.models.yolox.architecture import Yolox
from training import LOSS, RECIPE, TINY


@dataclass(frozen=True)
class Bare(Yolox):
    """A network whose head gives boxes and classes only."""

    gives: ClassVar[frozenset[str]] = frozenset()


def test_a_term_that_the_head_cannot_serve_is_refused_when_the_recipe_is_made():
    with pytest.raises(ValueError, match="Objectness needs objectness, which the head of Bare does not give"):
        replace(RECIPE, model=Bare())
    assert replace(RECIPE, model=TINY, loss=LOSS.plus(BoxIou(name="more"))).loss.terms[-1].name == "more"


def test_the_closing_loss_is_checked_too():
    loss = replace(LOSS, assigner=lambda *_: None, terms=(BoxIou(),))
    closing = replace(RECIPE.closing, loss=loss.plus(RawL1()))
    with pytest.raises(ValueError, match="RawL1 needs cell offsets"):
        replace(RECIPE, model=Bare(), loss=loss, closing=closing)
