"""The page in a real browser: what people see, with mouse, keyboard and finger, and what it requests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from browser import Tab, needs_browser
from page_server import Answers, detection, error, sent_image
from page_tab import DETECTIONS, NUM_BOXES, STATUS, answers, box_fractions, image_file, opened, show, tab

__all__ = ["answers", "opened", "tab"]  # fixtures

pytestmark = needs_browser


def test_a_chosen_file_is_sent_once_and_its_boxes_are_drawn_in_place(
    tab: Tab, answers: Answers, tmp_path: Path
) -> None:
    path = image_file(tmp_path)
    show(tab, path)
    query = answers.requests[-1][1]
    assert answers.num_detects() == 1 and query == {"threshold": "0.05", "model": "nano", "version": "1"}
    assert sent_image(answers.requests[-1]) == ("dog.png", path.read_bytes())
    scale = [640, 480, 640, 480]
    expected = [[x / side for x, side in zip(one["box"], scale)] for one in DETECTIONS[:3]]
    np.testing.assert_allclose(box_fractions(tab), expected, atol=1e-3)
    tab.wait(f"{STATUS} === '3 of 4 detections: dog 2, person 1.'")
    assert "640 \u00d7 480 pixels" in tab.evaluate("document.getElementById('caption').textContent")
    assert "inference 20.3 ms" in tab.evaluate("document.getElementById('timings').textContent")
    facts = tab.evaluate("document.getElementById('model-facts').textContent")
    assert facts == "yolox-nano \u00b7 416 \u00d7 416 pixels \u00b7 3 classes \u00b7 onnxruntime, float32"


def test_threshold_and_classes_filter_without_another_request(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    show(tab, image_file(tmp_path))
    slide = """(() => { const slider = document.getElementById('threshold');
        slider.value = '%s'; slider.dispatchEvent(new Event('input')); })()"""
    for value, boxes in (("0.05", 4), ("0.5", 2), ("0.95", 0), ("0.3", 3)):
        tab.evaluate(slide % value)
        assert tab.evaluate(NUM_BOXES) == boxes
    assert tab.evaluate("document.getElementById('threshold-value').textContent") == "0.30"
    tab.evaluate("document.querySelector('#classes input[value=\"1\"]').click()")
    assert tab.evaluate("[...document.querySelectorAll('.box span')].map((e) => e.textContent)") == ["person 0.60"]
    tab.evaluate("document.getElementById('no-classes').click()")
    assert tab.evaluate(NUM_BOXES) == 0
    tab.wait(f"{STATUS}.startsWith('None of 4 detections is shown')")
    tab.evaluate("document.getElementById('all-classes').click()")
    assert tab.evaluate(NUM_BOXES) == 3 and answers.num_detects() == 1


FOCUSED = "document.activeElement.id || document.activeElement.value || document.activeElement.className"


def test_everything_is_reached_and_used_with_the_keyboard(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    show(tab, image_file(tmp_path))
    order = []
    while "save-image" not in order and len(order) < 30:
        tab.key("Tab")
        order.append(tab.evaluate(FOCUSED))
    start = ["skip", "model", "file", "open-camera", "paste", "actual-size", "threshold", "all-classes", "no-classes"]
    assert order == [*start, "1", "0", "2", "list", "save-json", "save-image"]
    tab.key("Tab", shift=True)
    tab.key("Tab", shift=True)
    active = "[...document.querySelectorAll('.box.active span')].map((e) => e.textContent)"
    for key, expected in (
        ("ArrowDown", ["dog 0.90"]),
        ("ArrowDown", ["person 0.60"]),
        ("End", ["dog 0.40"]),
        ("ArrowDown", ["dog 0.40"]),
        ("Home", ["dog 0.90"]),
    ):
        tab.key(key)
        assert tab.evaluate(active) == expected
    assert tab.evaluate("document.getElementById('list').getAttribute('aria-activedescendant')") == "detection-0"
    tab.key("Escape")
    assert tab.evaluate(active) == []
    tab.evaluate("document.getElementById('threshold').focus()")
    tab.key("ArrowRight")
    assert tab.evaluate("document.getElementById('threshold-value').textContent") == "0.26"
    tab.evaluate("document.querySelector('#classes input').focus()")
    tab.key("Space")
    assert tab.evaluate(NUM_BOXES) == 1
    assert tab.evaluate("document.activeElement.value") == "1", "the focus stays where it was"


def test_names_are_text_and_never_html(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    answers.detections = [detection(0, hostile, 0.9, 10, 10, 200, 200)]
    show(tab, image_file(tmp_path, name="<b>bold<i>.png"), boxes=1)
    assert tab.evaluate("document.querySelector('#list b').textContent") == hostile
    assert tab.evaluate("document.querySelectorAll('#stage b, main script, #list img').length") == 0
    assert tab.evaluate("document.getElementById('caption').textContent").startswith("<b>bold<i>.png")
    assert tab.evaluate("document.title") == "Onelook"


def test_the_security_policy_stops_inline_code_and_html_from_text(tab: Tab, answers: Answers) -> None:
    blocked = """(() => { const element = document.createElement('script'); document.title = 'before';
        try { element.textContent = 'document.title = 1'; document.body.append(element); } catch {}
        try { document.body.innerHTML = '<p>x'; return 'html'; } catch { return document.title; } })()"""
    assert tab.evaluate(blocked) == "before"
    tab.browser.events.clear()  # the violations just made are no problem of the page
    page = (Path(__file__).parents[1] / "src/onelook/serving/page/index.html").read_text(encoding="utf-8")
    assert "style=" not in page and "<style" not in page and " on" not in page.replace(" one", "").split("<body>")[0]
    assert page.count("<script") == 1 and "http:" not in page and "https:" not in page


CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({visibilityProperty: true})) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), `${e.tagName}#${e.id}.${e.className} ${e.textContent.trim().slice(0, 30)}`]);
  }
  return found.sort((x, y) => x[0] - y[0]); })()"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(tab: Tab, answers: Answers, tmp_path: Path, theme: str) -> None:
    tab.theme(theme)
    show(tab, image_file(tmp_path))
    tab.evaluate("document.getElementById('list').children[1].click()")
    tab.evaluate("for (const id of ['error', 'token-form']) document.getElementById(id).hidden = false")
    tab.evaluate("document.getElementById('error-message').textContent = 'x'")
    measured = tab.evaluate(CONTRAST)
    assert len(measured) > 25 and measured[0][0] >= 4.5, measured[:3]
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) < 60) == (theme == "dark")


@pytest.mark.slow
def test_a_phone_scrolls_one_way_and_its_targets_fit_a_finger(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    tab.size(360, 740, phone=True, scale=2)
    long = "a-very-long-name-without-any-place-to-break-" * 4
    answers.detections = [detection(7, long, 0.9, 0, 0, 640, 480), *DETECTIONS]
    show(tab, image_file(tmp_path, name=f"{long}.png"), boxes=4)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    targets = "[...document.querySelectorAll('button, .button, select, .check, input[type=range]')]"
    small = f"{targets}.filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).map((e) => e.id)"
    assert tab.evaluate(small) == []


@pytest.mark.slow
def test_a_screen_reader_finds_names_states_and_news(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    show(tab, image_file(tmp_path))
    tab.wait(f"{STATUS}.startsWith('3 of 4')")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    controls = {"button", "combobox", "checkbox", "slider", "textbox", "listbox", "option", "image", "link"}
    assert [role for role, name in told if role in controls and not name.strip()] == []
    for expected in (
        ("combobox", "Model"),
        ("slider", "Score threshold"),
        ("checkbox", "dog 2"),
        ("listbox", "Detections, best first"),
        ("image", "dog.png. 3 of 4 detections: dog 2, person 1."),
        ("button", "Choose image"),
        ("heading", "Detections"),
    ):
        assert expected in told, told
    assert [role for role, _ in told].count("status") == 1
    assert sum(role == "option" and name.startswith(("dog", "person")) for role, name in told) == 3


def test_an_error_of_the_server_is_shown_with_its_remedy_and_can_be_tried_again(
    tab: Tab, answers: Answers, tmp_path: Path
) -> None:
    answers.detect = (413, {}, error("too_large", "The image has 99 MB.", "Send at most 20 MB."))
    tab.choose_file("#file", image_file(tmp_path))
    tab.wait("!document.getElementById('error').hidden")
    said = tab.evaluate("document.querySelector('[role=alert]').innerText")
    assert said.split("\n\n")[:3] == ["The image has 99 MB.", "Send at most 20 MB.", "Error too_large"]
    for bad, words in (
        ((503, {"Retry-After": "7"}, {}), "Try again in 7 s"),
        ((502, {}, b"<html>gateway"), "The server answered 502"),
        ((200, {}, b"not JSON"), "not in the expected form"),
        ((200, {}, {"results": []}), "not in the expected form"),
    ):
        answers.detect = bad
        tab.evaluate("document.getElementById('retry').click()")
        tab.wait(f"document.getElementById('error').innerText.includes({json.dumps(words)})")
    answers.detect = None
    tab.evaluate("document.getElementById('retry').click()")
    tab.wait(f"{NUM_BOXES} === 3 && document.getElementById('error').hidden")


def test_a_token_is_asked_for_and_sent(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    answers.token = "secret-7"
    tab.choose_file("#file", image_file(tmp_path))
    tab.wait("!document.getElementById('token-form').hidden")
    assert tab.evaluate("document.activeElement.id") == "token"
    tab.call("Input.insertText", text="secret-7")
    tab.key("Enter")
    tab.wait(f"{NUM_BOXES} === 3 && document.getElementById('token-form').hidden")
    assert answers.requests[-1][2]["Authorization"] == "Bearer secret-7"
    assert "secret-7" not in tab.evaluate("location.href + document.body.innerText")


@pytest.mark.slow
def test_an_image_without_detections_says_so(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    answers.detections = []
    show(tab, image_file(tmp_path), boxes=0)
    tab.wait(f"{STATUS}.startsWith('No objects were detected')")
    assert tab.evaluate("document.getElementById('list').hidden && document.getElementById('classes-field').hidden")
    assert not tab.evaluate("document.getElementById('save-json').disabled")


@pytest.mark.slow
def test_another_model_and_version_answers_the_same_image(tab: Tab, answers: Answers, tmp_path: Path) -> None:
    show(tab, image_file(tmp_path))
    options = "[...document.getElementById('model').options].map((one) => one.textContent)"
    assert tab.evaluate(options) == ["nano", "large (version 1)", "large (version 2)"]
    choose = (
        "(() => { const m = document.getElementById('model'); m.value = '2'; m.dispatchEvent(new Event('change')); })()"
    )
    tab.evaluate(choose)
    tab.wait(f"{NUM_BOXES} === 2")  # of its own threshold
    assert answers.requests[-1][1]["model"] == "large" and answers.requests[-1][1]["version"] == "2"
