"""Tiles as query values of `/v1/detect`: results of the local detector, places in the queue, turns, and limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

import onelook.client
from encoded_images import encoded
from http_server import client_of, held_repository, in_thread, repository_of, wait_until
from onelook.errors import UserError
from onelook.predict.tiles import Tiles
from onelook.serving.options import ServerOptions


def quarter(height: int = 128, width: int = 160) -> np.ndarray:
    """Black, with a white quarter at the lower right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 :, width // 2 :] = 255
    return image


LARGE = encoded(quarter(), "PNG")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("models")
    with client_of(repository_of(folder)) as client:
        yield client, onelook.load(folder / "small.onnx")


@pytest.mark.parametrize("kind", ["nms", "nmm"])
def test_tiles_are_answered_with_what_the_local_detector_finds(served: Any, kind: Any) -> None:
    client, detector = served
    query = f"threshold=0.1&tile=64&overlap=0.25&tile_merge={kind}"
    (result,) = client.post(f"/v1/detect?{query}", content=LARGE).json()["results"]
    local = detector.detect(LARGE, 0.1, tile=64, overlap=0.25, tile_merge=kind).to_dict()
    assert result["detections"] == local["detections"] and (result["width"], result["height"]) == (160, 128)
    assert len(local["detections"]) > 2


def test_an_image_within_one_tile_and_one_beside_it_are_answered_in_order(served: Any) -> None:
    client, detector = served
    files = [("image", ("a.png", LARGE)), ("image", ("b.png", encoded(quarter(60, 64), "PNG")))]
    results = client.post("/v1/detect?threshold=0.1&tile=64", files=files).json()["results"]
    wanted = [detector.detect(content, 0.1, tile=64).to_dict()["detections"] for _, (_, content) in files]
    assert [one["detections"] for one in results] == wanted


def test_a_drawn_image_has_the_boxes_of_its_tiles(served: Any) -> None:
    client, _ = served
    answer = client.post("/v1/detect?threshold=0.5&tile=64", content=LARGE, headers={"accept": "image/png"})
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape[1] / image.shape[0] == 160 / 128


@pytest.mark.parametrize("query", ["tile=5", "tile=64&overlap=1", "tile=64&tile_merge=wbf", "tile=x"])
def test_tiles_that_cannot_be_are_wrong_requests(served: Any, query: str) -> None:
    client, _ = served
    answer = client.post(f"/v1/detect?{query}", content=LARGE)
    assert answer.status_code in (400, 422) and answer.json()["error"]["message"]


def test_more_tiles_than_are_run_are_refused(served: Any) -> None:
    client, _ = served
    wide = encoded(np.zeros((2000, 2000, 3), np.uint8), "PNG")
    answer = client.post("/v1/detect?tile=32&overlap=0.9", content=wide)
    assert answer.status_code == 400 and "tiles" in answer.json()["error"]["message"]


def test_tiles_take_turns_with_other_requests_and_have_places_in_the_queue() -> None:
    """One batch of tiles is in work; the image takes a quarter of the queue, and the other places are free."""
    repository, runtime = held_repository(ServerOptions(queue=16, batch=1))
    tiles, small = Tiles(32, 0).count((128, 160)), encoded(quarter(32, 32), "PNG")
    assert tiles == 4 * 5 + 1
    with client_of(repository) as client:
        large = in_thread(lambda: client.post("/v1/detect?tile=32&overlap=0", content=LARGE).status_code)
        assert runtime.entered.acquire(timeout=20)
        other = in_thread(lambda: client.post("/v1/detect", content=small).status_code)
        wait_until(lambda: len(repository.find().batcher) == 1)
        assert repository.find().admitted == 16 // 4 + 1
        runtime.open.set()
        assert (large(), other()) == (200, 200)
        assert len(runtime.batches) == tiles + 1 and repository.find().admitted == 0


def test_without_places_for_its_tiles_an_image_is_refused_at_once() -> None:
    repository, runtime = held_repository(ServerOptions(queue=8, batch=1))
    with client_of(repository) as client:
        waiting = [in_thread(lambda: client.post("/v1/detect", content=LARGE).status_code) for _ in range(7)]
        wait_until(lambda: repository.find().admitted == 7)
        refused = client.post("/v1/detect?tile=32", content=LARGE)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        runtime.open.set()
        assert {value() for value in waiting} == {200} and repository.find().admitted == 0


def test_tiles_end_at_the_deadline_of_their_request() -> None:
    repository, runtime = held_repository(ServerOptions())
    with client_of(repository) as client:
        answer = client.post("/v1/detect?tile=32", content=LARGE, headers={"x-deadline-ms": "150"})
        assert answer.status_code == 504 and repository.find().admitted == 0
        runtime.open.set()
        assert client.post("/v1/detect?tile=32", content=LARGE).status_code == 200


def test_the_client_sends_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(self: object, method: str, path: str, *rest: object) -> Any:
        asked.append(path)
        return {"results": [{"source": "0", "width": 9, "height": 9, "detections": []}]}

    monkeypatch.setattr("onelook.client.Client._ask", answer)
    client = onelook.client.Client()
    assert len(client.detect(LARGE, tile=640, overlap=0.3, tile_merge="nmm")) == 0
    client.detect(LARGE)
    assert asked == ["/v1/detect?tile=640&overlap=0.3&tile_merge=nmm", "/v1/detect?"]


@pytest.mark.parametrize("url", ["localhost:8000", "http://[", "http://host:port", "http://host:99999", "http://"])
def test_the_client_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match="no address of a server"):
        onelook.client.Client(url)


def test_the_client_takes_a_token_as_a_file_holds_it() -> None:
    with pytest.raises(UserError, match="The token has signs"):
        onelook.client.Client(token="first\nsecond")
    with pytest.raises(onelook.client.ServerError, match="does not answer"):
        onelook.client.Client("http://127.0.0.1:9", token="a-token\n").models()


def test_another_kind_of_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ([], {"hello": 1}, {"results": None}):
        monkeypatch.setattr("onelook.client.Client._ask", lambda *_, answer=answer: answer)
        with pytest.raises(onelook.client.ServerError, match="is not one of Onelook"):
            onelook.client.Client().detect(LARGE)
