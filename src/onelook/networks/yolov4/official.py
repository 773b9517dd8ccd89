"""Maps our tensor names to the numbered layers of Darknet's files.

The i-th convolution of a file is `conv{i}`, its batch norm `bn{i}`, the j-th weighted sum `shortcut{j}`. Blocks define
their layers in the order of the files; the positions of the prediction layers between them are added here.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from onelook.layers.weighted_sum import WeightedSum
from onelook.networks.detector import Detector


def official_names(detector: Detector) -> dict[str, str]:
    """Maps our tensor names to the official ones, for the training form, in the order of the files.

    Parts that no published file has (attention, fusion) are numbered in their position; tensors that belong to no
    convolution, batch norm or weighted sum keep our names.
    """
    known: dict[str, str] = {}
    counts = {"conv": 0, "shortcut": 0}
    for name, module in _file_order(detector):
        if isinstance(module, nn.Conv2d):
            number = counts["conv"]
            counts["conv"] += 1
            known |= {f"{name}.{one}": f"conv{number}.{one}" for one in ("weight", "bias")}
        elif isinstance(module, nn.BatchNorm2d):
            number = counts["conv"] - 1
            known |= {f"{name}.{one}": f"bn{number}.{one}" for one in module.state_dict()}
        elif isinstance(module, WeightedSum):
            known[f"{name}.weight"] = f"shortcut{counts['shortcut']}.weight"
            counts["shortcut"] += 1
    state = detector.state_dict()
    numbered = {name: official for name, official in known.items() if name in state}
    return numbered | {name: name for name in state if name not in numbered}


def _file_order(detector: Detector) -> Iterator[tuple[str, nn.Module]]:
    """Yields all modules with their names, in the order of the published files."""
    yield from detector.backbone.named_modules(prefix="backbone")
    neck, head = detector.neck, detector.head
    levels = iter(getattr(head, "order", ()))
    done: set[str] = set()
    for part in getattr(neck, "parts", ()):
        for child in part:
            yield from neck.get_submodule(child).named_modules(prefix=f"neck.{child}")
        done.update(part)
        level = next(levels)
        yield from head.get_submodule(f"levels.{level}").named_modules(prefix=f"head.levels.{level}")
    for child, module in neck.named_children():
        if child not in done:
            yield from module.named_modules(prefix=f"neck.{child}")
    for level in levels:
        yield from head.get_submodule(f"levels.{level}").named_modules(prefix=f"head.levels.{level}")
