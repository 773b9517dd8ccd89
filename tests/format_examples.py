"""The examples on the pages of data formats: three images in each format."""

from __future__ import annotations

import re
from pathlib import Path

import data_sets as make

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("data_csv", "data_open_images", "data_labelme", "data_cvat", "data_label_studio", "data_supervisely")
PIECE = re.compile(r"^`([^`]+)`\n\n```\w+\n(.*?)^```|^images: ([^\n]+)$", re.MULTILINE | re.DOTALL)


def examples(page: str) -> list[dict[str, str | bytes]]:
    """The files of each example of a page by name; an example ends with the list of its images."""
    found: list[dict[str, str | bytes]] = [{}]
    for match in PIECE.finditer((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        name, content, images = match.groups()
        if images is None:
            found[-1][name] = content
            continue
        for number, image in enumerate(re.findall(r"`([^`]+)`", images)):
            found[-1][image] = make.png(grey=40 * number)
        found.append({})
    assert not found[-1]
    return found[:-1]
