"""What every request passes first: its id, the host and origin it names, its token, and whether the queue has room.

It refuses before a body is read or a route is looked up: under ten times the load that can be served, nine of ten
requests end here. It also writes the log and counts the answers.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onelook.serving.service import Service
from onelook.serving.service_error import ServiceError

log = logging.getLogger("onelook.serving")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_OPEN = ("/v2/health/",)  # what orchestrators ask without a token
_QUIET = ("/v2/health/", "/metrics")


class Gate:
    """ASGI middleware. page: paths that need no token, because they are the page's own files."""

    def __init__(self, app: ASGIApp, service: Service, page: Iterable[str] = ()) -> None:
        self.app, self.service = app, service
        self.page = frozenset(page)
        self._tokens = [token.encode() for token in service.options.tokens]
        self._refused, self._logged = 0, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, headers = time.monotonic(), dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope["onelook"] = facts = {"model": "", "version": ""}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            refusal = self._refusal(scope, headers, facts)
            if refusal is not None:
                await _send(refusal, scope["path"], answer)
            else:
                await self.app(scope, receive, answer)
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id.decode(), "path": scope["path"]})
            if not status:
                error = ServiceError(500, "internal", "The server failed at this request.", "Report it with its id.")
                await _send(error, scope["path"], answer)
        finally:
            self._record(scope, facts, status, time.monotonic() - started, request_id.decode())

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], facts: dict[str, str]) -> ServiceError | None:
        """The answer to a request that goes no further; None for all others."""
        options, path = self.service.options, scope["path"]
        host = headers.get(b"host", b"").decode("latin-1")
        if not options.any_host and _parts(f"//{host}").hostname not in _LOCAL:
            return ServiceError(
                403, "wrong_host", "The server is for this machine only.", "Start it with --host 0.0.0.0 for others."
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        foreign = origin not in options.allow_origin and _parts(origin).netloc.lower() != host.lower()
        if origin and scope["method"] == "POST" and foreign:
            return ServiceError(
                403,
                "wrong_origin",
                "Pages of other sites may not use this server.",
                "Start it with --allow-origin ORIGIN.",
            )
        if self._tokens and not path.startswith(_OPEN) and path not in self.page and not self._has_token(headers):
            return ServiceError(
                401, "no_token", "The token is missing or wrong.", "Send the header Authorization: Bearer TOKEN."
            )
        if scope["method"] == "POST":
            return self._overload(path, scope["query_string"], facts)
        return None

    def _has_token(self, headers: dict[bytes, bytes]) -> bool:
        """Compares in constant time, with every token."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        found = [hmac.compare_digest(token, given.strip()) for token in self._tokens]
        return kind.lower() == b"bearer" and any(found)

    def _overload(self, path: str, query: bytes, facts: dict[str, str]) -> ServiceError | None:
        if path == "/v1/detect":
            values = parse_qs(query.decode("latin-1")) if query else {}
            name, version = values.get("model", [None])[0], values.get("version", [None])[0]
        elif (match := _INFER.fullmatch(path)) is not None:
            name, version = match.groups()
        else:
            return None
        model = self.service.repository.full(name, version)
        if model is None:
            return None
        facts.update(model=model.name, version=model.version)
        return model.overloaded()

    def _record(self, scope: Scope, facts: dict[str, str], status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        if status == 503 and "route" not in scope:
            route = "/v1/detect" if scope["path"] == "/v1/detect" else "/v2/models/{model}/infer"
        labels = (route, str(status), facts["model"], facts["version"])
        self.service.metrics.requests.labels(*labels).inc()
        if status == 503 and facts["model"]:
            self._record_refusal(facts)
            return
        entry: dict[str, Any] = {
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "client": (scope.get("client") or ("",))[0],
            **{name: value for name, value in facts.items() if value},
        }
        level = logging.DEBUG if scope["path"].startswith(_QUIET) and status < 400 else logging.INFO
        log.log(level, "request", extra=entry)

    def _record_refusal(self, facts: dict[str, str]) -> None:
        """One line a second, however many are refused: a log must not become the load."""
        self._refused += 1
        now = time.monotonic()
        if now - self._logged >= 1.0:
            log.warning("requests refused", extra={**facts, "status": 503, "count": self._refused})
            self._refused, self._logged = 0, now


def _parts(address: str) -> SplitResult:
    """The parts of an address; empty ones where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


async def _send(error: ServiceError, path: str, send: Any) -> None:
    body = json.dumps(error.body(path)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
