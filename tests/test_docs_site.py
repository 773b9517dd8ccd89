"""The documentation's site: every page is in it, what programs write is current, nothing needs another host."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import onelook
from api_page import ROOT, make_page
from networks import goldens, manifest
from onelook.cli.app import VERBS
from onelook.config import get, override
from onelook.networks.variants import VARIANTS
from onelook.recipes import RECIPE_TYPES, default_recipe
from shared import data, needs_shared, reference
from test_docs import commands_of

FAMILIES = ("yolox", "yolov4", "yolov7", "damo_yolo")


def navigation(entries: Any) -> list[str]:
    """The pages of the navigation, in order."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for entry in values for page in navigation(entry)]


@cache
def settings_of_the_site() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation_once() -> None:
    site = make_page("make_site")
    pages = navigation(settings_of_the_site()["nav"])
    assert len(pages) == len(set(pages))
    assert set(pages) == {name for name in site.sources().values() if name.endswith(".md")}
    assert ROOT / settings_of_the_site()["docs_dir"] == site.STAGE


def test_links_out_of_the_pages_are_pages_or_files_of_the_site() -> None:
    site = make_page("make_site")
    known = site.sources()
    text, linked = site.staged_text("docs/serving.md", known)
    assert "](files/docker/alerts.yml)" in text and "docker/alerts.yml" in linked
    text, linked = site.staged_text("docs/deployment.md", known)
    assert "](examples.md)" in text and "](benchmarks.md#targets-of-an-export)" in text and not linked
    for place in known:
        if place.endswith(".md"):
            site.staged_text(place, known)  # ends where a link leads nowhere


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_page("make_site")
    (tmp_path / "a.md").write_text("[b](b.md), and in code:\n\n```\nx[0](c.md)\n```\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"a\.md links to b\.md, which is not in the repository"):
        site.staged_text("a.md", {})
    (tmp_path / "b.md").write_text("")
    assert site.staged_text("a.md", {"b.md": "b.md"})[0].endswith("```\nx[0](c.md)\n```\n")


def test_the_page_of_settings_is_made_of_the_recipes() -> None:
    """Mend it with: python docs/make_settings.py"""
    made = make_page("make_settings")
    page = made.PAGE.read_text(encoding="utf-8")
    assert page == made.page()
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == set(RECIPE_TYPES)
    assert "In the recipes: `loss.assigner` (YOLOX)" in page


def test_defaults_of_the_page_of_settings_are_read_as_they_stand() -> None:
    """A default on the page is text that `path=value` takes: it gives the recipe that has it already."""
    page = make_page("make_settings").PAGE.read_text(encoding="utf-8")
    recipe = default_recipe("yolox-nano")
    rows = re.findall(r"^\| `(\w+)` \|.*\| `([^|]*)` \| `[^|]*` \|$", page.partition("### Closing")[0], re.MULTILINE)
    assert len(rows) > 20
    for name, text in rows:
        override(recipe, f"{name}={text}", types=RECIPE_TYPES)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    with make_page("make_errors").prepared_folder() as base:
        yield base


def test_the_page_of_errors_shows_what_is_said(prepared: Path) -> None:
    """Mend it with: python docs/make_errors.py"""
    made = make_page("make_errors")
    page = made.PAGE.read_text(encoding="utf-8")
    entries = [mistake for mistakes in made.SECTIONS.values() for mistake in mistakes]
    assert len(entries) > 30 and re.findall(r"^### (.*)$", page, re.MULTILINE) == [one.title for one in entries]
    assert made.OPTIONAL + made.optional_packages() in page
    for mistake in made.SECTIONS["The command line"]:
        assert made.entry(mistake, prepared) in page


@pytest.mark.slow
def test_the_whole_page_of_errors_is_what_is_said() -> None:
    made = make_page("make_errors")
    assert made.PAGE.read_text(encoding="utf-8") == made.page()


def test_an_entry_that_is_no_error_is_refused(prepared: Path) -> None:
    made = make_page("make_errors")
    with pytest.raises(ValueError, match="no error: onelook diff yolox-s yolox-s"):
        made.entry(made.Mistake("none", "onelook diff yolox-s yolox-s", ""), prepared)


@pytest.mark.slow
def test_the_page_of_parity_is_made_of_the_counts() -> None:
    """Mend it with: python docs/make_parity.py"""
    made = make_page("make_parity")
    assert made.PAGE.read_text(encoding="utf-8") == made.page()


def test_every_model_is_on_the_page_of_parity() -> None:
    made = make_page("make_parity")
    page = made.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE) == list(VARIANTS)
    assert set(made.read_official()) == set(VARIANTS)
    for name in ("yolox-nano", "yolov4-tiny", "damo-yolo-ns"):
        assert made.row_of(onelook.models(name)[0], made.read_official()[name]) in page
    for file in re.findall(r"`(test_\w+\.py)`", page):
        assert (ROOT / "tests" / file).is_file()


def test_a_count_that_differs_is_shown() -> None:
    made = make_page("make_parity")
    model = onelook.models("yolox-nano")[0]
    official = made.read_official()["yolox-nano"]
    assert made.row_of(model, official).count(", equal |") == 3
    row = made.row_of(model, official | {"parameters": "912160", "gflops": "1.05"})
    assert "| 912,160, here 912,159 |" in row and "| 1.05, here 1.0451 |" in row


