"""A client of `onelook serve`: images to a server, detections back. Needs no PyTorch.

client = onelook.client.Client("http://127.0.0.1:8000")
detections = client.detect("dog.jpg", threshold=0.4)
"""

from __future__ import annotations

import http.client
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import urlencode, urlsplit

import numpy as np

from onelook.errors import UserError, reason_of
from onelook.types import Detections

Image = str | os.PathLike[str] | bytes | np.ndarray
"""A path, the bytes of an image file, or an (H, W, 3) uint8 RGB array."""


class ServerError(UserError):
    """The server's answer is an error. status: of HTTP, 0 where there was no answer.  code: a word for programs.

    retry_after: seconds after which the request may succeed; None where the server does not say.
    """

    def __init__(
        self, message: str, remedy: str = "", *, status: int = 0, code: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(message, remedy)
        self.status, self.code, self.retry_after = status, code, retry_after


class Client:
    """A server that is asked for detections.

    url: such as "http://127.0.0.1:8000".  token: one of the server's, if it needs one.  timeout: seconds of a request.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout: float = 60.0) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port, or of brackets
            usable = False
        if not usable:
            raise UserError(f"'{url}' is no address of a server.", "Give one such as http://127.0.0.1:8000.")
        token = None if token is None else token.strip()  # a file of one line ends with a newline
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UserError("The token has signs that a header cannot hold.", "Give one line of the server's file.")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._parts, self._token = parts, token

    @overload
    def detect(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well; it is taken as a path
        self,
        images: Image,
        *,
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Sequence[str | int] | None = ...,
        model: str | None = ...,
        version: str | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        tile_merge: Literal["nms", "nmm"] | None = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        images: Sequence[Image],
        *,
        threshold: float | None = ...,
        iou: float | None = ...,
        classes: Sequence[str | int] | None = ...,
        model: str | None = ...,
        version: str | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        tile_merge: Literal["nms", "nmm"] | None = ...,
    ) -> list[Detections]: ...
    def detect(
        self,
        images: Image | Sequence[Image],
        *,
        threshold: float | None = None,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        model: str | None = None,
        version: str | None = None,
        tile: int | None = None,
        overlap: float | None = None,
        tile_merge: Literal["nms", "nmm"] | None = None,
    ) -> Detections | list[Detections]:
        """The detections in an image; for a list of images, a list. Settings that are None are the server's.

        tile: side in pixels of the tiles that larger images are cut into; None is no tiles.

        Raises ServerError for every answer that is an error; `status` 503 with `retry_after` where the queue is full.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
        given: Sequence[Any] = images if several else [images]  # type: ignore[assignment]
        files = [(_name(one, number), _content(one)) for number, one in enumerate(given)]
        listed = None if classes is None else ",".join(map(str, classes))
        settings = {"threshold": threshold, "iou": iou, "classes": listed, "model": model, "version": version}
        settings |= {"tile": tile, "overlap": overlap, "tile_merge": tile_merge}
        query = urlencode({name: value for name, value in settings.items() if value is not None})
        body, kind = _form(files)
        answer = self._ask("POST", f"/v1/detect?{query}", body, {"Content-Type": kind})
        found = [_detections(entry) for entry in self._listed(answer, "results")]
        return found if several else found[0]

    def models(self) -> list[dict[str, Any]]:
        """The models of the server: name, version, classes, input size, runtime."""
        return self._listed(self._ask("GET", "/v1/models"), "models")

    def ready(self) -> bool:
        """Whether the server answers and takes requests."""
        try:
            self._ask("GET", "/v2/health/ready")
        except ServerError:
            return False
        return True

    def _listed(self, answer: Any, key: str) -> list[dict[str, Any]]:
        """The list in an answer. ServerError where a server of another kind answered."""
        listed = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise ServerError(f"The server at {self.url} is not one of Onelook.", "Check the address.", status=200)
        return listed

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.timeout)
        token = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, {**(headers or {}), **token})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = reason_of(error) if isinstance(error, OSError) else type(error).__name__
            raise ServerError(f"The server at {self.url} does not answer: {reason}.", "Check the address.") from error
        finally:
            connection.close()
        return _answer(response, content)


def _answer(response: http.client.HTTPResponse, content: bytes) -> Any:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if response.status == 200 and answer is not None:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    told = error if isinstance(error, dict) else {"message": error or f"The server answered {response.status}."}
    wait = response.headers.get("Retry-After", "")
    raise ServerError(
        str(told.get("message", "")),
        str(told.get("remedy", "")),
        status=response.status,
        code=str(told.get("code", "")),
        retry_after=int(wait) if wait.isdecimal() else None,
    )


def _name(image: Image, number: int) -> str:
    return Path(image).name if isinstance(image, str | os.PathLike) else str(number)


def _content(image: Image) -> bytes:
    """The bytes of an image file; arrays become PNG, so that no pixel changes."""
    if isinstance(image, np.ndarray):
        from onelook.draw import encode_image

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(
                f"An image is an (H, W, 3) uint8 RGB array, not {image.shape} {image.dtype}.", "Convert it."
            )
        return encode_image(image, ".png")
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"'{os.fspath(image)}' cannot be read: {reason_of(error)}.", "Check the path.") from error
    return bytes(image)


def _form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A multipart body (RFC 7578) and its type."""
    boundary = uuid.uuid4().hex
    parts = []
    for name, content in files:
        plain = name.replace("\\", "_").replace('"', "%22").replace("\r", "_").replace("\n", "_")
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{plain}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        parts += [head.encode(errors="replace"), content, b"\r\n"]
    return b"".join((*parts, f"--{boundary}--\r\n".encode())), f"multipart/form-data; boundary={boundary}"


def _detections(entry: dict[str, Any]) -> Detections:
    rows = entry["detections"]
    names = {row["label"]: row["name"] for row in rows}
    known = tuple(names.get(label, str(label)) for label in range(max(names, default=-1) + 1))
    return Detections(
        np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
        np.array([row["score"] for row in rows], np.float32),
        np.array([row["label"] for row in rows], np.int64),
        known,
        source=entry["source"],
        size=(entry["height"], entry["width"]),
    )
