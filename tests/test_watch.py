"""Tests of the live page of a training: what it says at each moment, who may read it, and how it ends."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from browser import needs_browser, open_browser
from onelook.api.train import train
from onelook.api.watch import MOST_POINTS, Watch
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.report.watch import WatchState, watch_content
from onelook.reporter import SilentReporter
from onelook.training.monitor import StepState

LOSSES = {"total": 3.5, "box": 2.0, "objectness": 1.5}
ROWS = [{"epoch": epoch, "loss/total": 4.0 - epoch, "AP": 0.1 * epoch, "AP50": 0.2 * epoch} for epoch in (1, 2, 3)]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    made = Watch(WatchState("my run", "AP", 10), port=0)
    yield made
    monkeypatch.setattr("onelook.api.watch.WAIT_FOR_PAGE", 0.0)
    if made._thread.is_alive():
        made.close("finished", "over")


def get(watch: Watch, path: str, host: str | None = None) -> tuple[int, str, bytes]:
    port = int(watch.url.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    found = answer.status, answer.headers["Content-Type"], answer.read()
    connection.close()
    return found


def step(watch: Watch, epoch: int = 2, number: int = 5) -> None:
    watch.step(StepState(epoch, 10, number, 20, LOSSES, 12.5, 754.0))


def test_the_page_has_curves_images_and_the_time_left(watch: Watch) -> None:
    assert "The data is being checked." in get(watch, "/")[2].decode()
    watch.rows(ROWS)
    step(watch)
    watch.images(3, [("a<b>.jpg: 1 missed", b"\xff\xd8first"), ("b.jpg", b"\xff\xd8second")])
    watch.warning("Training waited <long>.")
    page = get(watch, "/content")[2].decode()
    for text in (
        "12:34",
        "3/10",
        "0.300",
        "3.500",
        "12.5",
        "Step 5 of 20 in epoch 3",
        "a&lt;b&gt;.jpg",
        "&lt;long&gt;",
    ):
        assert text in page, text
    assert page.count("<svg") == 2 and page.count("<img") == 2 and 'aria-valuenow="22"' in page
    names = re.findall(r'src="(image[^"]+)"', page)
    assert [get(watch, f"/{name}")[1:] for name in names] == [
        ("image/jpeg", b"\xff\xd8first"),
        ("image/jpeg", b"\xff\xd8second"),
    ]
    watch.end_epoch()
    assert "Epoch 3 is being evaluated." in get(watch, "/content")[2].decode()
    # The images of the evaluation before are still there for a page that has just asked for them; older ones are not.
    watch.images(4, [("c.jpg", b"\xff\xd8third")])
    assert get(watch, f"/{names[0]}")[0] == 200
    watch.images(5, [])
    assert get(watch, f"/{names[0]}")[0] == 404 and get(watch, "/image-4-0.jpg")[0] == 200


def test_a_long_training_keeps_a_bounded_curve_over_all_its_steps(watch: Watch) -> None:
    for number in range(5000):
        watch.step(StepState(number // 500, 10, number % 500 + 1, 500, LOSSES, 1.0, 1.0))
    epochs = [epoch for epoch, _ in watch.state.points]
    assert MOST_POINTS // 3 < len(epochs) <= MOST_POINTS and epochs == sorted(epochs)
    assert epochs[0] < 0.1 and epochs[-1] > 9.9
    gaps = np.diff(epochs)
    assert float(np.max(gaps)) < 4 * float(np.median(gaps))


def test_classifiers_have_their_own_curve() -> None:
    rows = [
        {"epoch": 1, "loss/total": 2.0, "top1": 0.4, "top5": 0.8},
        {"epoch": 2, "loss/total": 1.0, "top1": 0.6, "top5": 0.9},
    ]
    page = watch_content(WatchState("c", "top1", 5, rows=rows, points=[(1.0, {"total": 2.0}), (2.0, {"total": 1.0})]))
    assert "right images" in page and "0.600" in page and "average precision" not in page


def test_only_this_machine_is_answered_and_only_what_is_there(watch: Watch) -> None:
    port = watch.url.rstrip("/").rpartition(":")[2]
    assert watch._server.server_address[0] == "127.0.0.1"
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert get(watch, "/", host)[0] == 200
    for host in (f"attacker.example:{port}", "attacker.example", f"127.0.0.1.attacker.example:{port}", ""):
        assert get(watch, "/", host)[0] == 403
    for path in ("/../watch.py", "/recipe.yaml", "/image-1-0.jpg", "/content/"):
        assert get(watch, path)[0] == 404
    assert get(watch, "/watch.js")[1].startswith("text/javascript")


def test_a_port_that_is_taken_is_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.api.watch.WAIT_FOR_PAGE", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        watch = Watch(WatchState("my run", "AP", 10), port=number)
        assert f":{number}/" not in watch.url and get(watch, "/")[0] == 200
        watch.close("finished", "over")


def test_an_open_page_reads_the_end_and_then_the_server_is_gone(watch: Watch) -> None:
    step(watch)
    get(watch, "/content")
    read: list[str] = []

    def poll() -> None:
        while "data-over" not in "".join(read[-1:]):
            read.append(get(watch, "/content")[2].decode())
            time.sleep(0.02)

    page = threading.Thread(target=poll)
    page.start()
    watch.close("stopped", "Stopped and saved. To resume: onelook train <x>")
    page.join(10)
    assert "To resume: onelook train &lt;x&gt;" in read[-1] and "stopped" in read[-1]
    with pytest.raises(ConnectionError):
        get(watch, "/")


def test_without_a_page_the_end_waits_for_nothing() -> None:
    watch = Watch(WatchState("my run", "AP", 10), port=0)
    begin = time.monotonic()
    watch.close("finished", "over")
    assert time.monotonic() - begin < 2.9  # it would wait for three seconds


def test_a_training_without_watch_has_no_server_and_one_with_it_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Watch] = []

    class Recorded(Watch):
        def __init__(self, state: WatchState) -> None:
            super().__init__(state, port=0)
            opened.append(self)

    monkeypatch.setattr("onelook.api.watch.Watch", Recorded)
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    options = {"epochs": 1, "size": 64, "batch": 4, "workers": 0, "device": "cpu", "threads": 1}
    train("yolox-nano", scenes, **options, out=tmp_path / "a", watch=True, reporter=SilentReporter())
    (watch,) = opened
    state = watch.state
    assert state.phase == "finished" and "report.html" in state.ended and state.epoch == 1 and len(state.rows) == 1
    assert state.points and state.images and state.image_epoch == 1
    pixels = cv2.imdecode(np.frombuffer(watch._jpegs["image-1-0.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert max(pixels.shape[:2]) == 600
    assert not watch._thread.is_alive() and "Watch the training at http" in (tmp_path / "a" / "train.log").read_text()


@pytest.mark.slow
@needs_browser
def test_the_page_follows_a_real_training_to_its_end(tmp_path: Path) -> None:
    scenes = write_synthetic(tmp_path / "scenes", Scenes(size=(96, 96)), {"train": 16, "val": 6})
    command = [
        sys.executable,
        "-m",
        "onelook",
        "train",
        str(scenes),
        "--model",
        "yolox-nano",
        "--size",
        "96",
        "--watch",
    ]
    command += ["--batch", "8", "--epochs", "6", "--workers", "0", "--threads", "1", "--out", str(tmp_path / "run")]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL)
    found = None
    while found is None:
        assert process.poll() is None, (tmp_path / "err").read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+/", (tmp_path / "err").read_text())
        time.sleep(0.1)
    with open_browser() as browser:
        tab = browser.tab()
        tab.size(390, 844, phone=True)
        tab.open(found[0])
        tab.wait("document.querySelectorAll('figure img').length > 0")
        tab.wait("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        for theme, ground in (("light", "rgb(246, 247, 249)"), ("dark", "rgb(18, 22, 27)")):
            tab.theme(theme)
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert process.wait(120) == 0
        tab.wait("!!document.querySelector('[data-over]')")
        assert "The report is" in tab.evaluate("document.getElementById('content').innerText")
        assert tab.problems() == [] and all(url.startswith(found[0]) for url in tab.requests())
        assert not tab.evaluate("document.body.classList.contains('lost')")
