"""A small configuration with every kind of field, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class Assigner(Protocol):
    def __call__(self, predictions: Any) -> Any: ...


@dataclass(frozen=True)
class Near:
    """radius: above 0."""

    radius: float = 2.5
    candidates: int = 10

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError("the radius must be above 0")

    def __call__(self, predictions: Any) -> Any:
        return predictions


@dataclass(frozen=True)
class Far:
    reach: int
    mode: Literal["wide", "deep"] = "wide"

    def __call__(self, predictions: Any) -> Any:
        return predictions


@dataclass(frozen=True)
class Term:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Loss:
    assigner: Assigner = Near()
    terms: tuple[Term, ...] = (Term("box", 5.0), Term("classes"))
    extra: Term | None = None


@dataclass(frozen=True, kw_only=True)
class Range:
    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


@dataclass(frozen=True, kw_only=True)
class Root:
    loss: Loss = Loss()
    range: Range = Range()
    epochs: int = 300
    flag: bool = False
    note: str = "plain"
    limit: float | None = None
    size: tuple[int, int] = (640, 640)
    head: Literal["coupled", "decoupled", 3] = "decoupled"
    freeze: tuple[str, ...] = ()
    repeats: Mapping[str, int] = field(default_factory=dict)
    stages: tuple[tuple[int, float], ...] = ((1, 0.5), (2, 1.0))
    rule: Callable[..., Any] | None = None


TYPES: dict[str, type] = {kind.__name__: kind for kind in (Near, Far, Term, Loss, Range, Root)}
