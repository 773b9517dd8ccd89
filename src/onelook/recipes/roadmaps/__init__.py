"""Roadmaps: the ablation tables of the four papers as recipes, each row a change of another row.

A row is also a recipe by itself, called TABLE:ROW: `onelook diff yolox-table2:anchor-free yolox-table2:simota`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onelook.errors import ConfigError, did_you_mean
from onelook.recipes.records import PRINTED_TABLES
from onelook.recipes.roadmaps import damo_yolo, yolov4, yolov4_backbones, yolov7, yolox
from onelook.recipes.roadmaps.roadmap import COUNTS, PRINTED_METRICS, PublishedNumbers, Roadmap, Row
from onelook.training.recipe import Recipe

__all__ = ["COUNTS", "PRINTED_METRICS", "ROADMAPS", "PublishedNumbers", "Roadmap", "Row", "roadmap", "row_recipe"]

ROADMAPS: Mapping[str, Roadmap] = MappingProxyType(
    {table.name: table for module in (yolox, yolov7, damo_yolo, yolov4, yolov4_backbones) for table in module.TABLES}
)


def roadmap(name: str) -> Roadmap:
    """The roadmap of that name; ConfigError with the nearest names for an unknown one."""
    if name not in ROADMAPS and name in PRINTED_TABLES:
        raise ConfigError(
            f"{name} has figures of finished models, so there is nothing to train.",
            f"Its printed figures: onelook roadmap {name}",
        )
    if name not in ROADMAPS:
        raise ConfigError(
            f"There is no roadmap '{name}'.{did_you_mean(name, ROADMAPS)}", f"Known roadmaps: {', '.join(ROADMAPS)}."
        )
    return ROADMAPS[name]


def row_recipe(name: str) -> Recipe:
    """The recipe with the name TABLE:ROW; ConfigError for an unknown table or row."""
    table, _, row = name.partition(":")
    found = roadmap(table)
    return found.recipes[found.row(row).key]
