"""What is published: version, package, citation, changelog, forms. Wheel and sdist are built, installed and run."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tarfile
import types
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

import onelook
from onelook.networks.variants import VARIANTS
from test_docs import commands_of
from test_house import ROOT, tomllib

VERSION = ROOT / "src" / "onelook" / "version.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAGES = tuple(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", ".github/pull_request_template.md"))


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The standard output of a command, which must succeed. Nothing of this process's Python paths is passed on."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    kept = {name: value for name, value in kept.items() if not name.startswith("SETUPTOOLS_SCM")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


# --- the version -----------------------------------------------------------------------------------------------------


def version_with(built: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What version.py says where a build has written this module, or (None) none has."""
    monkeypatch.setitem(sys.modules, "onelook._version", built)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    exec(compile(VERSION.read_text(encoding="utf-8"), str(VERSION), "exec"), found)
    return found["__version__"]


def test_the_version_is_that_of_the_build_and_one_constant_without(monkeypatch: pytest.MonkeyPatch) -> None:
    built = types.ModuleType("onelook._version")
    vars(built)["__version__"] = "7.8.9"
    assert version_with(built, monkeypatch) == "7.8.9"
    settings = PROJECT["tool"]["setuptools_scm"]
    assert version_with(None, monkeypatch) == settings["fallback_version"]
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    written = settings["version_file_template"].format(version="7.8.9")
    assert ast.unparse(ast.parse(written).body[-1]) == "__version__ = '7.8.9'"
    assert settings["version_file"] in (ROOT / ".gitignore").read_text().splitlines()


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?(\.?(dev|rc|post)\d+)*(\+[\w.]+)?", onelook.__version__)


# --- what the package says of itself ---------------------------------------------------------------------------------


def test_classifiers_agree_with_the_rest_of_the_metadata() -> None:
    project = PROJECT["project"]
    versions = [line for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert f">={versions[0].rpartition(' ')[2]}" == project["requires-python"]
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in [line.rpartition(" ")[2] for line in versions]
    assert "Typing :: Typed" in project["classifiers"]
    assert not any(line.startswith("License ::") for line in project["classifiers"])  # the expression alone says it


def test_an_extra_contains_only_extras_that_exist() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = re.findall(r"onelook\[([\w,-]+)\]", " ".join(text for one in extras.values() for text in one))
    assert {name for text in named for name in text.split(",")} <= set(extras)
    assert set(PROJECT["build-system"]["requires"]) <= set(extras["release"])


# --- pages and forms -------------------------------------------------------------------------------------------------


def test_the_changelog_has_the_form_that_it_names() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    for title in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title), title
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert f"{len(VARIANTS)} models" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_of_the_pages_are_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    from onelook.cli.app import VERBS

    assert all(words[0] in VERBS for words in commands_of(page) if not words[0].startswith("-"))
    for name in re.findall(r"`onelook\.(\w+)`", text):
        assert name in onelook.__all__ or (ROOT / "src" / "onelook" / name).is_dir(), name


