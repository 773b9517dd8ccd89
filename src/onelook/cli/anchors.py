"""`onelook anchors`: anchor boxes that fit the objects of a data set."""

from __future__ import annotations

from typing import Any

from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.anchors import show_anchors
from onelook.data.anchors import GENERATIONS


def anchors(
    data: str,
    /,
    *,
    count: int | None = None,
    size: int | None = None,
    model: str | None = None,
    split: str | None = None,
    generations: int = GENERATIONS,
    seed: int = 0,
) -> CommandResult[Any]:
    """Find anchor boxes that fit the objects of a data set.

    K-means on the sides of the training objects, then random changes of which improvements are kept. Prints how well
    the anchors fit (best possible recall is the share of objects that some anchor fits within a factor of 4), and the
    setting that makes onelook train use them. Only models with anchors need it, and only where their own fit badly:
    best possible recall below 0.98.

    Examples:
        onelook anchors data/ --model yolov7-tiny --size 320
        onelook anchors data/ --count 12 --size 1280 --json anchors.json

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file.
        count: Anchors to find, three for each level of the network; as the model has, else 9.
        size: Side of the network's input in pixels; the model's, else 640.
        model: Name of a model whose anchors are shown beside the found ones.
        split: Split whose objects count; train, or trainval where that is what there is.
        generations: Random changes that are tried.
        seed: Of the search.

    Returns:
        The anchors by level, and how they fit.
    """
    from onelook.api.anchors import anchors as find_anchors

    found = find_anchors(
        data,
        count=count,
        size=size,
        model=model,
        split=split,
        generations=generations,
        seed=seed,
        reporter=ConsoleReporter(),
    )
    return CommandResult(found, show_anchors)
