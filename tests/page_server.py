"""A server of the page in the test's own process, whose models and answers the test chooses."""

from __future__ import annotations

import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from onelook.serving.page_files import page_files


def model(name: str, **changes: Any) -> dict[str, Any]:
    facts = {
        "version": "1",
        "versions": ["1"],
        "default": True,
        "family": "YOLOX",
        "variant": "yolox-nano",
        "size": [416, 416],
        "classes": ["person", "dog", "car"],
        "runtime": "onnxruntime",
        "precision": "float32",
        "threshold": 0.25,
        "ready": True,
    }
    return {"name": name, **facts, **changes}


def detection(label: int, name: str, score: float, *box: float) -> dict[str, Any]:
    return {"label": label, "name": name, "score": score, "box": list(box)}


@dataclass
class Answers:
    """What the server answers; a test may change it at any time.

    detect: (status, headers, JSON) of v1/detect, or None for the detections of an image of `size` (width, height).
    token: what requests have to carry, or None.  requests: (path, query, headers, body) of each v1/ request so far.
    """

    models: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    size: tuple[int, int] = (640, 480)
    detect: tuple[int, dict[str, str], Any] | None = None
    token: str | None = None
    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, str], bytes]] = field(default_factory=list)

    def reset(self) -> None:
        """All but the address as in a new server."""
        self.size, self.detect, self.token, self.requests = (640, 480), None, None, []

    def num_detects(self) -> int:
        return sum(path == "/v1/detect" for path, *_ in self.requests)

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"WWW-Authenticate": "Bearer"}, error("token_missing", "A token is needed.", "Send a token.")
        if path == "/v1/models":
            return 200, {}, {"models": self.models}
        if path != "/v1/detect":
            return 404, {}, error("not_found", f"There is no {path}.", "")
        if self.detect is not None:
            return self.detect
        found = [one for one in self.detections if one["score"] >= float(query["threshold"])]
        width, height = self.size
        result = {"source": "0", "width": width, "height": height, "detections": found}
        timings = {"decode": 1.5, "queue": 0.1, "inference": 20.25, "total": 22.0}
        return 200, {}, {"model": query["model"], "version": "1", "results": [result], "timings_ms": timings}


def sent_image(request: tuple[str, dict[str, str], dict[str, str], bytes]) -> tuple[str | None, bytes]:
    """The name and the content of the one file of a multipart form."""
    _, _, headers, body = request
    form = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    (part,) = form.get_payload()
    assert part.get_param("name", header="content-disposition") == "image"
    return part.get_filename(), part.get_payload(decode=True)


def error(code: str, message: str, remedy: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "remedy": remedy}}


@contextmanager
def serve_page(answers: Answers) -> Iterator[Answers]:
    """Serves the page and `answers` at `answers.url` until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = page_files().get(urlsplit(self.path).path)
            if file is None:
                self.reply_json()
            else:
                self.reply(200, file.headers, file.content)

        def do_POST(self) -> None:
            self.reply_json()

        def reply_json(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            headers = dict(self.headers.items())
            answers.requests.append((address.path, query, headers, body))
            status, more, value = answers.answer(address.path, query, headers)
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.reply(status, {"Content-Type": "application/json", **more}, content)

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        answers.url = f"http://127.0.0.1:{server.server_address[1]}/"
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()
