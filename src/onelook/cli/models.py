"""`onelook models`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from onelook.models.build import build
from onelook.models.deploy import deploy
from onelook.models.flops import count_gflops, count_parameters
from onelook.models.variants import VARIANTS, Variant, variant

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One variant and what it costs: values in training form and in deploy form, and GFLOPs of the deploy form."""

    variant: Variant
    parameters: int
    deploy_parameters: int
    gflops: float

    def to_dict(self) -> dict[str, Any]:
        """The row as `--json` writes it; `ap`, `weights` and `backbone` are null where nothing is published."""
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
        }


@dataclass(frozen=True)
class ModelList:
    """The variants that were asked for, in the order of the families' tables."""

    rows: Sequence[Row]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {"models": [row.to_dict() for row in self.rows]}

    def show(self, console: Console) -> None:
        """A table; for a single model also where its weights are."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("model", no_wrap=True)
        table.add_column("family", no_wrap=True)
        for title in ("parameters", "GFLOPs", "size", "AP"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("licence", no_wrap=True)
        for row in self.rows:
            model = row.variant
            height, width = model.architecture.size
            table.add_row(
                model.name,
                model.family,
                f"{row.parameters / 1e6:.2f} M",
                f"{row.gflops:.2f}",
                f"{height}" if height == width else f"{height}x{width}",
                f"{model.published.ap:.1f}" if model.published else "-",
                model.licence,
            )
        console.print(table)
        console.print(
            "Parameters of the training form; GFLOPs of the deploy form's convolutions at that size, 2 a multiply-add;"
            " published AP on COCO.",
            style="dim",
        )
        if len(self.rows) > 1:
            console.print("Where a model's official weights are: onelook models NAME", style="dim")
            return
        model = self.rows[0].variant
        if place := model.url or model.weights_file:
            console.print(f"Official weights: {place}", soft_wrap=True)
        if model.backbone:
            console.print(f"Of the backbone alone, to train from: {model.backbone}", soft_wrap=True)


def models(name: str | None = None, /) -> ModelList:
    """List the models: cost, input size, published accuracy, official weights.

    Examples:
        onelook models
        onelook models yolox-nano --json -

    Args:
        name: only this model.

    Returns:
        The rows of the table.
    """
    wanted = list(VARIANTS.values()) if name is None else [variant(name)]
    return ModelList([_row(model) for model in wanted])


def _row(model: Variant) -> Row:
    with torch.device("meta"):  # shapes without values: no memory, no time
        detector = build(model.architecture)
    deployed = deploy(detector)
    return Row(
        model,
        count_parameters(detector),
        count_parameters(deployed),
        count_gflops(deployed, model.architecture.size),
    )
