"""`onelook view`: the page's numbers against a slow count, and the page itself in a browser."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onelook
from browser import needs_browser, open_browser
from data_sets import coco, yolo
from onelook.cli.app import run
from onelook.data.problems import Problem
from onelook.data.statistics import drift, statistics
from onelook.errors import DataError, UsageError, UserError
from onelook.evaluation.coco import Evaluation, score
from onelook.evaluation.tables import GroundTruth, Results
from onelook.report.view import View, _problems, render_view
from onelook.serving.view_server import ViewServer

SILENT = onelook.SilentReporter()


def test_one_problem_is_counted_in_the_singular() -> None:
    found = Problem("warning", "box-degenerate", "The box has no area.", "Remove it.")
    assert "0 errors, 1 warning." in _problems([found]) and "0 errors, 2 warnings." in _problems([found, found])


def data_set(root: Path, per_split: dict[str, int], seed: int = 0) -> Path:
    """A COCO data set of grey images with two classes, the second in every other image."""
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    for split, count in per_split.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            name = f"{split}-{number}.png"
            cv2.imwrite(str(root / split / name), np.full((60, 80, 3), 90 + number, np.uint8))
            images.append({"id": number + 1, "file_name": name, "width": 80, "height": 60})
            for category in (1, 2)[: 1 + number % 2]:
                x, y = rng.integers(0, 20, 2).tolist()
                box = [x, y, 40, 30] if category == 1 else [x, y, 10, 20]
                entry = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "bbox": box}
                annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
        names = [{"id": 1, "name": "<b>cat</b>"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": names}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def arrays_of(html: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The data of a page, as its script reads it."""
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', html)[1])  # type: ignore[index]
    kinds = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "f32": np.float32}
    found = re.findall(r'id="array-(\w+)">([^<]*)</script>', html)
    return meta, {name: np.frombuffer(base64.b64decode(text), kinds[meta["arrays"][name]]) for name, text in found}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(0, 8), classes=st.integers(1, 4))
def test_classes_seen_together_are_those_of_a_slow_count(seed: int, count: int, classes: int) -> None:
    from onelook.data.index import SCHEMA, index_in_memory

    rng = np.random.default_rng(seed)
    objects = rng.integers(0, 5, count)
    labels = rng.integers(0, classes, objects.sum())
    arrays = {name: np.zeros((0, *tail), kind) for name, (kind, tail) in SCHEMA.items()}
    arrays |= {"sizes": np.full((count, 2), 100), "image_ids": np.arange(count), "labels": labels}
    arrays |= {"object_offsets": np.concatenate([[0], np.cumsum(objects)]), "object_flags": np.zeros(len(labels))}
    arrays["boxes"] = rng.uniform(0, 90, (len(labels), 4))
    found = statistics(index_in_memory(arrays, {}), [str(label) for label in range(classes)])
    expected = np.zeros((classes, classes), int)
    start = 0
    for number in objects.tolist():
        shown = set(labels[start : start + number].tolist())
        start += number
        for one in shown:
            for other in shown:
                expected[one, other] += 1
    assert np.array_equal(found.together, expected)
    assert np.array_equal(found.images_per_class, np.diag(expected))
    assert found.per_class.sum() == len(labels) == found.positions.sum() == sum(found.sizes)
    assert found.empty_images == int((objects == 0).sum())


def test_drift_is_the_total_variation_distance() -> None:
    assert drift(np.array([1, 1]), np.array([2, 2])) == 0
    assert drift(np.array([1, 0]), np.array([0, 5])) == 1
    assert drift(np.array([3, 1]), np.array([1, 1])) == pytest.approx(0.25)
    assert drift(np.array([0, 0]), np.array([1, 1])) is None


