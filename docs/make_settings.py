"""Writes docs/settings_reference.md, every setting of a recipe, from its dataclasses: python docs/make_settings.py"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings_reference.md"

INTRODUCTION = """# All settings

Made by `python docs/make_settings.py` from the dataclasses of the recipes; a test compares both.

How settings are changed, in Python, on the command line and in files, is on the page [Settings](settings.md). Here is
every type that a recipe may hold, with its fields, their defaults, and where the recipes of the models have it.
`onelook train DATA --model yolox-nano loss.assigner.radius=2.0` sets a field; `loss.assigner=AlignOta` puts another
type in its place. Where a field has no default, the recipe of the model states it.
"""

# The order of the page; a type that is in none of these stands under the last title.
SECTIONS = {
    "The training": ("training.recipe", "data.order", "training.frozen_start", "training.ema", "training.multiscale"),
    "Optimizers and schedules": ("training.optimizer", "training.schedule"),
    "Methods that change a step": ("training", "layers"),
    "Assigners": ("assign",),
    "Losses": ("losses",),
    "Augmentation": ("augment",),
    "Networks": ("networks",),
}


def page() -> str:
    """The whole page."""
    from onelook.recipes import RECIPE_TYPES

    places = found_places()
    left = {**RECIPE_TYPES}
    parts = [INTRODUCTION]
    for title, modules in SECTIONS.items():
        inside = tuple(f"onelook.{module}" for module in modules)
        kinds = [kind for kind in left.values() if f"{kind.__module__}.".startswith(tuple(f"{one}." for one in inside))]
        parts.append(f"\n## {title}\n")
        parts += [section(left.pop(kind.__name__), places.get(kind.__name__, {})) for kind in kinds]
    if left:
        raise ValueError(f"in no section of the page: {', '.join(left)}")
    return "".join(parts)


def found_places() -> dict[str, dict[str, list[str]]]:
    """Where the published recipes have each type: its name -> path -> families."""
    from onelook.networks.variants import VARIANTS
    from onelook.recipes import default_recipe

    found: dict[str, dict[str, list[str]]] = {}
    for name, variant in VARIANTS.items():
        for distilled in (False, True):
            for kind, path in walk(default_recipe(name, distilled=distilled), ""):
                families = found.setdefault(kind, {}).setdefault(path, [])
                if variant.family not in families:
                    families.append(variant.family)
    return found


def walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every dataclass inside a value, as (its type, its path)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__, path
        for field in dataclasses.fields(value):
            yield from walk(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}.{getattr(item, 'name', index)}")


MOST_PLACES = 4


def section(kind: type, places: dict[str, list[str]]) -> str:
    """One type: its meaning, its place in the recipes, and a table of its fields."""
    import make_api

    from onelook.networks.variants import VARIANTS

    assert dataclasses.is_dataclass(kind)
    fields = [field for field in dataclasses.fields(kind) if not field.name.startswith("_")]
    names = {field.name for field in fields}
    meanings: dict[str, str] = {}
    texts: list[str] = []
    for paragraph in inspect.cleandoc(kind.__doc__ or "").split("\n\n"):
        explained = make_api.explanations(paragraph, names)
        meanings |= {one: text for listed, text in explained.items() for one in listed.split(", ")}
        if not explained:
            texts.append(paragraph)
    for base in kind.__mro__[1:-1]:
        for paragraph in inspect.cleandoc(base.__doc__ or "").split("\n\n"):
            explained = make_api.explanations(paragraph, names)
            meanings = {one: text for listed, text in explained.items() for one in listed.split(", ")} | meanings
    families = list(dict.fromkeys(row.family for row in VARIANTS.values()))
    shown = [
        f"`{path}` ({'all families' if len(of) == len(families) else ', '.join(of)})"
        for path, of in sorted(places.items(), key=lambda item: (item[0].count("."), item[0]))
        if path and not re.search(r"\.[1-9]\d*(\.|$)", path)
    ]
    more = f", and {len(shown) - MOST_PLACES} more" if len(shown) > MOST_PLACES else ""
    where = f"\nIn the recipes: {', '.join(shown[:MOST_PLACES])}{more}.\n" if shown else ""
    rows = [
        f"| `{field.name}` | {cell(meanings.get(field.name, ''))} | {default(field)} | {kind_text(field)} |"
        for field in fields
    ]
    table = "\n".join(["", "| setting | meaning | default | type |", "|---|---|---|---|", *rows, ""]) if rows else ""
    rest = "".join(f"\n{text}\n" for text in texts[1:])
    return f"\n### {kind.__name__}\n\n{texts[0]}\n{where}{table}{rest}"


def kind_text(field: dataclasses.Field[Any]) -> str:
    """The type of a field for a cell of a table, in which a bar would end the cell."""
    kind = field.type if isinstance(field.type, str) else field.type.__name__
    return f"`{' or '.join(part.strip() for part in kind.split('|'))}`"


def default(field: dataclasses.Field[Any]) -> str:
    """The default as `path=value` writes it; empty where there is none."""
    from onelook.config import to_text

    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    return f"`{to_text(value)}`"


def cell(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
