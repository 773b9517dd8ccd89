"""The pages say what is true: models, commands, settings, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError
from rich.console import Console

import onelook
from api_page import make_api, make_page
from onelook.api.models import models
from onelook.api.recipe_choice import RecipeChoice
from onelook.cli.app import VERBS, make_app, split_options
from onelook.config import get, override
from onelook.recipes import RECIPE_TYPES, default_recipe
from onelook.recipes.roadmaps import ROADMAPS, PublishedNumbers, roadmap
from test_cli_diff import recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))


def test_the_table_of_models_is_what_the_command_prints() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+) \|$", PAGES[0].read_text(), re.MULTILINE)
    expected = []
    for row in models():
        size = row.variant.architecture.size
        ap = f"{row.variant.published.ap:.1f}" if row.variant.published else "-"
        cells = (
            row.variant.family,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.gflops:.2f}",
            str(size[0]),
            ap,
            row.variant.licence,
        )
        expected.append((row.variant.name, " | ".join(cells)))
    assert rows == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for verb in re.findall(r"(?:^|`)onelook ([a-z]+)\b", text, re.MULTILINE):
        assert verb in VERBS, f"{page.name} speaks of 'onelook {verb}'"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def commands_of(page: Path) -> list[list[str]]:
    """The command lines of a page, in blocks and in sentences; a line that ends with a backslash goes on.

    Those of errors.md after a prompt are wrong on purpose; docs/make_errors.py runs them.
    """
    text = re.sub(r"\\\n\s*", "", page.read_text())
    prompt = "" if page.name == "errors.md" else r"(?:\$ )?"
    lines = re.findall(rf"^\s*{prompt}(?:torchrun .* -m )?onelook ([a-z]+\b.*?)(?:\s+#.*)?$", text, re.MULTILINE)
    return [shlex.split(line) for line in (*lines, *re.findall(r"`onelook ([a-z]+\b[^`]*)`", text))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_pages_is_understood(page: Path) -> None:
    """Its flags exist and take what they are given, and a training's settings can be set."""
    for command in commands_of(page):
        arguments, _ = split_options(command)
        try:
            app = make_app(command[0])
            _, bound, _ = app.parse_args(arguments, console=Console(quiet=True), exit_on_error=False, print_error=False)
        except MissingArgumentError:
            assert len(command) < 3, f"{page.name}: onelook {shlex.join(command)}"  # a sentence speaks of the command
            continue
        given = bound.arguments
        settings = tuple(one for one in given.get("overrides", ()) if not re.search(r"\.\.\.|=N$", one))
        if command[0] == "roadmap" and settings:
            for start in ROADMAPS[given["name"]].recipes.values():
                override(start, *settings, types=RECIPE_TYPES)
        files = any(str(given.get(name)).endswith(".yaml") for name in ("recipe", "model"))
        if command[0] == "train" and {"model", "recipe"} & given.keys() and not files:
            flags = {name: given.get(name) for name in ("model", "recipe", "epochs", "size", "batch")}
            means = {"has_weights": "weights" in given, "has_teacher": "teacher" in given, "on_cpu": True}
            assert RecipeChoice(overrides=tuple(settings), **flags).resolve(("a", "b"), **means)


def test_the_pages_have_commands() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_no_place_of_a_particular_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|opt|Users)/", page.read_text())


def test_every_setting_of_the_page_can_be_set() -> None:
    table = [line for line in (ROOT / "docs" / "settings.md").read_text().splitlines() if line.startswith("| `")]
    examples = [text for line in table for text in re.findall(r"`([^`]+=[^`]+)`", line.split(" | ")[0])]
    assert len(examples) > 10
    for example in examples:
        (setting,) = shlex.split(example)
        override(recipe(), setting, types=RECIPE_TYPES)


