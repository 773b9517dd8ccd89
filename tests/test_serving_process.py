"""The command `onelook serve`: names, tokens, mistakes; and in a process of its own, two clients and SIGTERM."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import onelook
from encoded_images import noise
from http_server import JPEG, wait_until
from onelook.api.open import LoadOptions
from onelook.api.serve import model_places, open_servable, read_tokens
from onelook.client import Client, ServerError
from onelook.errors import UsageError, UserError
from onelook.serving.running import open_socket
from onnx_models import write_model
from serve_command import serve_command


def test_models_have_the_names_of_their_files_or_those_they_are_given(tmp_path):
    (tmp_path / "run").mkdir()
    found = model_places(["a/yolox-s.onnx", "b=x.xml", "b/2=y.xml", "n.ncnn.param", str(tmp_path / "run")])
    assert [(one.name, one.version) for one in found] == [
        ("yolox-s", "1"),
        ("b", "1"),
        ("b", "2"),
        ("n", "1"),
        ("run", "1"),
    ]
    for wrong in (["a.onnx", "x/a.onnx"], ["a b=x.onnx"], ["../x=y"], ["a="]):
        with pytest.raises(UsageError):
            model_places(wrong)


def test_files_whose_text_is_evaluated_are_not_served(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"x")
    with pytest.raises(UsageError, match="evaluates text"):
        open_servable(tmp_path / "a.pt2", LoadOptions())


@pytest.mark.parametrize(
    ("text", "words"), [("", "no token"), ("short", "Line 1"), ("# only\n\nwith spaces in it, long", "Line 3")]
)
def test_a_file_of_tokens_is_checked(tmp_path, text, words):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_tokens(path)
    path.write_text("# for the page\nabcdefghijklmnop\n\n")
    assert read_tokens(path) == ("abcdefghijklmnop",)


def test_an_answer_is_sent_without_waiting_for_acknowledgements():
    """TCP_NODELAY on accepted connections: asyncio sets it for sockets whose protocol is named only."""

    async def accepted_without_delay() -> int:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[int] = loop.create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                sock = transport.get_extra_info("socket")
                found.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        with open_socket("127.0.0.1", 0) as listening:
            server = await loop.create_server(Accepted, sock=listening)
            async with server:
                transport, _ = await loop.create_connection(asyncio.Protocol, *listening.getsockname())
                try:
                    return await found
                finally:
                    transport.close()

    assert asyncio.run(accepted_without_delay()) != 0


# --- the whole command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """The command in a process of its own: its address, its model, and the process."""
    pytest.importorskip("httptools")
    folder = tmp_path_factory.mktemp("served")
    write_model(folder / "small.onnx")
    (folder / "tokens").write_text("a-token-of-the-tests\n")
    with serve_command(folder / "small.onnx", "--workers", "2", "--token-file", folder / "tokens") as (url, started):
        yield url, folder / "small.onnx", started


def test_the_client_returns_what_the_local_detector_finds(process, tmp_path):
    url, model, _ = process
    client = Client(url, token="a-token-of-the-tests")
    array = noise()
    (tmp_path / "a.jpg").write_bytes(JPEG)
    local = onelook.load(model)
    assert client.ready() and client.models()[0]["name"] == "small"
    for image, found in zip((array, JPEG, tmp_path / "a.jpg"), client.detect([array, JPEG, tmp_path / "a.jpg"])):
        wanted = local.detect(image)
        assert found.boxes.tobytes() == wanted.boxes.tobytes() and found.scores.tobytes() == wanted.scores.tobytes()
        assert found.names == wanted.names and found.size == wanted.size
    assert client.detect(array, threshold=0.1, classes=["dog"]).names == ["dog"]
    with pytest.raises(ServerError, match="no class 'bird'") as caught:
        client.detect(array, classes=["bird"])
    assert (caught.value.status, caught.value.code) == (400, "unknown_class")
    with pytest.raises(ServerError) as caught:
        Client(url).detect(array)
    assert caught.value.status == 401
    assert not Client("http://127.0.0.1:9").ready()
    with pytest.raises(UserError, match="no address"):
        Client("localhost:8000")


def test_the_protocols_own_client_gets_the_local_bytes(process):
    http = pytest.importorskip("tritonclient.http")
    url, model, _ = process
    headers = {"Authorization": "Bearer a-token-of-the-tests"}
    client = http.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small", headers=headers)
    assert client.get_model_repository_index(headers=headers)[0]["name"] == "small"
    assert client.get_server_metadata(headers=headers)["name"] == "onelook"
    metadata = client.get_model_metadata("small", "1", headers=headers)
    assert metadata["inputs"][0]["shape"] == [-1, 3, 64, 64]
    images = np.random.default_rng(2).uniform(0, 255, (3, 3, 64, 64)).astype(np.float32)
    local = onelook.load(model).runtime.run(["boxes", "scores"], {"images": images})
    for binary_input in (True, False):
        tensor = http.InferInput("images", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary_input)
        for outputs in (None, [http.InferRequestedOutput(name, binary_data=True) for name in ("boxes", "scores")]):
            answer = client.infer("small", [tensor], outputs=outputs, headers=dict(headers))  # it adds to them
            for name, value in zip(("boxes", "scores"), local):
                assert answer.as_numpy(name).tobytes() == value.tobytes()
    with pytest.raises(Exception, match="There is no model 'none'"):
        client.get_model_metadata("none", headers=headers)
    client.unload_model("small", headers=headers)
    assert not client.is_model_ready("small", headers=headers)
    client.load_model("small", headers=headers)
    assert client.is_model_ready("small", headers=headers)
    client.close()


def test_sigterm_lets_a_request_finish_and_takes_no_other(process):
    """The last test of the process: the body of a request arrives in two halves around the signal."""
    url, _, started = process
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/detect HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(JPEG)}\r\n"
        "Authorization: Bearer a-token-of-the-tests\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + JPEG[:100])
        time.sleep(0.2)
        started.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(host, int(port)))
        connection.sendall(JPEG[100:])
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    assert answer.startswith(b"HTTP/1.1 200") and len(json.loads(answer.partition(b"\r\n\r\n")[2])["results"]) == 1
    assert started.wait(20) == 0
    rest = started.stdout.read().splitlines()
    assert "those in work were finished" in rest[-1]
    assert any(json.loads(line)["message"] == "request" for line in rest if line.startswith("{"))


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.slow
def test_a_watched_folder_is_exchanged_under_load_and_no_request_is_lost(tmp_path):
    """Another file, a damaged one, a new version, and its end, while two clients ask without a pause."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("httptools")
    place = tmp_path / "models" / "small" / "1"
    place.mkdir(parents=True)
    write_model(place / "a.onnx")
    stop, answers = threading.Event(), []

    def put(folder: Path, content: bytes) -> None:
        folder.mkdir(exist_ok=True)
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(folder / "a.onnx")

    def ask() -> None:
        while not stop.is_set():
            answers.append(httpx.post(f"{url}/v1/detect", content=JPEG, timeout=30))

    def answered_since(count: int) -> set[str]:
        wait_until(lambda: len(answers) >= count + 4)
        return {answer.json()["version"] for answer in answers[count + 2 :]}  # two were in work

    def loads(outcome: str) -> str:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return next(
            (
                line.split()[-1]
                for line in lines
                if line.startswith("onelook_model_loads_total{")
                and f'outcome="{outcome}"' in line
                and 'version="1"' in line
            ),
            "0",
        )

    arguments = ("--watch", tmp_path / "models", "--watch-seconds", "0.1", "--workers", "2")
    with serve_command(*arguments) as (url, started):
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        put(place, write_model(tmp_path / "other.onnx", batch=1).read_bytes())
        wait_until(lambda: loads("loaded") == "2.0")
        put(place, b"damaged")
        wait_until(lambda: loads("refused") == "1.0")
        assert answered_since(len(answers)) == {"1"}
        put(place.parent / "2", (tmp_path / "other.onnx").read_bytes())
        wait_until(lambda: answers[-1].json()["version"] == "2")
        shutil.rmtree(place.parent / "2")
        wait_until(lambda: answers[-1].json()["version"] == "1")
        stop.set()
        for thread in threads:
            thread.join(30)
        assert {answer.status_code for answer in answers} == {200}
        (state,) = httpx.post(f"{url}/v2/repository/index").json()
        assert state["state"] == "READY" and "a.onnx" in state["reason"] and str(tmp_path) not in state["reason"]
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


def test_a_wrong_command_is_one_message(tmp_path, capsys):
    from onelook.cli.app import run

    for arguments, code, words in (
        ([], 2, "no model to serve"),
        ([str(tmp_path / "none.onnx")], 1, "does not exist"),
        (["--watch", str(tmp_path / "none")], 2, "does not exist"),
        (["a.onnx", "--drain", "nan"], 2, "--drain is nan"),
        (["--watch", str(tmp_path), "--watch-seconds", "0"], 2, "--watch-seconds is 0"),
        ([str(write_model(tmp_path / "a.onnx")), "--port", "99999"], 1, "cannot listen"),
    ):
        assert run(["serve", *arguments]) == code
        assert words in capsys.readouterr().err
