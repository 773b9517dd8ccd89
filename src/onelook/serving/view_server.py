"""The server of `onelook view --serve`: one page, and the images of the data set by their numbers. No extra is needed.

A request names no file, only the number of an image, so nothing outside of the data set can be asked for; and what is
sent is an image by its header, or one that was decoded here, whatever an annotation names.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.members import read_image_file
from onelook.data.split import Dataset
from onelook.errors import ImageError, UserError, reason_of
from onelook.serving.local_server import HOST, Answer, LocalServer

PORT = 8100
_LARGEST_FILE = 1 << 28  # bytes of an image file
_AS_THEY_ARE = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WebP": "webp"}  # what all browsers show
_IMAGE = re.compile(r"/image/([0-9]{1,9})")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ViewServer(LocalServer):
    """Serves a page at `/`, and at `/image/N` the N-th image of all splits, counted from 0; on this machine only.

    port: 0 takes any free one.  UserError for a port that is taken.  Use it as a context manager; `show` serves until
    Ctrl-C.
    """

    def __init__(self, port: int = PORT) -> None:
        self.page, self.splits, self.ends = b"", tuple[Dataset, ...](), list[int]()
        if not 0 <= port <= 65535:
            raise UserError(f"The page cannot be served on port {port}.", "Give a port from 0 to 65535: --port 8100.")
        try:
            super().__init__(port, self.content, _POLICY)
        except OSError as error:
            raise UserError(
                f"The page cannot be served on {HOST}, port {port}: {reason_of(error)}.",
                "Choose another port; --port 0 takes any free one.",
            ) from error

    def show(self, page: str, splits: Sequence[Dataset]) -> None:
        """Serves a page, and the images of these splits, until Ctrl-C."""
        self.page, self.splits = page.encode(), tuple(splits)
        self.ends = list(accumulate(map(len, splits)))
        with suppress(KeyboardInterrupt):
            self.serve_forever()

    def content(self, path: str) -> Answer | None:
        """What stands at an address; None where nothing does."""
        if path == "/":
            return Answer(self.page, "text/html; charset=utf-8")
        asked = _IMAGE.fullmatch(path)
        return None if asked is None else self.image(int(asked[1]))

    def image(self, number: int) -> Answer | None:
        """An image; None where there is none of this number, or it cannot be shown."""
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
                return Answer(content, f"image/{_AS_THEY_ARE[header.format]}")
            from onelook.data.images import decode_image
            from onelook.draw import encode_image

            return Answer(encode_image(decode_image(content, name=str(file))), "image/jpeg")
        except (OSError, ImageError, UserError, DamagedHeaderError):
            return None
