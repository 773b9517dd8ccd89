"""`onelook diff`: what one training changes against another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onelook.config import Difference, to_plain, to_text
from onelook.config import diff as differences_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class RecipeDiff:
    """The settings that two recipes have differently; `first` and `second` are how they were called."""

    first: str
    second: str
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Both names, and path, before and after of every difference, as plain data."""
        rows = [
            {"path": one.path, "before": to_plain(one.before), "after": to_plain(one.after)} for one in self.differences
        ]
        return {"first": self.first, "second": self.second, "differences": rows}

    def show(self, console: Console) -> None:
        """A table of the differences, as `path=value` text."""
        from rich.table import Table
        from rich.text import Text

        if not self.differences:
            console.print("The two recipes are the same.")
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("setting", self.first, self.second):
            table.add_column(Text(title), overflow="fold")
        for one in self.differences:
            table.add_row(Text(one.path, style="cyan"), _side(one.before, one.after), _side(one.after, one.before))
        console.print(table)
        count = len(self.differences)
        console.print(Text(f"{count} setting{'s differ' if count > 1 else ' differs'}.", style="dim"))


def _side(value: Any, other: Any) -> Text:
    """One side of a difference; what both lists of objects have is left out."""
    from rich.text import Text

    if isinstance(value, tuple) and isinstance(other, tuple) and any(item in other for item in value):
        own = [to_text(item) for item in value if item not in other]
        return Text(", ".join(["...", *own]))
    return Text(to_text(value))


def diff(before: str, after: str, /) -> RecipeDiff:
    """What one training changes against another.

    A recipe is the name of a model (its published training), a recipe.yaml, or the folder of a run. Every line is a
    setting that `onelook train` takes as path=value.

    Examples:
        onelook diff yolox-s runs/mine
        onelook diff runs/a/recipe.yaml runs/b/recipe.yaml --json changes.json

    Args:
        before: The recipe to compare with.
        after: The recipe whose changes are shown.

    Returns:
        The differences in the order of the recipe's settings.
    """
    from onelook.recipes import find_recipe

    return RecipeDiff(before, after, tuple(differences_of(find_recipe(before), find_recipe(after))))
