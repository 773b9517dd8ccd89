"""The HTTP server of pages for this machine only: `view --serve` and `train --watch`. No extra is needed.

Only 127.0.0.1 is listened on, and only requests to a name of this machine are answered, so that a page of another site
that is open in the same browser reads nothing (DNS rebinding). From another computer: ssh -L PORT:127.0.0.1:PORT.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from onelook.version import __version__

HOST = "127.0.0.1"
_MOST_CONNECTIONS = 32  # a browser opens six
_IDLE_SECONDS = 15.0  # of a connection that is kept open without a request
_LOCAL = (HOST, "localhost", "[::1]")  # names of this machine, as browsers write them


@dataclass(frozen=True)
class Answer:
    """What is sent for an address. cache: for how long a browser may keep it (Cache-Control)."""

    content: bytes
    media_type: str
    cache: str = "no-cache"


class LocalServer(ThreadingHTTPServer):
    """Answers GET and HEAD with `answer(path)`; None is 404. On this machine only, 32 connections at most.

    policy: what the pages may load (Content-Security-Policy).  port: 0 takes any free one.  OSError for a port that
    is taken.  `address` is what a browser opens.
    """

    daemon_threads = True
    block_on_close = False  # a browser that keeps its connection is not waited for
    allow_reuse_address = os.name != "nt"  # there, two programs could listen on one port

    def __init__(self, port: int, answer: Callable[[str], Answer | None], policy: str) -> None:
        self.answer, self.policy = answer, policy
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection; beyond the limit the connection is closed."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers the requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the browser has closed, or that is idle, is no error to show."""


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True  # a content is sent at once, not when the client has acknowledged its head
    server_version = f"onelook/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(whole=True)

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def _answer(self, *, whole: bool) -> None:
        path, status = self.path.partition("?")[0], HTTPStatus.OK
        found: Answer | None
        if re.sub(r":[0-9]+$", "", self.headers.get("Host", "")) not in _LOCAL:
            status, found = HTTPStatus.FORBIDDEN, Answer(b"This server is for this machine only.\n", "text/plain")
        elif path == "/favicon.ico":  # which browsers ask for
            status, found = HTTPStatus.NO_CONTENT, Answer(b"", "image/x-icon")
        else:
            found = self.server.answer(path)
        if found is None:
            status, found = HTTPStatus.NOT_FOUND, Answer(b"There is no such page or image.\n", "text/plain")
        self.send_response(status)
        headers = {"Content-Type": found.media_type, "Content-Length": str(len(found.content))}
        headers |= {"Cache-Control": found.cache, "Content-Security-Policy": self.server.policy}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(found.content)

    def log_message(self, format: str, *values: Any) -> None:
        """Requests are not logged."""