@needs_shared
def test_official_numbers_are_those_of_the_reference() -> None:
    official = make_page("make_parity").read_official()
    seen = set()
    for family in FAMILIES:
        for theirs, entry in manifest(family).items():
            if "tensors" not in entry:
                continue
            name = f"damo-yolo-{theirs.lower()}" if family == "damo_yolo" else theirs
            seen.add(name)
            row = official[name]
            numbers = [int(row[key]) for key in ("parameters", "deploy_parameters", "size", "tensors")]
            expected = [entry["parameters"], entry["deploy_parameters"], entry["gflops_size"][0], len(entry["tensors"])]
            assert numbers == expected and float(row["gflops"]) == entry["gflops"]
            assert row["outputs"] == ("yes" if theirs in goldens(family) else "no")
    assert seen == set(official)
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    reference = yaml.safe_load((data("coco_mini") / "reference_yolox_nano.json").read_text())
    assert f"| {reference['stats']['AP']:.4f} | {reference['stats']['AP']:.4f} | 0.002 |" in page


def test_every_setting_of_yolox_can_be_set() -> None:
    """What the page says with a value is set to it; what it only names is there."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / "yolox.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [span for span in re.findall(r"`([^`]+)`", text) if re.match(r"'?(model|loss|augment|closing)\.", span)]
    with_value = [span for span in spans if "=" in span]
    assert len(with_value) == 3 and len(spans) > 15
    recipe = default_recipe("yolox-s")
    for span in with_value:
        override(recipe, *shlex.split(span), types=RECIPE_TYPES)
    for path in set(spans) - set(with_value):
        get(recipe, path)
    published = {"radius": 2.5, "candidates": 10, "iou_weight": 3}
    assert {name: get(recipe, f"loss.assigner.{name}") for name in published} == published
    assert (get(recipe, "loss.terms.box.weight"), get(recipe, "closing.epochs")) == (5, 15)


def test_every_verb_is_spoken_of_on_some_page() -> None:
    site = make_page("make_site")
    used = {command[0] for place in site.sources() if place.endswith(".md") for command in commands_of(ROOT / place)}
    assert set(VERBS) <= used


def test_commands_of_the_story_are_those_that_make_it() -> None:
    """Mend it with: make story"""
    made = make_page("make_story")
    page = made.PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    expected = [command for step in made.STEPS for command in step.commands]
    assert shown == [*expected, made.REQUEST, f"{made.METRICS} | grep onelook_"]
    assert made.DATA in page and made.IMAGE.is_file()


@needs_shared
@pytest.mark.slow
def test_the_story_runs_from_the_zip_file_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer images and epochs than on the page, every command of it."""
    made = make_page("make_story")
    if not made.has_curl():
        pytest.skip("the story sends its requests by curl, which is not installed")
    monkeypatch.setattr(made, "DATA", made.DATA.replace("--images 240", "--images 40"))
    short = made.TRAIN.replace("--epochs 8", "--epochs 1")
    steps = tuple(
        made.Step(one.title, one.text, tuple(short if it == made.TRAIN else it for it in one.commands), one.after)
        for one in made.STEPS
    )
    monkeypatch.setattr(made, "STEPS", steps)
    shutil.copyfile(reference("yolox") / made.WEIGHTS, tmp_path / made.WEIGHTS)
    page = made.page(tmp_path)
    assert "ended with exit code 0" in page and '"detections"' in page and "onelook_requests_total" in page
    assert (tmp_path / "story.jpg").is_file() and (tmp_path / "test.html").is_file()


@pytest.mark.slow
def test_the_start_page_runs(tmp_path: Path) -> None:
    """Its commands up to "Your own images", in order, and its Python; the demo is shortened."""
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("## Your own images")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = []
    for kind, block in blocks:
        for line in [block] if kind == "python" else block.splitlines():
            if line.startswith("pip install"):
                continue
            command = ["-c", line] if kind == "python" else ["-m", *shlex.split(line)]
            if line.startswith("onelook demo"):
                command += ["--epochs", "1", "--images", "16"]
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            ran.append(line.split()[:2])
    assert ["onelook", "demo"] in ran and ["import", "onelook"] in ran and len(ran) == 6
    assert (tmp_path / "found" / "detections.json").is_file() and any((tmp_path / "found" / "images").iterdir())


# What a page loads: the addresses of scripts, images and frames, and of links in its head.
LOADED = re.compile(
    r"<(?:script|img|source|iframe)[^>]*\bsrc=\"?([^\s\">]+)|<link(?![^>]*canonical)[^>]*\bhref=\"?([^\s\">]+)"
)


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere() -> None:
    """Needs the extra `docs`. Every link and everything loaded is a file of the site; anchors are on their pages."""
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the site is built by zensical: pip install '.[docs]'")
    site = make_page("make_site")
    assert site.main() == 0
    pages = {path: path.read_text(encoding="utf-8") for path in site.SITE.glob("*.html") if path.name != "404.html"}
    assert len(pages) == len(navigation(settings_of_the_site()["nav"]))
    for path, text in pages.items():
        loaded = ["".join(found) for found in LOADED.findall(text)]
        assert loaded
        links = re.findall(r"<a[^>]*\bhref=\"?([^\s\">]+)", text)
        for target in (*loaded, *(link for link in links if not re.match(r"https?:|mailto:", link))):
            assert "//" not in target, f"{path.name} loads {target}"
            place, _, anchor = target.partition("#")
            there = (path.parent / place).resolve() if place and place != "." else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{path.name} leads to {target}"
            if anchor and not anchor.startswith("__"):
                assert re.search(rf"\bid=\"?{re.escape(anchor)}[\s\">]", pages[there]), f"{path.name}: no {target}"
