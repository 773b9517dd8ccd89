"""The open inference protocol v2 over HTTP: health, metadata, inference, and its model repository extension."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from onelook.errors import UserError
from onelook.serving.batching import Job
from onelook.serving.json_body import read_json
from onelook.serving.networks import TensorSpec
from onelook.serving.schemas import (
    Health,
    InferAnswer,
    InferBody,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    RepositoryEntry,
    ServerMetadata,
    TensorMetadata,
)
from onelook.serving.served_model import Tensors
from onelook.serving.service import before_deadline, note_model, run_job, service_of
from onelook.serving.service_error import ServiceError, without_paths
from onelook.serving.tensors import HEADER_LENGTH, read_request, write_response
from onelook.version import __version__

router = APIRouter(tags=["open inference protocol v2"])
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProtocolError, "description": "The request is wrong."},
    401: {"model": ProtocolError, "description": "The token is missing or wrong."},
    404: {"model": ProtocolError, "description": "There is no such model or version."},
}
_INFER_ERRORS: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    413: {"model": ProtocolError, "description": "The request is larger than the limits."},
    503: {"model": ProtocolError, "description": "The queue is full: see Retry-After."},
    504: {"model": ProtocolError, "description": "The request was not done before its deadline."},
}
_JSON = {"schema": {"$ref": "#/components/schemas/InferBody"}}
_INFER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": _JSON,
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "schema": {"type": "integer"},
            "description": "length of the JSON in front of binary tensor data",
        }
    ],
}
_MOST_SETTINGS = 1 << 16  # bytes
EXTENSIONS = ["binary_tensor_data", "model_repository"]


@router.get("/v2", response_model=ServerMetadata, summary="The server")
async def server_metadata() -> ServerMetadata:
    """Name, version and the extensions of the protocol that are served."""
    return ServerMetadata(name="onelook", version=__version__, extensions=EXTENSIONS)


@router.get(
    "/v2/health/live",
    response_model=Health,
    response_model_exclude_none=True,
    responses={503: {"model": Health}},
    summary="Live",
)
async def live(request: Request, response: Response) -> Health:
    """503 where a model's thread has ended or is held up in one run: the process should be restarted."""
    is_live = service_of(request).repository.live()
    response.status_code = 200 if is_live else 503
    return Health(live=is_live)


@router.get(
    "/v2/health/ready",
    response_model=Health,
    response_model_exclude_none=True,
    responses={503: {"model": Health}},
    summary="Ready",
)
async def ready(request: Request, response: Response) -> Health:
    """503 while no model serves, while a known one serves in no version, and while the server drains."""
    is_ready = service_of(request).repository.ready()
    response.status_code = 200 if is_ready else 503
    return Health(ready=is_ready)


@router.get("/v2/models/{model}", response_model=ModelMetadata, responses=_ERRORS, summary="A model")
@router.get(
    "/v2/models/{model}/versions/{version}", response_model=ModelMetadata, responses=_ERRORS, summary="A version"
)
async def model_metadata(request: Request, model: str, version: str | None = None) -> ModelMetadata:
    """The inputs and outputs of a model."""
    repository = service_of(request).repository
    served = repository.find(model, version)
    note_model(request, served)
    return ModelMetadata(
        name=served.name,
        versions=repository.versions(model) if version is None else [served.version],
        platform=served.facts.platform,
        inputs=[_tensor(spec) for spec in served.facts.inputs],
        outputs=[_tensor(spec) for spec in served.facts.outputs],
    )


@router.get("/v2/models/{model}/ready", response_model=ModelReady, responses=_ERRORS, summary="A model is ready")
@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    response_model=ModelReady,
    responses=_ERRORS,
    summary="A version is ready",
)
async def model_ready(request: Request, response: Response, model: str, version: str | None = None) -> ModelReady:
    """404 for a model that is not loaded, 503 while the server drains."""
    repository = service_of(request).repository
    served = repository.find(model, version)
    note_model(request, served)
    response.status_code = 503 if repository.draining else 200
    return ModelReady(name=served.name, ready=not repository.draining)


