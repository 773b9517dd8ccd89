"""The files of the page at `/`, and the HTTP headers that they are sent with.

The page is static: HTML, CSS and JavaScript modules of the package, without a build step. It requests `v1/models` and
`v1/detect` relative to its own address, so it also works behind a proxy that serves it under a path.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

_FOLDER = "page"
_MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "boxes.js": "text/javascript; charset=utf-8",
    "camera.js": "text/javascript; charset=utf-8",
    "detections.js": "text/javascript; charset=utf-8",
    "files.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # blob: is the image that the user chose
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text becomes HTML or code, in browsers that know this rule
        "trusted-types 'none'",
    )
)
"""No inline script or style, no `eval`, no other host, no frame around the page."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks with the ETag each time: an update of the package shows at once
}
"""The headers of every file of the page, beside `Content-Type` and `ETag`; the server adds `nosniff` everywhere."""


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    media_type: the value of `Content-Type`.  etag: the quoted value of `ETag`, made from the content.
    """

    content: bytes
    media_type: str
    etag: str

    @property
    def headers(self) -> dict[str, str]:
        """All headers of an answer with this file, except `Content-Length`."""
        return {"Content-Type": self.media_type, "ETag": self.etag, **HEADERS}


@lru_cache(maxsize=1)
def page_files() -> dict[str, PageFile]:
    """The files by the path of their request: `/` for the page, `/page/NAME` for what it loads."""
    folder = files("onelook.serving") / _FOLDER
    found = {}
    for name, media_type in _MEDIA_TYPES.items():
        content = (folder / name).read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        path = "/" if name == "index.html" else f"/{_FOLDER}/{name}"
        found[path] = PageFile(content, media_type, etag)
    return found