def test_the_page_holds_every_box_of_every_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = data_set(tmp_path / "data", {"train": 4, "val": 3}), tmp_path / "page.html"
    assert run(["view", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "7 images, 10 objects" in printed and str(out) in printed
    html = out.read_text()
    meta, arrays = arrays_of(html)
    assert meta["files"][:2] == ["train-0.png", "train-1.png"] and [one["name"] for one in meta["splits"]] == [
        "train",
        "val",
    ]
    assert meta["splits"][0]["root"] == "data/train/" and meta["names"] == ["<b>cat</b>", "dog"]
    dataset = onelook.open_dataset(data, "train")
    boxes = arrays["boxes"].reshape(-1, 4)[: len(dataset.index.boxes)] / 65535 * (80, 60, 80, 60)
    expected = np.concatenate([dataset.boxes(row) for row in range(4)])
    assert np.abs(boxes - expected).max() < 0.01
    assert arrays["offsets"].tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert "<b>cat" not in html and "http:" not in html.replace("http://www.w3.org/2000/svg", "")
    assert run(["view", str(data), "--out", str(out)]) == 1 and "--overwrite" in capsys.readouterr().err
    assert run(["view", str(data), "--out", str(out), "--overwrite"]) == 0


def evaluation(dataset: Any) -> Evaluation:
    """Of the first image all is found; of the others the first object, and something that is not there."""
    truth = GroundTruth.from_coco(dataset.coco_ground_truth())
    images, labels, boxes, scores = [], [], [], []
    for image in range(len(truth.image_ids)):
        rows = np.flatnonzero(truth.images == image)
        images += [image] * 2 if image else [image]
        labels += [truth.labels[rows[0]]] + ([1] if image else [])
        boxes += [truth.boxes[rows[0]]] + ([[70.0, 50, 5, 5]] if image else [])
        scores += [0.9] + ([0.8] if image else [])
    return score(truth, Results(np.array(images), np.array(labels), np.array(boxes), np.array(scores)))


def test_misses_false_positives_and_losses_are_those_of_the_evaluation(tmp_path: Path) -> None:
    dataset = onelook.open_dataset(data_set(tmp_path / "data", {"val": 4}), reporter=SILENT)
    found = evaluation(dataset)
    meta, arrays = arrays_of(render_view(View("x", [dataset], {}, ("val", found)), tmp_path))
    verdicts = found.verdicts()
    kept = found.best_confidence
    assert meta["detections"] and len(arrays["foundRight"]) == (found.results.scores >= kept).sum()
    assert (arrays["flags"] & 2 > 0).sum() == (verdicts.found == 0).sum() == 2
    wrong = 0.8 if kept <= 0.8 else 0.0
    missed = [0, 1, 0, 1]  # the second objects
    expected = [0.1 + missed[row] + (wrong if row else 0) for row in range(4)]
    assert arrays["loss"].tolist() == pytest.approx(expected)


def test_problems_are_marked_on_their_images_and_wrong_use_is_told(tmp_path: Path) -> None:
    data = yolo(tmp_path / "yolo", "0 .5 .5 .25 .5\n1 0.25 0.25 0 0.1\n")
    result = onelook.view(data, out=tmp_path / "a.html", reporter=SILENT)
    meta, arrays = arrays_of(result.path.read_text())
    row, other = (next(k for k, name in enumerate(meta["files"]) if name.endswith(one)) for one in ("a.png", "c.png"))
    assert result.problems and arrays["problems"][row] and not arrays["problems"][other]
    with pytest.raises(UsageError, match="A model and detections"):
        onelook.view(data, model="x", detections="y", out=tmp_path / "b.html")


def test_check_counts_classes_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, plain = data_set(tmp_path / "data", {"train": 4, "val": 3}), tmp_path / "check.json"
    run(["check", str(data), "--json", str(plain)])
    printed = capsys.readouterr().out
    assert "objects in train" in printed and "small" in printed
    found = json.loads(plain.read_text())["summary"]["statistics"]["train"]
    assert found["per_class"] == {"<b>cat</b>": 4, "dog": 2}
    assert found["object_sizes"] == {"small": 2, "medium": 4, "large": 0}
    assert found["object_side"]["largest"] == pytest.approx(1200**0.5, abs=0.1)
    assert run(["check", str(coco(tmp_path / "small"))]) in (0, 1)


@needs_browser
@pytest.mark.slow
def test_the_page_filters_and_turns_its_pages_without_a_network(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", {"train": 60, "val": 5})
    dataset = onelook.open_dataset(data, reporter=SILENT)
    out = tmp_path / "page.html"
    splits = [onelook.open_dataset(data, "train", reporter=SILENT), dataset]
    out.write_text(render_view(View("x", splits, {}, ("val", evaluation(dataset))), tmp_path))
    with open_browser() as browser:
        tab = browser.tab()
        tab.open(out.as_uri())

        def choose(name: str, value: str) -> str:
            element = f"document.getElementById('{name}')"
            tab.evaluate(f"{element}.value = '{value}'; {element}.dispatchEvent(new Event('change'))")
            return str(tab.evaluate("document.getElementById('count').textContent"))

        tab.wait("document.querySelectorAll('figure.double').length === 5")  # begins with the evaluated split
        tab.wait("document.querySelector('figure img').naturalWidth === 80")
        assert choose("split", "").startswith("65 of 65 images, page 1 of 2")
        tab.evaluate("document.getElementById('after').click()")
        assert tab.evaluate("document.querySelectorAll('#gallery figure').length") == 65 - 48
        assert choose("class", "1").startswith("34 of 65")
        assert choose("mistake", "miss").startswith("2 of 65")
        assert choose("class", "").startswith("2 of 65") and choose("mistake", "").startswith("65 of 65")
        assert choose("size", "0").startswith("32 of 65")
        assert all(url.startswith("file:") for url in tab.requests()) and not tab.problems()


def test_a_data_set_with_errors_is_shown_and_its_damage_listed(tmp_path: Path) -> None:
    data = yolo(tmp_path / "yolo", "0 .5 .5 .25 .5\n0 x\n1 .9 .9 .5 .5\n")
    yolo(tmp_path / "yolo", "0 x\n", split="train")
    (data / "data.yaml").write_text("val: images/val\ntrain: images/train\nnames: [cat, dog]\n")
    result = onelook.view(data, out=tmp_path / "a.html", reporter=SILENT)
    html = (tmp_path / "a.html").read_text()
    meta, arrays = arrays_of(html)
    assert result.images == 6 and result.objects == 2
    assert f"<b>{data}/labels/val/a.txt:2</b>: expected 5 values" in html and "<details open>" in html
    number = next(k for k, name in enumerate(meta["files"]) if name.endswith("val/a.png"))
    texts = dict(meta["messages"])[number]
    assert any(text.startswith("error: expected 5 values") for text in texts)
    start, stop = arrays["offsets"][number : number + 2].tolist()
    assert (arrays["flags"][start:stop] & 4 > 0).tolist() == [False, True]  # the box that reaches beyond the image


def test_a_data_set_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No image of .* can be shown"):
        onelook.view(coco(tmp_path / "data", "{"), out=tmp_path / "a.html", reporter=SILENT)


def test_a_model_is_evaluated_on_what_can_be_read(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", {"val": 3})
    (data / "val" / "val-1.png").write_bytes(b"no image")
    results = [{"image_id": n, "category_id": 1, "bbox": [5, 5, 40, 30], "score": 0.9} for n in (1, 2, 3)]
    (tmp_path / "found.json").write_text(json.dumps(results))
    found = onelook.view(data, detections=tmp_path / "found.json", out=tmp_path / "a.html", reporter=SILENT)
    assert found.evaluated is not None and found.problems
    (dataset,) = [onelook.open_dataset(data, reporter=SILENT)]
    from onelook.api.view import _usable
    from onelook.data.problem_places import ImageProblems
    from onelook.data.problems import Problem

    bad = ImageProblems([Problem("error", "image-unreadable", "x", "y")])
    assert [_usable(dataset, {("val", 1): bad}).file_name(row) for row in (0, 1)] == ["val-0.png", "val-2.png"]


def test_where_nothing_is_found_there_is_no_best_confidence(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", {"val": 3})
    (tmp_path / "found.json").write_text("[]")
    onelook.view(data, detections=tmp_path / "found.json", out=tmp_path / "a.html", reporter=SILENT)
    html = (tmp_path / "a.html").read_text()
    assert ": none is right" in html and "from 0.00 on" not in html


# --- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def served(page: str, splits: list[Any]) -> Iterator[ViewServer]:
    with ViewServer(0) as server:
        thread = threading.Thread(target=server.show, args=(page, splits))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: ViewServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    with closing(connection):
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type") or ""


def test_the_server_sends_the_page_and_images_by_number_and_nothing_else(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", {"train": 2, "val": 2})
    (data / "val" / "val-1.png").write_text("not an image, and not sent")
    (data / "train" / "train-1.png").unlink()
    cv2.imwrite(str(tmp_path / "x.tif"), np.full((60, 80, 3), 7, np.uint8))
    (tmp_path / "x.tif").rename(data / "train" / "train-1.png")
    splits = [onelook.open_dataset(data, split, reporter=SILENT) for split in ("train", "val")]
    with served("<p>page</p>", splits) as server:
        assert ask(server, "/")[:2] == (200, b"<p>page</p>") and ask(server, "/?x=1")[0] == 200
        assert ask(server, "/image/0") == (200, (data / "train/train-0.png").read_bytes(), "image/png")
        status, content, kind = ask(server, "/image/1")  # which no browser shows: sent as a JPEG
        assert (status, kind, content[:2]) == (200, "image/jpeg", b"\xff\xd8")
        assert ask(server, "/image/2")[1] == (data / "val/val-0.png").read_bytes()
        for path in (
            "/image/3",
            "/image/4",
            "/image/-1",
            "/image/../x",
            "/image/%2e%2e/x",
            "//etc/passwd",
            "/image/0/..",
        ):
            assert ask(server, path)[0] == 404, path
        assert ask(server, "/", host="evil.example")[0] == 403 and ask(server, "/", host="localhost:1")[0] == 200
        assert ask(server, "/image/0", method="HEAD")[:2] == (200, b"")
        assert ask(server, "/", method="POST")[0] == 501


def test_a_port_in_use_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with ViewServer(0) as server, pytest.raises(UserError, match=f"port {server.server_address[1]}: .*"):
        onelook.view(tmp_path / "nothing", serve=True, port=server.server_address[1], reporter=SILENT)
    with pytest.raises(UserError, match="port 70000"):
        onelook.view(tmp_path / "nothing", serve=True, port=70000, reporter=SILENT)


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.serving.local_server._MOST_CONNECTIONS", 1)
    with served("page", []) as server, socket.create_connection(server.server_address[:2], timeout=20) as first:
        first.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert first.recv(20).startswith(b"HTTP/1.1 200")  # and it stays open
        with socket.create_connection(server.server_address[:2], timeout=20) as second:
            assert second.recv(20) == b""


@needs_browser
@pytest.mark.slow
def test_a_served_page_shows_images_in_a_browser(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", {"val": 3})
    dataset = onelook.open_dataset(data, reporter=SILENT)
    page = render_view(View("x", [dataset], {}, served=True), Path())
    with served(page, [dataset]) as server, open_browser() as browser:
        tab = browser.tab()
        tab.open(server.address)
        tab.wait("document.querySelectorAll('figure').length === 3")
        tab.wait("document.querySelector('figure img').naturalWidth === 80")
        assert not tab.problems()
