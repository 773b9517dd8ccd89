"""The quick parser: what it understands, it understands as cyclopts does; everything else it leaves."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from onelook.cli.app import VERBS, import_verb, make_app, split_options
from onelook.cli.quick import parse
from test_docs import PAGES, commands_of


def verb(
    first: str,
    second: Path | None = None,
    /,
    *,
    name: str,
    size: int | None = None,
    share: float = 0.5,
    half: bool = False,
    kind: Literal["in", "out"] = "in",
    batch: int | Literal["auto"] | None = None,
    two_words: Path | None = None,
) -> None: ...


def several(*sources: str, model: str) -> None: ...


@pytest.mark.parametrize(
    ("line", "positional", "keywords"),
    [
        ("a --name n", ["a"], {"name": "n"}),
        ("a b --name=n --size 3", ["a", Path("b")], {"name": "n", "size": 3}),
        ("--half a --share .5 --name n", None, None),
        ("--half a --share 0.25 --name n", ["a"], {"name": "n", "half": True, "share": 0.25}),
        ("a --name n --kind out --two-words x/y", ["a"], {"name": "n", "kind": "out", "two_words": Path("x/y")}),
    ],
)
def test_ordinary_lines_are_parsed(line: str, positional: list[Any] | None, keywords: dict[str, Any] | None) -> None:
    found = parse(verb, line.split())
    assert found == (None if positional is None else (positional, keywords))


@pytest.mark.parametrize(
    "line",
    [
        *("", "a", "--name n", "a b c --name n", "a --name", "a --name n --siz 3", "a --name n --name m"),
        *("a --name n --size 3.5", "a --name n --size many", "a --name n --size none", "a --name n --kind up"),
        *("a --name n --half=yes", "a --name n --no-half", "a --name -n", "a --name n --help", "-h a --name n"),
        *("a --name n --batch 3", "a --name n -- --size", "a --name n --two_words x", "a --name= --size 3"),
    ],
)
def test_everything_else_is_left_to_cyclopts(line: str) -> None:
    assert parse(verb, line.split()) is None


def test_any_number_of_positional_arguments() -> None:
    assert parse(several, ["a", "b", "--model", "m", "c"]) == (["a", "b", "c"], {"model": "m"})
    assert parse(several, ["--model", "m"]) == ([], {"model": "m"})


def test_the_commands_of_all_pages_are_parsed_as_cyclopts_parses_them() -> None:
    quick = 0
    for command in (command for page in PAGES for command in commands_of(page)):
        arguments, _ = split_options(command)
        if arguments[0] not in VERBS or not inspect.isfunction(function := import_verb(arguments[0])):
            continue
        found = parse(function, arguments[1:])
        if found is None:
            continue
        quick += 1
        app = make_app(arguments[0])
        _, bound, _ = app.parse_args(arguments, console=Console(quiet=True), exit_on_error=False, print_error=False)
        ours = inspect.signature(function).bind(*found[0], **found[1])
        assert ours.arguments == bound.arguments, command
    assert quick > 20
