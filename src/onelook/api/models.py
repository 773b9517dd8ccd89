"""`onelook.models`: the built-in models, with their numbers of parameters and GFLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from onelook.config import check_arguments
from onelook.networks.build import build
from onelook.networks.deploy import deploy
from onelook.networks.flops import count_gflops, count_parameters
from onelook.networks.variants import VARIANTS, Variant, variant
from onelook.recipes.records import printed_rows
from onelook.types import text_repr


@dataclass(frozen=True)
class PrintedRow:
    """What a paper prints about a model in one row of a table.

    source: paper and table.  setting: data and hardware.  cells: by column, as printed.
    """

    source: str
    setting: str
    cells: dict[str, str]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of one model.

    variant: its name, family, architecture, published accuracy, and where its official weights are.
    parameters: of the training form.  deploy_parameters, gflops: of the deploy form, at the model's own input size.
    """

    variant: Variant
    parameters: int
    deploy_parameters: int
    gflops: float

    @property
    def printed(self) -> list[PrintedRow]:
        """What the four papers print about the model, row by row."""
        return [
            PrintedRow(table.source, table.setting, dict(zip(table.columns, row)))
            for table, row in printed_rows(self.variant.name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain data; `ap`, `weights` and `backbone` are None where nothing is published."""
        model = self.variant
        return {
            "name": model.name,
            "family": model.family,
            "parameters": self.parameters,
            "deploy_parameters": self.deploy_parameters,
            "gflops": self.gflops,
            "size": list(model.architecture.size),
            "classes": model.architecture.num_classes,
            "ap": model.published.ap if model.published else None,
            "ap_split": model.published.split if model.published else None,
            "weights": model.weights_file,
            "url": model.url,
            "backbone": model.backbone,
            "licence": model.licence,
            "printed": [vars(row) for row in self.printed],
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        ap = f", AP {self.variant.published.ap:.1f}" if self.variant.published else ""
        return f"{self.variant.name}: {self.parameters / 1e6:.2f} M parameters, {self.gflops:.2f} GFLOPs{ap}"


class ModelList(tuple[ModelInfo, ...]):
    """Models in the order of the families' tables."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"models": [row.to_dict() for row in self]}

    __repr__ = text_repr

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def models(name: str | None = None) -> ModelList:
    """The models that have a name: cost, input size, published accuracy, official weights.

    name: only this model; ConfigError with the nearest names for an unknown one.
    """
    check_arguments(models, locals())
    rows = list(VARIANTS.values()) if name is None else [variant(name)]
    return ModelList(_info(model) for model in rows)


def _info(model: Variant) -> ModelInfo:
    with torch.device("meta"):  # shapes without values: no memory, no time
        detector = build(model.architecture)
    deployed = deploy(detector)
    return ModelInfo(
        model,
        count_parameters(detector),
        count_parameters(deployed),
        count_gflops(deployed, model.architecture.size),
    )
