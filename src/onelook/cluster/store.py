"""Files by path or by address: this machine's through `files`, those of object stores through fsspec.

Every write is whole or not at all. S3, Google Cloud Storage and Azure replace an object in one step; elsewhere the
content is written under another name, and renamed.
"""

from __future__ import annotations

import os
import posixpath
import time
from pathlib import Path
from typing import Any

from onelook.data import remote
from onelook.data.images import MAX_FILE
from onelook.errors import ImageError, UserError, is_address, reason_of
from onelook.files import write_bytes

# Object stores, which replace an object in one step.
_REPLACE_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
_TRIES, _PAUSE = 3, 0.5  # of a request that fails for another reason than that there is no such file


def local_path(text: str) -> str:
    """The path of a file:// address; other texts as they are."""
    return text[len("file://") :] if text.lower().startswith("file://") else text


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it; it always asks what there is. Raises DataError."""
    return remote.file_system(remote.url_of(address) or address, use_listings_cache=False)


def read_address(address: str) -> bytes:
    """The content of an image file; ImageError where it cannot be fetched, or is larger than any image."""
    found, path = file_system(address)
    for left in reversed(range(_TRIES)):
        try:
            content = found.cat_file(path, start=0, end=MAX_FILE + 1)  # one request, of bounded size
            break
        except FileNotFoundError as error:
            raise ImageError(f"'{address}' does not exist.", "Check the address.") from error
        except PermissionError as error:
            raise ImageError(f"'{address}' may not be read.", "Check the credentials of the machine.") from error
        except Exception as error:  # each file system has errors of its own
            if not left:
                raise ImageError(f"'{address}' cannot be fetched: {_first_line(error)}.", "Try it again.") from error
            time.sleep(_PAUSE * 4 ** (_TRIES - 1 - left))
    if len(content) > MAX_FILE:
        raise ImageError(f"'{address}' is larger than any image that can be decoded.", "Name an image file.")
    return bytes(content)


class Store:
    """A folder on this machine, or at an address, that results are written to."""

    def __init__(self, folder: str) -> None:
        self.folder = local_path(folder)
        self._system: Any = None
        self._root = ""
        if is_address(folder):
            self._system, self._root = file_system(folder)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all. UserError where that is not possible."""
        try:
            if self._system is None:
                write_bytes(Path(self.folder, name), content)
                return
            path = posixpath.join(self._root, name)
            if _protocols(self._system) & _REPLACE_WHOLE:
                self._system.pipe_file(path, content)
                return
            self._system.makedirs(posixpath.dirname(path), exist_ok=True)
            draft = f"{path}.{os.urandom(8).hex()}.part"
            self._system.pipe_file(draft, content)
            self._system.mv(draft, path)
        except OSError as error:
            raise UserError(
                f"'{name}' cannot be written to '{self.folder}': {reason_of(error)}.", "Check the place and its rights."
            ) from error

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            if self._system is None:
                return Path(self.folder, name).read_bytes()
            return bytes(self._system.cat_file(posixpath.join(self._root, name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"'{name}' in '{self.folder}' cannot be read: {reason_of(error)}.", "Check it.") from error

    def names(self, folder: str) -> set[str]:
        """The names in a folder of it; none where it does not exist."""
        try:
            if self._system is None:
                return set(os.listdir(Path(self.folder, folder)))
            listed = self._system.ls(posixpath.join(self._root, folder), detail=False)
            return {posixpath.basename(path) for path in listed}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise UserError(f"'{self.folder}' cannot be listed: {reason_of(error)}.", "Check the folder.") from error


def _protocols(system: Any) -> set[str]:
    named = system.protocol
    return {named} if isinstance(named, str) else set(named)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