@router.post(
    "/v2/models/{model}/infer",
    response_model=InferAnswer,
    responses=_INFER_ERRORS,
    openapi_extra=_INFER,
    summary="Run a model",
)
@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_model=InferAnswer,
    responses=_INFER_ERRORS,
    openapi_extra=_INFER,
    summary="Run a version of a model",
)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """The network's outputs for its input tensors, as JSON or as bytes behind the JSON.

    A request is one run of the network by itself, so its outputs are, byte for byte, those of a local run.
    """
    service, started = service_of(request), time.monotonic()
    deadline = service.deadline(request)
    with service.repository.admit(model, version) as served:
        note_model(request, served)
        body = await service.body(request, deadline)
        header, facts = request.headers.get(HEADER_LENGTH), served.facts
        wanted = await service.decode(read_request, body, header, facts.inputs, facts.outputs)
        if wanted.timeout is not None:
            deadline = min(deadline, started + wanted.timeout)
        tensors = Tensors({**served.default_inputs(), **wanted.feed}, tuple(wanted.outputs))
        job = Job(tensors, None, deadline, started + served.longest_wait)
        result = await before_deadline(request, deadline, run_job(served, job))
        content, length = await service.decode(write_response, wanted, result.value, served.name, served.version)
        served.stages["total"].observe(time.monotonic() - started)
    headers = {} if length is None else {HEADER_LENGTH: str(length)}
    return Response(
        content, headers=headers, media_type="application/json" if length is None else "application/octet-stream"
    )


@router.post(
    "/v2/repository/index", response_model=list[RepositoryEntry], responses=_ERRORS, summary="List the repository"
)
async def repository_index(request: Request) -> list[RepositoryEntry]:
    """Every known model and version; READY, or UNAVAILABLE with the reason."""
    service = service_of(request)
    body = _parameters(await _small_body(request))
    found = service.repository.index()
    return [
        RepositoryEntry(name=one.name, version=one.version, state=one.state, reason=one.reason)
        for one in found
        if one.state == "READY" or body.get("ready") is not True
    ]


@router.post("/v2/repository/models/{model}/load", responses=_ERRORS, summary="Load a model, or load it again")
async def load(request: Request, model: str) -> dict[str, str]:
    """Loads every version of a known model from where it came from. A file that cannot be used changes nothing."""
    service = service_of(request)
    _check_allowed(request)
    if _parameters(await _small_body(request)).get("parameters"):
        raise ServiceError(
            400, "bad_request", "Models are loaded from the server's own files.", "Send no config and no files."
        )
    try:
        await asyncio.get_running_loop().run_in_executor(None, service.repository.reload, model)
    except UserError as error:
        message = without_paths(f"'{model}' was not loaded: {error.message}")
        raise ServiceError(400, "not_loaded", message, without_paths(error.remedy)) from error
    return {}


@router.post("/v2/repository/models/{model}/unload", responses=_ERRORS, summary="Unload a model")
async def unload(request: Request, model: str) -> dict[str, str]:
    """Takes all versions of a model out of service; requests that run are finished. `load` brings it back."""
    service = service_of(request)
    _check_allowed(request)
    await _small_body(request)
    service.repository.find(model)
    service.repository.remove(model)
    return {}


def _check_allowed(request: Request) -> None:
    """ServiceError 403 where the server has no tokens: whoever reaches it could unload its models."""
    if not service_of(request).options.tokens:
        raise ServiceError(
            403, "no_tokens", "Loading and unloading need a token.", "Start the server with --token-file FILE."
        )


async def _small_body(request: Request) -> bytes:
    """A body of settings: no queue bounds how many of these are read at once, so each is small."""
    service = service_of(request)
    return await service.body(request, service.deadline(request), most=_MOST_SETTINGS)


def _parameters(body: bytes) -> dict[str, Any]:
    found = read_json(body) if body.strip() else {}
    if not isinstance(found, dict):
        raise ServiceError(400, "bad_json", "The body is no JSON object.")
    return found


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


def components() -> dict[str, Any]:
    """The schema that the inference routes refer to, for OpenAPI."""
    schema = InferBody.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "InferBody": schema}
