"""The server of `onelook view --serve`: one page, and the images of the data set by their numbers. No extra is needed.

A request names no file, only the number of an image, so nothing outside of the data set can be asked for; and what is
sent is an image by its header, or one that was decoded here, whatever an annotation names.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any

from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.members import read_image_file
from onelook.data.split import Dataset
from onelook.errors import ImageError, UserError, reason_of
from onelook.version import __version__

HOST = "127.0.0.1"
PORT = 8100
_MOST_CONNECTIONS = 32  # a browser opens six
_IDLE_SECONDS = 15.0
_LARGEST_FILE = 1 << 28  # bytes of an image file
_AS_THEY_ARE = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WebP": "webp"}  # what all browsers show
_IMAGE = re.compile(r"/image/([0-9]{1,9})")
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ViewServer(ThreadingHTTPServer):
    """Serves a page at `/`, and at `/image/N` the N-th image of all splits, counted from 0; on this machine only.

    port: 0 takes any free one.  UserError for a port that is taken.  `address` is what a browser opens. Use it as a
    context manager; `show` serves until Ctrl-C.
    """

    page: bytes
    splits: tuple[Dataset, ...]
    ends: list[int]
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"  # there, two programs could listen on one port

    def __init__(self, port: int = PORT) -> None:
        self.page, self.splits, self.ends = b"", (), []
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        if not 0 <= port <= 65535:
            raise UserError(f"The page cannot be served on port {port}.", "Give a port from 0 to 65535: --port 8100.")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"The page cannot be served on {HOST}, port {port}: {reason_of(error)}.",
                "Choose another port; --port 0 takes any free one.",
            ) from error

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def show(self, page: str, splits: Sequence[Dataset]) -> None:
        """Serves a page, and the images of these splits, until Ctrl-C."""
        self.page, self.splits = page.encode(), tuple(splits)
        self.ends = list(accumulate(map(len, splits)))
        with suppress(KeyboardInterrupt):
            self.serve_forever()

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

    def image(self, number: int) -> tuple[bytes, str] | None:
        """The bytes and the media type of an image; None where there is none of this number, or it cannot be shown."""
        split = bisect_right(self.ends, number)
        if split == len(self.splits):
            return None
        dataset = self.splits[split]
        file = dataset.image_file(number - (self.ends[split] - len(dataset)))
        try:
            content = read_image_file(file, _LARGEST_FILE)
            header = read_header(content)
            if header is None:
                return None
            if header.format in _AS_THEY_ARE and (header.orientation == 1 or header.format == "JPEG"):
                return content, f"image/{_AS_THEY_ARE[header.format]}"
            from onelook.data.images import decode_image
            from onelook.draw import encode_image

            return encode_image(decode_image(content, name=str(file))), "image/jpeg"
        except (OSError, ImageError, UserError, DamagedHeaderError):
            return None


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server_version = f"onelook/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(whole=True)

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def _answer(self, *, whole: bool) -> None:
        # A page of another site whose name leads to this machine sends that name: it gets nothing.
        host = re.sub(r":[0-9]+$", "", self.headers.get("Host", ""))
        if host not in _LOCAL:
            self._send(HTTPStatus.FORBIDDEN, b"This server is for this machine only.\n", "text/plain", whole=whole)
            return
        path = self.path.partition("?")[0]
        if path == "/":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8", whole=whole)
            return
        if path == "/favicon.ico":  # which browsers ask for
            self._send(HTTPStatus.NO_CONTENT, b"", "image/x-icon", whole=whole)
            return
        asked = _IMAGE.fullmatch(path)
        found = None if asked is None else self.server.image(int(asked[1]))
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such page or image.\n", "text/plain", whole=whole)
            return
        self._send(HTTPStatus.OK, *found, whole=whole)

    def _send(self, status: HTTPStatus, content: bytes, media_type: str, *, whole: bool) -> None:
        self.send_response(status)
        headers = {"Content-Type": media_type, "Content-Length": str(len(content)), "Cache-Control": "no-cache"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        headers["Content-Security-Policy"] = _POLICY
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        """Requests are not logged."""
