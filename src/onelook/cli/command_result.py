"""The return value of a verb: the result of the API, and the function that prints it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console


class HasDict(Protocol):
    """A result that can be written as JSON."""

    def to_dict(self) -> Any: ...


T = TypeVar("T", bound=HasDict)


@dataclass(frozen=True)
class CommandResult(Generic[T]):
    """A result of the API with the function that prints it, from `cli/views/`; None prints `text(result)`.

    The text alone needs no Rich, whose import takes a third of the time of `onelook detect` with an exported file.
    """

    result: T
    print_result: Callable[[T, Console], None] | None = None
    exit_code: int = 0
    text: Callable[[T], str] = str

    def to_dict(self) -> Any:
        """What `--json` writes."""
        return self.result.to_dict()

    def show(self, console: Console) -> None:
        """Prints the result."""
        if self.print_result is None:
            console.print(self.text(self.result), soft_wrap=True, markup=False)
        else:
            self.print_result(self.result, console)
