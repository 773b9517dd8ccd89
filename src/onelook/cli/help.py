"""Formats help pages and usage errors."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError
from cyclopts.exceptions import UnknownCommandError, UnusedCliTokensError
from cyclopts.help.formatters import DefaultFormatter

from onelook.errors import did_you_mean

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

GLOBAL_OPTIONS = (
    ("--json FILE", "Write what is shown as JSON to this file; - is standard output."),
    ("--debug", "Show the traceback of an error."),
    ("--help, -h", "Show this page."),
    ("--version", "Show the version."),
)


class HelpPage(DefaultFormatter):
    """A help page of cyclopts with the description and the examples of a command's docstring.

    text: paragraphs to show instead of the registered summary.  examples: shell lines.
    """

    def __init__(self, text: str = "", examples: Sequence[str] = ()) -> None:
        super().__init__()
        self.text = text
        self.examples = examples

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Prints a panel, with descriptions filled to its width instead of broken where the docstring breaks them."""
        from rich.text import Text

        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if isinstance(text, Text) and "\n" in text.plain:
                entry.description.primary_renderable = Text(" ".join(text.plain.split()))
        super().__call__(console, options, panel)

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Prints the description and the examples; called by cyclopts with the summary it knows."""
        from rich.text import Text

        for paragraph in self.text.split("\n\n") if self.text else []:
            console.print(Text(paragraph if paragraph.startswith((" ", "-")) else " ".join(paragraph.split())))
            console.print()
        if not self.text:
            super().render_description(console, options, description)
        if self.examples:
            console.print(Text("Example:" if len(self.examples) == 1 else "Examples:", style="bold"))
            for line in self.examples:
                console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)
            console.print()


def page_of(app: App, arguments: Sequence[str]) -> HelpPage:
    """Makes the help page of the command in the arguments, from its function's docstring."""
    _, path, _ = app.parse_commands(arguments)
    function = path[-1].default_command
    if function is None or not function.__doc__:
        return HelpPage()
    return HelpPage(*read_docstring(function.__doc__))


def read_docstring(docstring: str) -> tuple[str, list[str]]:
    """Reads a Google-style docstring. Returns its text, and the lines of its `Examples:` section."""
    from docstring_parser.google import parse

    parsed = parse(inspect.cleandoc(docstring))
    text = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    lines = [line for example in parsed.examples for line in inspect.cleandoc(example.description or "").splitlines()]
    return text, lines


def print_global_options(console: Console) -> None:
    """Prints the options that every command takes, below the help page."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for option, meaning in GLOBAL_OPTIONS:
        table.add_row(Text(option, style="cyan"), meaning)
    console.print(Panel(table, title="Options of every command", title_align="left"))


def format_default(value: Any) -> str | None:
    """Formats a default value for the help; None, which shows nothing, for False, None and ()."""
    if value is None or value is False or value == ():
        return None
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return str(value)


def usage_message(error: CycloptsError) -> tuple[str, str]:
    """Returns message and remedy for an error of cyclopts."""
    command = " ".join(["onelook", *(error.command_chain or ())])
    remedy = f"See: {command} --help"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        positional = error.argument.field_info.is_positional
        if error.keyword is not None:
            return f"{error.keyword} needs a value.", _dashed_value(error) or remedy
        typed = difflib.get_close_matches(name, [t for t in error.unused_tokens or () if t.startswith("-")], n=1)
        hint = f" Did you mean {name} instead of {typed[0]}?" if typed else ""
        return f"'{command}' needs {name.lstrip('-').upper() if positional else name}.{hint}", remedy
    if isinstance(error, CoercionError) and error.token is not None and (kinds := plain_type(error.target_type)):
        argument = error.argument.name.lstrip("-").upper() if error.argument is not None else "The value"
        return f"{error.token.keyword or argument} takes {kinds}, not '{error.token.value}'.", remedy
    if isinstance(error, UnknownOptionError):
        return str(error).replace("Unknown option: ", "Unknown option ").replace('"', "'"), remedy
    if isinstance(error, UnusedCliTokensError):
        return f"'{command}' does not know what to do with: {' '.join(error.unused_tokens or ())}", remedy
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        known = [name for name in (error.app or ()) if not name.startswith("-")]
        return unknown_command(error.unused_tokens[0], known, " ".join(error.command_chain or ()))
    text, suggested, _ = str(error).replace('"', "'").partition(" Did you mean ")
    if suggested and isinstance(error, CoercionError) and error.token is not None:
        choices = re.findall("'([^']*)'", text.partition("Choose from")[2])
        return text + did_you_mean(error.token.value, choices), remedy
    return str(error).replace('"', "'"), remedy


def _dashed_value(error: MissingArgumentError) -> str:
    """The remedy where a value such as -5s was taken for an option; "" elsewhere."""
    tokens = list(error.root_input_tokens or ())
    after = tokens[tokens.index(error.keyword) + 1 :][:1] if error.keyword in tokens else []
    dashed = [token for token in after if re.match(r"-[\d.]", token)]
    return f"Write {error.keyword}={dashed[0]} for a value that begins with a dash." if dashed else ""


def plain_type(kind: Any) -> str:
    """What values of a type are, in words: "a whole number or auto"; "" for one choice of words and other types."""
    kinds = list(get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))
    if not {int, float} & set(kinds):
        return ""
    numbers = ["a number" if float in kinds else "a whole number"]
    words = [str(word) for one in kinds if get_origin(one) is Literal for word in get_args(one)]
    return " or ".join(numbers + words)


def unknown_command(name: str, known: Sequence[str], parent: str = "") -> tuple[str, str]:
    """Returns message and remedy for a command that does not exist."""
    command = f"onelook {parent}".strip()
    if name.startswith("-"):
        return f"Unknown option {name}.", f"See: {command} --help"
    return f"'{command}' has no command '{name}'.{did_you_mean(name, known)}", f"Commands: {', '.join(known)}."
