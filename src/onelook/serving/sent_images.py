"""The images of a request: sent as multipart, raw body, base64 in JSON or by address; decoded within limits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any, TypeVar, cast

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.images import decode_image
from onelook.serving.fetch import fetch
from onelook.serving.json_body import read_json
from onelook.serving.options import ServerOptions
from onelook.serving.service_error import ServiceError, client_gone

T = TypeVar("T")
_LONGEST_NAME = 120
_FIELDS = ("image", "images", "file", "files")


@dataclass(frozen=True)
class SentImage:
    """An image as it was sent. source: its file name or number.  content: the file's bytes; None for an address."""

    source: str
    content: bytes | None = None
    address: str = ""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request, of at most `max_bytes`; ServiceError 413 as soon as it is longer."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise ServiceError(
            415,
            "compressed",
            "Compressed requests are not read.",
            "Send it without Content-Encoding; images are small.",
        )
    body = bytearray()
    try:
        async for block in request.stream():
            body += block
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except ClientDisconnect:
        raise client_gone() from None
    return bytes(body)


def is_one_image(headers: Headers) -> bool:
    """Whether the body is taken as an image as it is: nothing in it has to be parsed."""
    return _kind(headers) not in ("multipart/form-data", "application/json")


def sent_images(headers: Headers, body: bytes, options: ServerOptions) -> list[SentImage]:
    """The images of a request by its Content-Type. ServiceError for what is no image or too many.

    A form or base64 of many bytes takes a while: call it in a thread, unless `is_one_image`.
    """
    kind = _kind(headers)
    if kind == "multipart/form-data":
        images = _now(_multipart(headers, body, options))
    elif kind == "application/json":
        images = _json(body, options)
    else:  # the bytes tell what they are; clients often send no type or a wrong one
        images = [SentImage("0", body)]
    if not images or any(image.content == b"" for image in images):
        raise ServiceError(
            400, "no_image", "The request holds no image.", "Send it as the body, as a multipart file, or as JSON."
        )
    return images


def fetched(sent: SentImage, options: ServerOptions, seconds: float) -> SentImage:
    """An image that was sent by its address, with its bytes. ServiceError where the host does not send them in time."""
    return replace(sent, content=fetch(sent.address, options.allow_url, options.max_bytes, seconds))


def decode(sent: SentImage, options: ServerOptions) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image that was sent with its bytes. ImageError or ServiceError."""
    content = sent.content
    assert content is not None
    try:
        header = read_header(content)
    except DamagedHeaderError:
        header = None  # the decoder says what is damaged
    if header is not None and header.height * header.width > options.max_pixels:
        raise ServiceError(
            413,
            "too_many_pixels",
            f"'{sent.source}' has {header.width} x {header.height} pixels; the limit is {options.max_pixels:,}.",
            "Make the image smaller.",
        )
    return decode_image(content, limit=options.max_pixels, name=sent.source)


def public_name(name: str | None, number: int) -> str:
    """The name of a file without folders and unprintable letters; its number where there is none."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_LONGEST_NAME] or str(number)


class _InMemory(MultiPartParser):
    """Keeps files in memory, whose size is bounded already, so that no disk is needed."""

    spool_max_size = 1 << 62


def _now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: the whole form is in memory, so that its parser has what it needs."""
    try:
        work.send(None)
    except StopIteration as ended:
        return cast(T, ended.value)
    finally:
        work.close()
    raise RuntimeError("the form's parser waits")


async def _multipart(headers: Headers, body: bytes, options: ServerOptions) -> list[SentImage]:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = _InMemory(headers, stream(), max_files=options.max_images, max_fields=options.max_images)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        said = getattr(error, "message", "")
        if "Too many files" in said:
            raise _too_many(options) from None
        raise ServiceError(
            400, "bad_form", f"The form cannot be read. {said}".strip(), "Send each image as a file."
        ) from None
    images: list[SentImage] = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            images.append(SentImage(public_name(value.filename, len(images)), await value.read()))
    await form.close()
    return images


def _json(body: bytes, options: ServerOptions) -> list[SentImage]:
    """{"image": X} or {"images": [X, ...]}, where X is base64, a data address, or {"base64" or "url", "name"}."""
    data = read_json(body)
    given = next((data[name] for name in _FIELDS if name in data), None) if isinstance(data, dict) else None
    entries = given if isinstance(given, list) else [] if given is None else [given]
    if len(entries) > options.max_images:
        raise _too_many(options)
    return [_entry(entry, number) for number, entry in enumerate(entries)]


def _entry(entry: Any, number: int) -> SentImage:
    if isinstance(entry, str):
        entry = {"url" if entry.startswith(("http://", "https://")) else "base64": entry}
    if not isinstance(entry, dict):
        entry = {}
    name = entry.get("name")
    source = public_name(name if isinstance(name, str) else None, number)
    if isinstance(entry.get("url"), str):
        return SentImage(source, None, entry["url"])
    text = entry.get("base64")
    if isinstance(text, str):
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            return SentImage(source, base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise ServiceError(400, "bad_base64", f"The image '{source}' is not base64.", "Encode its bytes.") from None
    raise ServiceError(
        400, "bad_json", f"The image {number} is neither base64 nor an address.", 'Send {"image": {"base64": "..."}}.'
    )


def _kind(headers: Headers) -> str:
    """The Content-Type without its parameters, in lower case; "" where there is none."""
    header = Message()
    header["content-type"] = headers.get("content-type", "")
    return header.get_content_type() if header["content-type"] else ""


def _too_large(max_bytes: int) -> ServiceError:
    return ServiceError(413, "too_large", f"The request has more than {max_bytes:,} bytes.", "Send less at once.")


def _too_many(options: ServerOptions) -> ServiceError:
    return ServiceError(
        413, "too_many_images", f"A request may have {options.max_images} images.", "Send several requests."
    )