def test_every_setting_of_yolov7_can_be_set() -> None:
    """What the page says with a value is set to it; what it only names is there."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / "yolov7.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    large = default_recipe("yolov7-e6e")
    spans = [span for span in re.findall(r"`([^`]+)`", text) if re.match(r"\"?(model|loss|augment|ema)\.", span)]
    with_value = [span for span in spans if "=" in span]
    assert len(with_value) > 8 and len(spans) - len(with_value) > 15
    for span in with_value:
        override(large, *shlex.split(span), types=RECIPE_TYPES)
    for path in set(spans) - set(with_value):
        get(large, path)


def test_overloads_stand_on_the_page_with_their_defaults() -> None:
    made = make_api()
    one, several = made.overloads(onelook.Predictor.detect)
    assert (one.return_annotation, several.return_annotation) == ("Detections", "list[Detections]")
    assert str(several.parameters["source"]) == "source: 'Sequence[ImageLike]'"
    assert several.parameters["confidence"].default == 0.25
    returned = ["WrittenWeights", "ExportResult", "ExportResult | WrittenWeights"]
    assert [known.return_annotation for known in made.overloads(onelook.export)] == returned
    assert made.overloads(onelook.load) == []


def test_every_field_of_a_public_type_is_explained() -> None:
    page = make_api().page()
    assert "- `best_epoch` (`int | None`): the epoch with that value; the first epoch is 1" in page
    assert "- `path` (`str`): dotted path of the setting." in page
    assert re.findall(r"^- `[^:]*`\)$", page, re.MULTILINE) == []


def test_what_a_docstring_says_after_its_list_is_not_part_of_the_list() -> None:
    last = list(re.findall(r"^- (.*)$", make_api().PAGE.read_text(), re.MULTILINE))
    assert [text for text in last if re.search(r"\. (Raises|The other settings) ", text)] == []


ROADMAP_PAGE = "make_roadmap_tables"


def test_the_page_of_costs_lists_every_row_with_the_printed_figures() -> None:
    """Mend it with: python docs/make_roadmap_tables.py"""
    made = make_page(ROADMAP_PAGE)
    sections = made.PAGE.read_text(encoding="utf-8").split("\n## ")
    assert [section.partition(":")[0] for section in sections[1:-1]] == [one.source for one in ROADMAPS.values()]
    for table, section in zip(ROADMAPS.values(), sections[1:]):
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
        assert [line[0] for line in lines] == [row.name for row in table.rows]
        for row, line in zip(table.rows, lines):
            printed = [None if cell == made.NOTHING else float(cell) for cell in (line[2], line[4])]
            assert printed == [row.published.parameters, row.published.gflops]
            assert line[5] == "equal" or row.note in line[5] or line[5].startswith(made.UNPRINTED)


def test_rows_and_models_with_another_cost_than_printed_say_why() -> None:
    made = make_page(ROADMAP_PAGE)
    page = made.PAGE.read_text(encoding="utf-8")
    table = roadmap("damo-yolo-table4")
    assert made.roadmap_section(table) in page and made.verdict(table, table.rows[0]) == "equal"
    assert made.model_line("yolov7-tiny", "6.2", "5.8", 416, ["x"])[-1] == "equal"
    assert made.model_line("damo-yolo-t", "8.5", "18.1", 640, ["x"])[3:7] == ("8.48", "8.5", "18.06", "18.1")
    wrong = replace(table, rows=(replace(table.rows[0], published=PublishedNumbers(gflops=44.4)),))
    with pytest.raises(ValueError, match="no note says why"):
        made.verdict(wrong, wrong.rows[0])


@pytest.mark.slow
def test_the_page_of_costs_is_made_of_the_roadmaps() -> None:
    made = make_page(ROADMAP_PAGE)
    assert made.PAGE.read_text(encoding="utf-8") == made.page()


def test_the_page_of_the_api_is_made_of_the_docstrings() -> None:
    """Mend it with: python docs/make_api.py"""
    made = make_api()
    assert made.PAGE.read_text(encoding="utf-8") == made.page()
    assert {name for names in made.SECTIONS.values() for name in names} == set(onelook._PUBLIC)
