"""The page of the real command in Chromium: official YOLOX-Nano, a photograph, a token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onelook
from browser import needs_browser, open_browser
from page_tab import box_fractions
from serve_command import serve_command
from shared import needs_shared, reference

pytest.importorskip("fastapi", reason="needs the extra serve")
pytestmark = [needs_browser, needs_shared, pytest.mark.slow]
TOKEN = "a-token-of-the-tests"
NAMES = "[...document.querySelectorAll('#list b')].map((name) => name.textContent)"


def test_the_page_of_the_command_draws_what_the_detector_finds(tmp_path: Path) -> None:
    folder = reference("yolox")
    model, photo = tmp_path / "nano.onnx", folder / "dog.jpg"
    onelook.export("yolox-nano", weights=folder / "yolox_nano.onnx", size=416, out=model)
    found = onelook.load(model).detect(photo, confidence=0.25)
    assert {"dog", "bicycle", "car"} <= set(found.names)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with serve_command(model, "--token-file", tokens) as (url, _), open_browser() as browser:
        tab = browser.tab()
        tab.size(1200, 900)
        tab.open(url + "/")
        tab.wait("!document.getElementById('token-form').hidden")  # the list of models needs the token
        tab.evaluate("document.getElementById('token').focus()")
        tab.call("Input.insertText", text=TOKEN)
        tab.key("Enter")
        tab.wait("!document.getElementById('model').disabled")
        tab.choose_file("#file", photo)
        tab.wait(f"{NAMES}.length > 0 && !document.getElementById('results').hasAttribute('aria-busy')")
        assert tab.evaluate(NAMES) == found.names
        height, width = found.size
        expected = np.clip(found.boxes / [width, height, width, height], 0, 1)
        np.testing.assert_allclose(box_fractions(tab), expected, atol=2e-3)
        assert [address for address in tab.requests() if not address.startswith(url)] == []
        assert [text for text in tab.problems() if "Failed to load resource" not in text] == []
