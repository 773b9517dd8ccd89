"""Every command of every page is run, and its Python, in a folder of small placeholders for what a reader has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

import onelook
from page_commands import UNABLE, Page, quiet_terminal
from page_placeholders import Shelf, link
from test_docs import PAGES, commands_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ELSEWHERE = ("api.md", "index.md", "data_parquet.md")  # signatures; test_docs_site.py and test_data_examples.py run it
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_PYTHON = [page for page in PAGES if page.name not in ELSEWHERE and PYTHON.search(page.read_text(encoding="utf-8"))]
SHORT: dict[str, Any] = {"epochs": 1, "size": 64, "batch": 4, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, one_thread_in_module: None) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch, quiet_terminal():
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # no index or latency of these tests outlives them
        yield Shelf(folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_runs(
    page: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in blocks first, in their order, then those in sentences; each once, in one folder.

    Each ends with exit code 0, writes what it is told to, and has no traceback. Cut short they are by options that
    are added, or replace those of the page (`page_commands.SHORT`): one epoch, 64 pixels, batches of 4 images, two
    trials, two rows of a table, 200 structures, a few runs that are measured; a budget of ten minutes is one of
    20 seconds, and 16 images are drawn for a demo. Large networks that are trained from scratch are an eighth as wide
    (`Page.narrow`), and every exported file is a YOLOX-Nano of 64 pixels, whatever it is called. A camera is a
    simulated one, whose second second ends the command; the address of a network camera is that of one of
    `network_cameras`; a training of several processes has one. What serves is asked for one answer, and ended by a
    signal. What cannot be done here is in `page_commands.UNABLE`, and must end with the error that says so.
    """
    monkeypatch.chdir(tmp_path)
    runner = Page(page.name, shelf)
    for command in dict.fromkeys(map(tuple, commands_of(page))):
        runner.run(command)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in one namespace, which has what a sentence or a page before has spoken of.

    Trainings are cut short as those of the commands. The camera of `live` is a video, which ends, and the window of
    OpenCV, which its builds without a display lack, is not opened.
    """
    monkeypatch.chdir(tmp_path)
    train = onelook.train
    monkeypatch.setattr(onelook, "train", lambda *given, **named: train(*given, **{**named, **SHORT}))
    monkeypatch.setattr(cv2, "imshow", lambda *_: None)
    for name in ("second", "divided"):
        link(shelf.data(), tmp_path / name)
    namespace: dict[str, Any] = {"onelook": onelook, "cv2": cv2}
    if page.name == "detection.md":
        namespace["detector"] = onelook.load(shelf.exported())
    for block in PYTHON.findall(page.read_text(encoding="utf-8").replace(".live(0,", ".live('clip.mp4',")):
        for name in [] if "write_clips" in block else re.findall(r"""["']([^"'\s]+)["']""", block):
            shelf.provide(name.rstrip("/"), undivided="onelook.split" in block)
        exec(compile(block, page.name, "exec"), namespace)


def test_reasons_name_tests_that_exist() -> None:
    named = [name for one in UNABLE for name in re.findall(r"test_\w+\.py", one.reason)]
    assert len(named) > 2 and all((Path(__file__).parent / name).is_file() for name in named)
