"""Errors as answers: a status, a code for programs, a message and a remedy, without any path of this machine."""

from __future__ import annotations

import re
from typing import Any

from onelook.errors import ConfigError, ExportError, ImageError, MissingDependencyError, UserError

_PATH = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?[/\\](?:[^\s'\"<>:;,/\\]+[/\\])*([^\s'\"<>:;,/\\]+)")
_QUOTED_PATH = re.compile(r"'(?:[^'\n]*[/\\])([^'/\\\n]*)'")


class ServiceError(Exception):
    """The answer to a request that cannot be served.

    status: of HTTP.  code: a short word that programs can compare.  retry_after: seconds after which the same request
    may succeed.
    """

    def __init__(self, status: int, code: str, message: str, remedy: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self, path: str) -> dict[str, Any]:
        """The answer's JSON: the protocol knows a text only (`/v2`)."""
        if path.startswith("/v2"):
            return {"error": f"{self.message} {self.remedy}".strip()}
        return {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}


def without_paths(text: str) -> str:
    """The text with file names in the place of paths: an answer tells nothing about the machine's folders."""
    return _PATH.sub(r"\1", _QUOTED_PATH.sub(r"'\1'", text))


def of_user_error(error: UserError) -> ServiceError:
    """The answer to a mistake that the library found in a request."""
    message, remedy = without_paths(error.message), without_paths(error.remedy)
    if isinstance(error, ImageError):
        return ServiceError(422, "bad_image", message, remedy)
    if isinstance(error, ExportError):
        return ServiceError(500, "model_failed", message, remedy)
    if isinstance(error, MissingDependencyError):
        return ServiceError(501, "missing_package", message, "Install the package where the server runs.")
    return ServiceError(400, "bad_setting" if isinstance(error, ConfigError) else "bad_request", message, remedy)
