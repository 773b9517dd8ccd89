"""Hostile images and addresses through HTTP: errors with a remedy, no crash, no growth, no private hosts."""

from __future__ import annotations

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from encoded_images import KINDS, encoded, noise
from http_server import JPEG, client_of, repository_of
from onelook.serving import fetch as fetching
from onelook.serving.fetch import check_address, fetch, is_public
from onelook.serving.service_error import ServiceError

HOSTILE = {
    "empty header": b"\xff\xd8\xff",
    "end at once": b"\xff\xd8\xff\xd9",
    "PNG signature": b"\x89PNG\r\n\x1a\n",
    "a bomb of pixels": encoded(noise(8, 8), "PNG").replace(
        struct.pack(">II", 8, 8), struct.pack(">II", 60_000, 60_000), 1
    ),
    "TIFF without end": b"II*\0\xff\xff\xff\xff",
    "WebP of 4 GB": b"RIFF\xff\xff\xff\xffWEBPVP8X",
    "negative sides": b"P6\n-3 4\n255\n",
    "no width": b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 9),
    "zeros": bytes(4000),
    "PDF": b"%PDF-1.7 ...",
}


def test_hostile_images_are_errors_and_the_server_serves_on(tmp_path):
    repository = repository_of(tmp_path)
    with client_of(repository) as client:
        for name, content in HOSTILE.items():
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
    with client_of(repository_of(tmp_path)) as client:
        sizes = []
        for _ in range(6):
            for _ in range(20):
                for content in HOSTILE.values():
                    client.post("/v1/detect", content=content)
                client.post("/v1/detect", content=JPEG[:-50])
            sizes.append(int(statm.read_text().split()[1]) * 4096)
        assert sizes[-1] - sizes[2] < 16 << 20


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
