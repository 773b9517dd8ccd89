"""Hostile images and addresses through HTTP: errors with a remedy, no crash, no growth, no private hosts."""

from __future__ import annotations

import asyncio
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from starlette.requests import Request

from encoded_images import KINDS, encoded, noise
from hostile_images import HOSTILE, changed
from http_server import JPEG, client_of, in_thread, repository_of
from onelook.serving import fetch as fetching
from onelook.serving import sent_images
from onelook.serving.fetch import check_address, fetch, is_public
from onelook.serving.options import ServerOptions
from onelook.serving.sent_images import read_body
from onelook.serving.service_error import ServiceError


def test_hostile_images_are_errors_and_the_server_serves_on(tmp_path):
    repository = repository_of(tmp_path)
    with client_of(repository) as client:
        for name, (content, _) in HOSTILE.items():
            answer = client.post("/v1/detect", content=content)
            assert answer.status_code in (413, 422), name
            assert answer.json()["error"]["remedy"], name
        for kind, (content, _, _) in KINDS.items():
            for cut in (0.3, 0.9):
                status = client.post("/v1/detect", content=content[: int(len(content) * cut)]).status_code
                assert status in (200, 413, 422), kind
        assert client.post("/v1/detect", content=JPEG).status_code == 200
        assert repository.find().admitted == 0 and len(repository.find().batcher) == 0


@pytest.mark.slow
def test_hostile_images_do_not_make_the_process_grow(tmp_path):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory of a process is read from /proc")
    repository = repository_of(tmp_path)
    with client_of(repository) as client:
        sizes = []
        for _ in range(8):  # the same files in each round
            rng = np.random.default_rng(0)
            damaged = [changed(content, rng) for content, _, _ in KINDS.values() for _ in range(10)]
            for content in (*(content for content, _ in HOSTILE.values()), *damaged):
                assert client.post("/v1/detect", content=content).status_code in (200, 413, 422)
            sizes.append(int(statm.read_text().split()[1]) * 4096)
        assert client.post("/v1/detect", content=JPEG).status_code == 200
        assert repository.find().admitted == 0 and len(repository.find().batcher) == 0
        assert sizes[-1] - sizes[2] < 16 << 20, sizes


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *((one, False) for one in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0")),
        *((one, False) for one in ("100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1")),
        *((one, False) for one in ("64:ff9b::7f00:1", "2002:7f00:1::", "::")),
    ],
)
def test_private_addresses_are_known_in_every_spelling(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("https://images.example.org/a.jpg", 0),
        ("http://IMAGES.example.org:80/a.jpg", 0),
        ("http://other.example.org:8080/a.jpg", 0),
        ("http://other.example.org/a.jpg", 403),
        ("http://images.example.org:8080/a.jpg", 403),
        ("http://images.example.org.evil.example/a.jpg", 403),
        ("http://images.example.org@evil.example/a.jpg", 400),
        ("file:///etc/passwd", 400),
        ("http://images.example.org/\r\nHost: x", 400),
        ("http://[::1", 400),
        ("", 400),
    ],
)
def test_only_allowed_hosts_and_ports_are_asked(address, status):
    allowed = ("images.example.org", "other.example.org:8080")
    if not status:
        check_address(address, allowed)
        return
    with pytest.raises(ServiceError) as caught:
        check_address(address, allowed)
    assert caught.value.status == status


def test_a_name_with_a_private_address_is_not_asked(monkeypatch):
    info = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("93.184.215.14", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: info)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    with pytest.raises(ServiceError, match="private address"):
        fetch("http://images.example.org/a.jpg", ["images.example.org"], 1000, 5)


