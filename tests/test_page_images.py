"""The page in a real browser: where images come from, and what is saved of them."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import TIMEOUT, Tab, needs_browser
from page_server import Answers, detection, error, sent_image
from page_tab import DETECTIONS, NUM_BOXES, STATUS, answers, box_fractions, image_file, opened, show, tab

__all__ = ["answers", "opened", "tab"]  # fixtures

pytestmark = [needs_browser, pytest.mark.slow]


def test_the_mouse_highlights_the_box_of_a_row_and_the_row_of_a_box(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    show(tab, image_file(tmp_path))
    place = """(() => { const r = document.querySelector('%s').getBoundingClientRect();
        return [r.left, r.top, r.width, r.height]; })()"""
    left, top, width, height = tab.evaluate(place % "#detection-1")
    tab.mouse("mouseMoved", left + width / 2, top + height / 2)
    assert tab.evaluate("document.querySelector('.box.active span').textContent") == "person 0.60"
    left, top, width, height = tab.evaluate(place % "#image")
    tab.mouse("mouseMoved", left + 5, top + 5)
    assert tab.evaluate("document.querySelector('.box.active')") is None
    for kind in ("mousePressed", "mouseReleased"):  # inside of two boxes: the smaller one is chosen
        tab.mouse(kind, left + width * 150 / 640, top + height * 250 / 480)
    assert tab.evaluate("document.querySelector('[aria-selected=true] span').textContent") == "0.40"


def test_a_turned_image_is_shown_upright_under_upright_boxes(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to be upright
    answers.size = (480, 640)
    answers.detections = [detection(0, "person", 0.9, 48, 64, 240, 320)]
    show(tab, image_file(tmp_path, (640, 480), "turned.jpg", exif=exif), boxes=1)
    image = "document.getElementById('image')"
    assert tab.evaluate(f"[{image}.naturalWidth, {image}.naturalHeight]") == [480, 640]
    np.testing.assert_allclose(box_fractions(tab), [[0.1, 0.1, 0.5, 0.5]], atol=1e-3)


def test_what_is_saved_is_what_is_shown(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    tab.browser.call(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=tab.context
    )
    show(tab, image_file(tmp_path))
    tab.evaluate("document.querySelector('#classes input[value=\"0\"]').click()")
    for button in ("save-json", "save-image"):
        tab.evaluate(f"document.getElementById('{button}').click()")
        tab.wait(f"{STATUS}.startsWith('Saved') && {STATUS}.includes('{button[-4:].replace('mage', 'png')}')")
    saved, drawn = tmp_path / "dog.json", tmp_path / "dog_detections.png"
    end = time.monotonic() + 20
    while not (saved.is_file() and drawn.is_file()):
        assert time.monotonic() < end, sorted(tmp_path.iterdir())
        time.sleep(0.02)
    answer = json.loads(saved.read_text())
    assert answer["results"][0]["detections"] == [DETECTIONS[0], DETECTIONS[2]] and answer["threshold"] == 0.25
    assert answer["results"][0]["source"] == "dog.png" and answer["model"] == "nano"
    pixels = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    assert pixels.shape == (480, 640, 3)
    edges = pixels[250, [64, 320, 150]], pixels[[96, 384], 450]
    assert np.abs(edges[0][:2] - 200).max() > 50 and np.abs(edges[0][2] - 200).max() == 0  # the dog's sides only
    assert np.abs(edges[1] - 200).max() == 0, "the person is not drawn"


TRANSFER = """(async () => { const canvas = new OffscreenCanvas(64, 48); canvas.getContext('2d').fillRect(0, 0, 9, 9);
    const blob = await canvas.convertToBlob(); const transfer = new DataTransfer();
    transfer.items.add(new File([blob], 'given.png', {type: 'image/png'}));
    document.body.dispatchEvent(%s); })()"""


@pytest.mark.parametrize(
    "event",
    [
        "new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true})",
        "new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true, cancelable: true})",
    ],
    ids=["drop", "paste"],
)
def test_an_image_is_dropped_or_pasted(tab: Tab, answers: Answers, event: str) -> None:
    tab.evaluate(TRANSFER % event)
    tab.wait(f"{NUM_BOXES} === 3")
    assert sent_image(answers.requests[-1])[1].startswith(b"\x89PNG")
    assert tab.evaluate("document.getElementById('caption').textContent").startswith("given.png")


def test_the_camera_takes_a_photo_and_a_refusal_is_explained(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    place = {"origin": answers.url.rstrip("/"), "browserContextId": tab.context}
    tab.browser.call("Browser.setPermission", permission={"name": "camera"}, setting="denied", **place)
    tab.evaluate("document.getElementById('open-camera').click()")
    tab.wait("document.getElementById('error').innerText.includes('The camera was not allowed.')")
    tab.browser.call("Browser.grantPermissions", permissions=["videoCapture"], **place)
    tab.evaluate("document.getElementById('retry').click()")
    tab.wait("!document.getElementById('camera').hidden && document.getElementById('video').videoWidth > 0")
    answers.size = tuple(tab.evaluate("['Width', 'Height'].map((s) => document.getElementById('video')['video' + s])"))
    tab.evaluate("document.getElementById('take').click()")
    tab.wait(f"{NUM_BOXES} === 3 && document.getElementById('camera').hidden")
    assert Image.open(io.BytesIO(sent_image(answers.requests[-1])[1])).size == answers.size
    tab.evaluate("document.getElementById('open-camera').click()")
    tab.wait("!document.getElementById('camera').hidden")
    tab.evaluate("document.getElementById('live').click()")
    before = answers.num_detects()
    end = time.monotonic() + TIMEOUT
    while answers.num_detects() < before + 3:
        tab.wait("document.getElementById('error').hidden")
        assert time.monotonic() < end
    assert tab.evaluate("document.getElementById('video').getBoundingClientRect().height") < 100
    tab.evaluate("document.getElementById('close-camera').click()")
    tab.wait("document.getElementById('video').srcObject === null")


def test_an_image_that_the_browser_cannot_read_has_its_boxes_on_an_empty_frame(
    tab: Tab, answers: Answers, tmp_path: Path
) -> None:
    show(tab, image_file(tmp_path, name="scan.tif"))
    assert "cannot show the format" in tab.evaluate("document.getElementById('caption').textContent")
    assert tab.evaluate("document.getElementById('save-image').disabled")
    ratio = (
        "(() => { const r = document.getElementById('boxes').getBoundingClientRect(); return r.width / r.height; })()"
    )
    assert tab.evaluate(ratio) == pytest.approx(640 / 480, rel=0.01)


def test_an_unreadable_image_leaves_no_empty_frame(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    answers.detect = (400, {}, error("bad_image", "'bad.jpg' is a damaged image.", "Replace the file."))
    tab.choose_file("#file", tmp_path / "bad.jpg")
    tab.wait("document.getElementById('error').innerText.includes('is a damaged image')")
    assert tab.evaluate("document.getElementById('stage').hidden && !document.getElementById('empty').hidden")


def test_a_file_that_is_no_image_is_not_sent(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    tab.choose_file("#file", tmp_path / "notes.txt")
    tab.wait("document.getElementById('error').innerText.includes('notes.txt is not an image')")
    assert answers.num_detects() == 0


def test_a_server_that_is_away_is_named_and_found_again(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.choose_file("#file", image_file(tmp_path))
    tab.wait("document.getElementById('error').innerText.includes('The server cannot be reached.')")
    tab.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.evaluate("document.getElementById('retry').click()")
    tab.wait(f"{NUM_BOXES} === 3 && document.getElementById('error').hidden")


def test_a_large_image_is_drawn_and_saved_at_its_size(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    tab.browser.call(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=tab.context
    )
    answers.size = (9000, 6000)
    answers.detections = [
        detection(i % 80, f"class {i % 80}", 0.9, i * 20, i * 10, i * 20 + 900, i * 10 + 600) for i in range(300)
    ]
    show(tab, image_file(tmp_path, answers.size, "large.jpg"), boxes=300)
    tab.evaluate("document.getElementById('save-image').click()")
    tab.wait(f"{STATUS}.startsWith('Saved large_detections.jpg')")
    end = time.monotonic() + 60
    while not (tmp_path / "large_detections.jpg").is_file():
        assert time.monotonic() < end
        time.sleep(0.05)
    with Image.open(tmp_path / "large_detections.jpg") as saved:
        assert saved.size == answers.size
