"""Files at URLs (s3://, gs://, az://, http://, ...), read in parts through fsspec.

fsspec and what it needs for a scheme (s3fs, gcsfs, adlfs, aiohttp) are installed by the user; without them the error
names the command.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from onelook.errors import DataError, missing_package

T = TypeVar("T")

# Two letters at least: `C:` is a drive. A `Path` of a URL has one slash.
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+(?:::[a-zA-Z][a-zA-Z0-9+.-]+)*):/+(?=[^/])")
_LOCAL = ("file", "local")
_WAITS = (1.0, 3.0, 9.0)  # seconds before a failed read is tried again: a store may refuse some of many requests
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, NotImplementedError)
_REQUESTS = 16  # at a time
# The package behind a scheme of fsspec.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
_BLOCK = 4 << 20  # bytes that are read ahead where a file is read from its beginning


class Url(str):
    """A URL. `name` is its last part, as of a `Path`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return self.rstrip("/").rpartition("/")[2]

    def is_file(self) -> bool:
        """Returns False: it is not on this computer."""
        return False


def url_of(place: str | os.PathLike[str]) -> Url | None:
    """The URL that a text or a `Path` holds; None where it is a path of this computer."""
    text = os.fspath(place)
    found = _URL.match(text)
    if found is None or ("://" not in text and os.path.exists(text)):
        return None
    root = "/" if found[1].rpartition("::")[2] in _LOCAL else ""
    return Url(f"{found[1]}://{root}{text[found.end() :]}")


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes `start` to before `stop` of the file at a URL; fewer where it ends before. Raises `DataError`."""
    system, path = file_system(url)
    return _tried(url, lambda: system.cat_file(path, start=start, end=stop))


def file_facts(urls: Sequence[str]) -> list[tuple[int, str]]:
    """(bytes, what changes with the content) of each file. Raises `DataError` naming the first that is not there."""

    def facts(url: str) -> tuple[int, str]:
        system, path = file_system(url)
        found = _tried(url, lambda: system.info(path))
        if not isinstance(found.get("size"), int):
            raise DataError(f"'{url}' does not tell its size, so no part of it can be read.", "Copy it to a disk.")
        marks = (found.get(key) for key in ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime"))
        return found["size"], "|".join(str(mark) for mark in marks if mark is not None)

    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(facts, urls))


def exists(url: str) -> bool:
    """Whether there is a file or a folder at a URL. Raises `DataError` where the store does not answer."""
    system, path = file_system(url)
    return bool(_tried(url, lambda: system.exists(path)))


def matching(pattern: str) -> list[str]:
    """The URLs that a pattern with `*`, `?` or `[...]` matches, sorted. Raises `DataError`."""
    system, path = file_system(pattern)
    found = _tried(pattern, lambda: system.glob(path))
    before = pattern[: pattern.rfind("::") + 2] if "::" in pattern else ""  # such as a cache, which the names lack
    return sorted(before + str(system.unstrip_protocol(name)).removeprefix(before) for name in found)


@contextmanager
def open_url(url: str) -> Iterator[BinaryIO]:
    """The file at a URL, to be read from its beginning; parts may be passed over. Raises `DataError`."""
    system, path = file_system(url)
    with _tried(url, lambda: system.open(path, "rb", block_size=_BLOCK, cache_type="readahead")) as file:
        yield file


def file_system(url: str, **settings: Any) -> tuple[Any, str]:
    """fsspec's file system for a URL, which it keeps for the next time, and the path in it. Raises `DataError`.

    settings: of the file system, as fsspec names them.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing_package("fsspec", f"Reading the URL '{url}'") from None
    try:
        return url_to_fs(url, **settings)
    except ImportError as error:
        package = _PACKAGES.get(url.partition("://")[0].lower(), "")
        remedy = f"Install it with: pip install {package}" if package else "Install what fsspec needs for it."
        raise DataError(f"'{url}' needs a package that is not installed: {error}", remedy) from error
    except ValueError as error:  # the scheme is unknown
        raise DataError(f"'{url}' cannot be read: {error}.", "Check the address.") from error


def _tried(url: str, read: Callable[[], T]) -> T:
    """The result of `read`, which is tried again where the network fails."""
    for wait in (*_WAITS, None):
        try:
            return read()
        except Exception as error:  # each store raises its own kinds
            if wait is None or isinstance(error, _LASTING):
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise DataError(
                    f"'{url}' cannot be read: {reason}.", "Check the address, the credentials and the network."
                ) from error
            time.sleep(wait)
    raise AssertionError  # the last round returns or raises