class Images(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(200 if self.path == "/a.jpg" else 404)
        self.end_headers()
        self.wfile.write(JPEG)

    def log_message(self, *_):
        pass


def test_an_image_is_fetched_within_limits_and_redirects_are_checked(monkeypatch):
    """A server of the test is reached under a public name: the check of the address is switched off for that alone."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Images)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"localhost:{server.server_port}"
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
    )
    try:
        assert fetch(f"http://{here}/a.jpg", [here], 10**6, 5) == JPEG
        assert fetch(f"http://{here}/to?/a.jpg", [here], 10**6, 5) == JPEG
        for path, limit, code in (
            ("/a.jpg", 100, "too_large"),
            ("/b.jpg", 10**6, "fetch_failed"),
            ("/to?http://evil.example/a.jpg", 10**6, "address_not_allowed"),
            ("/to?file:///etc/passwd", 10**6, "bad_address"),
            ("/to?/to?/to?/to?/to?/a.jpg", 10**6, "fetch_failed"),
        ):
            with pytest.raises(ServiceError) as caught:
                fetch(f"http://{here}{path}", [here], limit, 5)
            assert caught.value.code == code
    finally:
        server.shutdown()
        server.server_close()


def test_hosts_that_do_not_answer_take_no_thread_that_decodes(tmp_path, monkeypatch):
    asked, go = threading.Semaphore(0), threading.Event()

    def wait(*_):
        asked.release()
        assert go.wait(20)
        return JPEG

    monkeypatch.setattr(sent_images, "fetch", wait)
    with client_of(repository_of(tmp_path, ServerOptions(allow_url=("images.example.org",)))) as client:
        body = {"image": "http://images.example.org/a.jpg"}
        slow = [in_thread(lambda: client.post("/v1/detect", json=body).status_code) for _ in range(6)]
        for _ in slow:
            assert asked.acquire(timeout=20)
        assert client.post("/v1/detect", content=JPEG).status_code == 200
        go.set()
        assert [value() for value in slow] == [200] * 6


def test_requests_that_are_no_text_are_errors_of_the_client(tmp_path):
    with client_of(repository_of(tmp_path)) as client:
        for headers in ({"Host": "["}, {"Origin": "http://["}):
            answer = client.post("/v1/detect", content=JPEG, headers=headers)
            assert answer.status_code == 403 and answer.json()["error"]["remedy"]
        for part in (
            b'"datatype":"\\ud800","data":[1]',
            b'"datatype":"FP32","data":[1' + b"0" * 400 + b"]",
            b'"datatype":"FP32","parameters":{"binary_data_size":"\\ud800"}',
        ):
            body = b'{"inputs":[{"name":"images","shape":[1,3,%d,%d],%s}]}' % (*_size(client), part)
            answer = client.post("/v2/models/small/infer", content=body)
            assert answer.status_code == 400 and answer.json()["error"], part


def _size(client):
    return client.get("/v2/models/small").json()["inputs"][0]["shape"][2:]


def test_json_of_very_many_lists_is_refused_before_it_is_read(tmp_path):
    body = b'{"image":[' + b"[]," * 100_000 + b"[]]}"
    with client_of(repository_of(tmp_path)) as client:
        for path in ("/v1/detect", "/v2/models/small/infer"):
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400 and "lists" in answer.text
        assert client.post("/v2/repository/index", content=bytes(1 << 17)).status_code == 413


def test_a_size_that_jpeg_cannot_have_is_an_error_with_a_remedy(tmp_path):
    wide = encoded(noise(1, 66_000), "PNG")
    with client_of(repository_of(tmp_path)) as client:
        answer = client.post("/v1/detect", content=wide, headers={"Accept": "image/jpeg"})
        assert answer.status_code == 422 and "image/png" in answer.json()["error"]["remedy"]


def test_a_host_that_sends_a_byte_now_and_then_is_given_up(monkeypatch):
    """No single read reaches its timeout: the time of the whole fetch counts."""
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(0.05):
                    try:
                        connection.sendall(b"X")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        try:
            with pytest.raises(ServiceError) as caught:
                fetch(f"http://127.0.0.1:{port}/a.jpg", (f"127.0.0.1:{port}",), 1000, 0.3)
            assert caught.value.status == 502
        finally:
            ended.set()
            thread.join(20)


@pytest.mark.parametrize("address", ["::127.0.0.1", "fec0::1", "64:ff9b:1::1", "240.0.0.1"])
def test_reserved_addresses_are_not_public(address):
    assert not is_public(address)


def test_a_client_that_goes_while_it_sends_is_no_fault_of_the_server():
    messages = iter([{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    with pytest.raises(ServiceError) as caught:
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 100))
    assert caught.value.status == 499