def test_the_citation_is_complete_and_names_the_four_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # those that the format requires
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["license"] == PROJECT["project"]["license"]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in PROJECT["project"]["authors"]]
    cited = {one["identifiers"][0]["value"].removeprefix("arXiv:") for one in citation["references"]}
    modules = [path.read_text(encoding="utf-8") for path in (ROOT / "src/onelook/networks").glob("*/architecture.py")]
    assert cited == {number for text in modules for number in re.findall(r"arXiv (\d{4}\.\d{5})", text[:300])}
    for one in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(one)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_forms(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert set(form) <= {"name", "description", "title", "labels", "assignees", "body"}
    assert form["name"] and form["description"]
    inputs = [one for one in form["body"] if one["type"] != "markdown"]
    ids = [one["id"] for one in inputs]
    assert inputs and len(set(ids)) == len(ids)
    for one in form["body"]:
        assert set(one) <= {"type", "id", "attributes", "validations"}
        assert one["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert one["attributes"]["value" if one["type"] == "markdown" else "label"]
        assert all(isinstance(value, bool) for value in one.get("validations", {}).values())


# --- wheel and sdist -------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b.c",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b.c",
    }
    return run("git", *arguments, cwd=folder, **who)


def copy_sources(folder: Path) -> None:
    """The files of this checkout that git has, or would take, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit and no tag."""
    pytest.importorskip("setuptools_scm", reason="needs the extra release")
    folder = tmp_path_factory.mktemp("sources")
    copy_sources(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of a commit with the tag v7.8.9; the wheel is built from the sdist."""
    pytest.importorskip("build", reason="needs the extra release")
    git(sources, "tag", "v7.8.9")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=sources)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def scm_version(folder: Path) -> str:
    return run(sys.executable, "-W", "ignore", "-m", "setuptools_scm", cwd=folder)


@pytest.mark.slow
def test_the_version_follows_the_tags(tmp_path: Path, sources: Path) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", "--no-tags", sources, clone, cwd=tmp_path)
    fallback = PROJECT["tool"]["setuptools_scm"]["fallback_version"]
    assert scm_version(clone).startswith(f"{fallback[:-1]}1+g")  # a commit, and no tag
    git(clone, "tag", "v7.8.9")
    assert scm_version(clone) == "7.8.9"
    archive = tmp_path / "archive.tar"
    git(clone, "archive", "--output", str(archive), "HEAD")
    (clone / "README.md").write_text("changed")
    git(clone, "commit", "--quiet", "--all", "--message", "two")
    assert scm_version(clone).startswith("7.8.10.dev1+g")
    for name, version in (("archive", "7.8.9"), ("copy", fallback)):
        folder = tmp_path / name
        folder.mkdir()
        if name == "archive":  # as sites that host repositories offer it
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        else:
            copy_sources(folder)
        assert scm_version(folder) == version, name


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names, said = wheel.namelist(), metadata_of(wheel)
        version = wheel.read("onelook/_version.py").decode()
    assert {name.partition("/")[0] for name in names} == {"onelook", "onelook-7.8.9.dist-info"}
    package = ROOT / "src" / "onelook"
    ours = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("onelook/")} == ours | {"onelook/_version.py"}
    assert "onelook/py.typed" in names and "onelook-7.8.9.dist-info/licenses/NOTICE" in names
    assert "'7.8.9'" in version or '"7.8.9"' in version
    assert said["Version"] == "7.8.9" and said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == PROJECT["project"]["requires-python"]
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["project"]["optional-dependencies"])
    needed = [text for text in said.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert len(needed) == len(PROJECT["project"]["dependencies"])
    assert said["Description-Content-Type"] == "text/markdown" and "# Onelook" in str(said.get_payload())


@pytest.mark.slow
def test_the_sdist_holds_what_the_project_is_worked_on_with(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {
        "pyproject.toml",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "NOTICE",
        "PKG-INFO",
    }
    assert wanted | {"tests/test_release.py", "docs/training.md", "src/onelook/_version.py"} <= names


@pytest.mark.slow
def test_the_page_of_the_package_is_shown(built: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("twine", reason="needs the extra release")
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(built: tuple[Path, Path], tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, built[0], cwd=empty)
    path = {"PYTHONPATH": str(target)}  # before the packages of this environment, on which the wheel depends
    script = target / "bin" / "onelook"
    place = "import onelook, pathlib; print(pathlib.Path(onelook.__file__).parent)"
    assert run(sys.executable, "-c", place, cwd=empty, **path) == str(target / "onelook")
    assert run(sys.executable, script, "--version", cwd=empty, **path) == "7.8.9"
    assert run(sys.executable, "-m", "onelook", "--version", cwd=empty, **path) == "7.8.9"
    shown = run(sys.executable, script, "models", cwd=empty, **path)
    assert not [name for name in VARIANTS if name not in shown], shown
    assert "7.8.9" in run(sys.executable, script, "check", cwd=empty, **path)
    assert not list(empty.iterdir())


@pytest.mark.slow
def test_an_editable_installation_has_the_version_of_the_tag(built: tuple[Path, Path], sources: Path) -> None:
    """What `make test` and `make demo` install: the build writes the version into the sources."""
    place = sources.parent / "editable"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--no-build-isolation", "--target", place, "--editable", ".", cwd=sources)
    command = (sys.executable, "-m", "onelook", "--version")
    assert run(*command, cwd=place, PYTHONPATH=str(sources / "src")) == "7.8.9"
    assert git(sources, "status", "--short") == ""
