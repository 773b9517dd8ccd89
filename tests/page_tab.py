"""Fixtures and steps of the tests of the page: one browser, tab and server a test file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Tab, open_browser
from page_server import Answers, detection, model, serve_page

DETECTIONS = [
    detection(1, "dog", 0.9, 64, 48, 320, 432),
    detection(0, "person", 0.6, 320, 96, 576, 384),
    detection(1, "dog", 0.4, 100, 200, 200, 300),
    detection(2, "car", 0.1, 500, 20, 620, 120),
]
STATUS = "document.getElementById('status').textContent"
NUM_BOXES = "document.querySelectorAll('.box').length"


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Tab, Answers]]:
    """One browser, tab and server for all tests of a file: starting them takes seconds."""
    with serve_page(Answers([], [])) as answers, open_browser() as browser:
        yield browser.tab(), answers


@pytest.fixture
def answers(opened: tuple[Tab, Answers]) -> Answers:
    answers = opened[1]
    answers.reset()
    answers.detections = list(DETECTIONS)
    answers.models = [model("nano"), model("large", default=False, versions=["1", "2"], version="2", threshold=0.5)]
    return answers


@pytest.fixture
def tab(opened: tuple[Tab, Answers], answers: Answers) -> Iterator[Tab]:
    """The page, loaded anew with its models. No test may have requested anything of another host."""
    tab = opened[0]
    tab.size(1200, 900)
    tab.theme("light")
    tab.open(answers.url)
    tab.wait("!document.getElementById('model').disabled")
    yield tab
    assert [url for url in tab.requests() if not url.startswith(answers.url)] == []
    assert [text for text in tab.problems() if "Failed to load resource" not in text] == []
    tab.evaluate("sessionStorage.clear()")
    tab.browser.events.clear()


def image_file(folder: Path, size: tuple[int, int] = (640, 480), name: str = "dog.png", **options: Any) -> Path:
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    path = folder / name
    Image.fromarray(pixels).save(path, **options)
    return path


def show(tab: Tab, path: Path, boxes: int = 3) -> None:
    tab.choose_file("#file", path)
    tab.wait(f"{NUM_BOXES} === {boxes} && !document.getElementById('results').hasAttribute('aria-busy')")


def box_fractions(tab: Tab) -> list[list[float]]:
    """(K, 4) xyxy of the drawn boxes as fractions of the shown image, best first."""
    return tab.evaluate(
        """(() => { const area = document.getElementById('image').getBoundingClientRect();
        return [...document.querySelectorAll('.box')].reverse().map((box) => { const r = box.getBoundingClientRect();
        return [(r.left - area.left) / area.width, (r.top - area.top) / area.height,
                (r.right - area.left) / area.width, (r.bottom - area.top) / area.height]; }); })()"""
    )
