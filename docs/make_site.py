"""Builds the documentation's site from docs/ and mkdocs.yml into site/: python docs/make_site.py

Needs the extra `docs`. The pages are copied to build/site, because they link to files of the repository that lie
outside
of docs/: those are pages of the site (`PAGES`) or are copied beside them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "site"  # `docs_dir` of mkdocs.yml
SITE = ROOT / "site"

# Pages outside of docs/, by their place in the repository; README.md is for readers of the repository.
PAGES = {"CONTRIBUTING.md": "contributing.md", "examples/README.md": "examples.md"}
HOME = "README.md"
KINDS = (".md", ".jpg", ".png", ".svg", ".css")

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def sources() -> dict[str, str]:
    """The files of the site, place in the repository -> place in the site."""
    known = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").iterdir()) if path.suffix in KINDS}
    return known | {place: page for place, page in PAGES.items() if (ROOT / place).is_file()}


def staged_text(place: str, known: dict[str, str]) -> tuple[str, set[str]]:
    """A page with its links as the site needs them, and the places of files that it links to and that are no pages."""
    linked: set[str] = set()

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        if not target or "://" in target:
            return match.group()
        path = Path(os.path.normpath(ROOT / Path(place).parent / target))
        if not path.is_relative_to(ROOT) or not path.exists():
            raise SystemExit(f"error: {place} links to {target}, which is not in the repository")
        if path.is_dir():  # has no page
            return text
        found = path.relative_to(ROOT).as_posix()
        if found not in known and found != HOME:
            linked.add(found)
        page = "index.md" if found == HOME else known.get(found, f"files/{found}")
        return f"[{text}]({page}{anchor})"

    # Odd parts are blocks of code, which stay as they are.
    parts = FENCE.split((ROOT / place).read_text(encoding="utf-8"))
    return "".join(part if index % 2 else LINK.sub(lead, part) for index, part in enumerate(parts)), linked


def stage() -> None:
    """Copies the pages and what they link to."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    known = sources()
    for place, name in known.items():
        if name.endswith(".md"):
            text, linked = staged_text(place, known)
            (STAGE / name).write_text(text, encoding="utf-8")
            for other in linked:
                copy(other, f"files/{other}")
        else:
            copy(place, name)


def copy(place: str, name: str) -> None:
    (STAGE / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / place, STAGE / name)


def main() -> int:
    stage()
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=False)
    if built.returncode == 0:
        print(f"wrote {SITE.name}/index.html; with its search: python -m http.server -d {SITE.name}")
    return built.returncode


if __name__ == "__main__":
    sys.exit(main())
