"""The ASGI application: the routes, the gate in front of them, and errors as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from onelook.errors import UserError
from onelook.serving import detect_routes, protocol_routes
from onelook.serving.gate import Gate
from onelook.serving.metrics import CONTENT_TYPE
from onelook.serving.page_files import PageFile, page_files
from onelook.serving.repository import Repository
from onelook.serving.service import DEADLINE, Service, service_of
from onelook.serving.service_error import ServiceError, of_user_error
from onelook.serving.tensors import HEADER_LENGTH
from onelook.version import __version__

_CODES = {404: "not_found", 405: "wrong_method"}


def create_application(repository: Repository) -> FastAPI:
    """The server of a repository's models. Its threads end with the application's lifespan."""
    options = repository.options
    service = Service(repository, options, repository.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        repository.close(timeout=options.deadline)
        service.close()

    app = FastAPI(
        title="Onelook",
        version=__version__,
        description="Object detection: images for people and programs, tensors by the open inference protocol v2.",
        docs_url=None,  # its files would come from the network
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(detect_routes.router)
    app.include_router(protocol_routes.router)
    app.add_api_route(
        "/metrics",
        metrics,
        summary="What Prometheus reads",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["operation"],
    )
    for kind in (ServiceError, UserError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    _complete_openapi(app)
    page = _mount_page(app)
    app.add_middleware(Gate, service=service, page=page)
    if options.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID", DEADLINE, HEADER_LENGTH],
            expose_headers=["X-Request-ID", "Retry-After", HEADER_LENGTH],
        )
    return app


async def metrics(request: Request) -> Response:
    """Requests, queue, batches and latencies, in the text format of Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)


async def _answer(request: Request, error: Exception) -> Response:
    """Every error as the JSON of its route."""
    if isinstance(error, UserError):
        error = of_user_error(error)
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ())[1:])
        error = ServiceError(400, "bad_setting", f"'{where}' is not usable: {first.get('msg', '')}.", "Correct it.")
    elif isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "bad_request")
        message = {"not_found": "There is nothing at this address.", "wrong_method": "The method is not allowed here."}
        text = message.get(code, str(error.detail))
        error = ServiceError(error.status_code, code, text, "GET /openapi.json lists the addresses.")
    assert isinstance(error, ServiceError)
    # ASCII: a text of the request that is quoted may be no UTF-8
    content = json.dumps(error.body(request.scope["path"]))
    return Response(content, error.status, headers=error.headers, media_type="application/json")


def _complete_openapi(app: FastAPI) -> None:
    """Adds the schemas of bodies that the routes read themselves."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for name, part in {**detect_routes.components(), **protocol_routes.components()}.items():
            schemas.setdefault(name, part)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _mount_page(app: FastAPI) -> list[str]:
    """Serves the page at `/` with its security headers. Returns the addresses of its files."""
    files = page_files()
    for path, file in files.items():
        app.add_route(path, _page_route(file), methods=["GET"], include_in_schema=False)
    return list(files)


def _page_route(file: PageFile) -> Callable[[Request], Response]:
    def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=file.headers)
        return Response(file.content, headers=file.headers)

    return send
