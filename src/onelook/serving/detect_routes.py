"""`POST /v1/detect`: images in, JSON or a drawn image out. `GET /v1/models`: what can be asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter, Query, Request, Response

from onelook.draw import draw_detections, encode_image, enlarge_small_image
from onelook.errors import ImageError, UserError
from onelook.ops.merge import MergeKind
from onelook.ops.tile_grid import LARGEST, MOST_OVERLAP, OVERLAP, SMALLEST
from onelook.predict.tiles import MERGE, chosen_tiles
from onelook.serving.batching import Job, JobResult
from onelook.serving.schemas import DetectAnswer, ErrorAnswer, JsonImages, ModelsAnswer, ServedModelInfo
from onelook.serving.sent_images import SentImage, decode, is_one_image, sent_images
from onelook.serving.served_model import ResizedImage, ServedModel
from onelook.serving.service import Service, before_deadline, note_model, run_job, service_of
from onelook.serving.service_error import ServiceError
from onelook.serving.tiled import DetectSettings, detect_tiles, gather_or_cancel
from onelook.types import Detections

router = APIRouter(tags=["detection"])
_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request is wrong."},
    401: {"model": ErrorAnswer, "description": "The token is missing or wrong."},
    404: {"model": ErrorAnswer, "description": "There is no such model or version."},
    413: {"model": ErrorAnswer, "description": "The request is larger than the limits."},
    422: {"model": ErrorAnswer, "description": "An image cannot be decoded."},
    503: {"model": ErrorAnswer, "description": "The queue is full: see Retry-After."},
    504: {"model": ErrorAnswer, "description": "The request was not done before its deadline."},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _FORM,
            "application/json": {"schema": {"$ref": "#/components/schemas/JsonImages"}},
            **dict.fromkeys(("application/octet-stream", "image/jpeg", "image/png", "image/webp"), _BINARY),
        },
    }
}


@dataclass(frozen=True)
class ImageAnswer:
    """One image with its detections. image: the original pixels, where they are to be drawn on."""

    source: str
    found: Detections
    image: np.ndarray | None
    decode: float
    result: JobResult


@router.post(
    "/v1/detect",
    response_model=DetectAnswer,
    responses={**_ERRORS, 200: {"content": dict.fromkeys(_SUFFIXES, _BINARY), "description": "Detections."}},
    openapi_extra=_BODY,
    summary="Find objects in images",
)
async def detect(
    request: Request,
    *,
    model: Annotated[str | None, Query(description="name of the model; the first one unless given")] = None,
    version: Annotated[str | None, Query(description="version of the model; the newest one unless given")] = None,
    threshold: Annotated[float | None, Query(ge=0, le=1, description="least score of a detection")] = None,
    iou: Annotated[float | None, Query(ge=0, le=1, description="greatest overlap of two boxes of a class")] = None,
    classes: Annotated[str | None, Query(description="names or numbers of classes, separated by commas")] = None,
    tile: Annotated[
        int | None, Query(ge=SMALLEST, le=LARGEST, description="side in pixels of tiles to cut into")
    ] = None,
    overlap: Annotated[float, Query(ge=0, le=MOST_OVERLAP, description="share of a tile in common with the next")] = (
        OVERLAP
    ),
    tile_merge: Annotated[
        MergeKind, Query(description="of an object in several tiles: its best box, or parts joined")
    ] = MERGE,
) -> Response:
    """Objects in one or several images, as JSON; or, by `Accept: image/jpeg` or `image/png`, one image with boxes.

    Images are the body itself, the files of a multipart form, or JSON: `{"image": "<base64>"}`,
    `{"images": [{"base64": "...", "name": "a.jpg"}]}`, `{"image": {"url": "https://..."}}` where the server allows it.
    With `tile`, larger images are cut into tiles, for objects that are small in them, and count as several images.
    The header `X-Deadline-Ms` limits the time of the request.
    """
    service, started = service_of(request), time.monotonic()
    kind = wanted_type(request.headers.get("accept", "*/*"))
    deadline = service.deadline(request)
    with service.repository.admit(model, version) as served:
        note_model(request, served)
        settings = DetectSettings(
            served.settings(threshold, iou),
            deadline,
            started + served.longest_wait,
            keep=kind in _SUFFIXES,
            tiles=chosen_tiles(tile, overlap, tile_merge),
        )
        labels = chosen_labels(classes, served.facts.classes)
        body = await service.body(request, deadline)
        given = (request.headers, body, service.options)
        images = sent_images(*given) if is_one_image(request.headers) else await service.decode(sent_images, *given)
        del body, given
        if kind in _SUFFIXES and len(images) > 1:
            raise ServiceError(406, "one_image_only", f"{len(images)} images cannot be one {kind}.", "Ask for JSON.")
        more = len(images) - 1
        with service.repository.admit_more(served, more) if more else nullcontext():
            work = _detect_all(service, served, images, settings)
            answers = await before_deadline(request, deadline, work)
        found = [_of_labels(one.found, labels) for one in answers]
        if kind in _SUFFIXES:
            content = await service.decode(_drawn, answers[0].image, found[0], _SUFFIXES[kind])
            return Response(content, media_type=kind)
        total = time.monotonic() - started
        served.stages["total"].observe(total)
        entries = [_entry(one.source, result) for one, result in zip(answers, found)]
        return _json(served, entries, _timings(answers, total))


@router.get("/v1/models", response_model=ModelsAnswer, responses={401: _ERRORS[401]}, summary="List the models")
async def models(request: Request) -> ModelsAnswer:
    """The models with their newest version. The first one answers requests that name none."""
    repository = service_of(request).repository
    found = []
    for number, name in enumerate(repository.names()):
        try:
            model = repository.find(name)
        except ServiceError:  # unloaded since
            continue
        facts = model.facts
        found.append(
            ServedModelInfo(
                name=name,
                version=model.version,
                versions=repository.versions(name),
                default=number == 0,
                family=facts.family,
                variant=facts.variant,
                size=list(facts.size),
                classes=list(facts.classes),
                runtime=facts.runtime,
                precision=facts.precision,
                threshold=facts.threshold,
                ready=not repository.draining,
            )
        )
    return ModelsAnswer(models=found)


def wanted_type(accept: str) -> str:
    """The best of JSON, JPEG and PNG by an Accept header; ServiceError 406 where none is accepted."""
    known = {"application/json": "application/json", "*/*": "application/json", "application/*": "application/json"}
    known |= {"image/jpeg": "image/jpeg", "image/png": "image/png", "image/*": "image/jpeg", "image/jpg": "image/jpeg"}
    best, most = "", 0.0
    for part in accept.split(","):
        kind, *parameters = (text.strip().lower() for text in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if kind in known and weight > most:
            best, most = known[kind], weight
    if not best:
        raise ServiceError(
            406,
            "not_acceptable",
            "The answer can be JSON, JPEG or PNG.",
            "Accept application/json, image/jpeg or image/png.",
        )
    return best


def chosen_labels(text: str | None, names: Sequence[str]) -> np.ndarray | None:
    """The labels of class names or numbers that commas separate; None is all. ServiceError 400 for an unknown one."""
    if not text:
        return None
    labels = []
    for part in (one.strip() for one in text.split(",")):
        if part in names:
            labels.append(names.index(part))
        elif part.isdecimal() and len(part) < 6 and (not names or int(part) < len(names)):
            labels.append(int(part))
        else:
            raise ServiceError(
                400, "unknown_class", f"The model has no class '{part[:80]}'.", "GET /v1/models lists the classes."
            )
    return np.array(labels)


async def _detect_all(
    service: Service, model: ServedModel, images: Sequence[SentImage], settings: DetectSettings
) -> list[ImageAnswer]:
    """The detections of all images. Of those that may be cut, one is in memory at a time.

    The others of a request wait for its first.
    """
    rest = replace(settings, start_by=settings.deadline)
    work = (_detect(service, model, one, rest if number else settings) for number, one in enumerate(images))
    if settings.tiles is not None:
        return [await one for one in work]
    return await gather_or_cancel([*work])


async def _detect(service: Service, model: ServedModel, sent: SentImage, settings: DetectSettings) -> ImageAnswer:
    started = time.monotonic()
    if sent.content is None:
        sent = await service.fetch(sent, settings.deadline)
    image, resized = await service.decode(_prepare, service, model, sent, settings)
    decoded = time.monotonic() - started
    model.stages["decode"].observe(decoded)
    if resized is None:
        assert image is not None  # it is kept to be cut
        result = await detect_tiles(service, model, image, settings)
    else:
        result = await run_job(model, Job(resized, settings.postprocess, settings.deadline, settings.start_by))
    return ImageAnswer(sent.source, result.value, image if settings.keep else None, decoded, result)


def _prepare(
    service: Service, model: ServedModel, sent: SentImage, settings: DetectSettings
) -> tuple[np.ndarray | None, ResizedImage | None]:
    """Decodes an image and fits it into the network's input, or leaves it to be cut.

    image: the pixels, where they are needed later.
    """
    if time.monotonic() > settings.start_by:  # decoding it would delay the others, for nothing
        raise model.overloaded()
    image = np.ascontiguousarray(decode(sent, service.options))
    if settings.tiles is not None and settings.tiles.count((image.shape[0], image.shape[1])) > 1:
        return image, None
    return image if settings.keep else None, model.resize(image)


def _of_labels(found: Detections, labels: np.ndarray | None) -> Detections:
    """The detections of these labels whose boxes are numbers: JSON has no infinity."""
    kept = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    return found[kept if labels is None else kept & np.isin(found.labels, labels)]


def _entry(source: str, found: Detections) -> dict[str, Any]:
    entry = found.to_dict()
    return {"source": source, **{name: entry[name] for name in ("width", "height", "detections")}}


def _timings(answers: Sequence[ImageAnswer], total: float) -> dict[str, float]:
    stages = {
        "decode": max(one.decode for one in answers),
        "queue": max(one.result.queue for one in answers),
        "inference": max(one.result.inference for one in answers),
        "total": total,
    }
    return {name: round(seconds * 1000, 3) for name, seconds in stages.items()}


def _json(model: ServedModel, entries: list[dict[str, Any]], timings: dict[str, float]) -> Response:
    answer = {"model": model.name, "version": model.version, "results": entries, "timings_ms": timings}
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _drawn(image: np.ndarray, found: Detections, suffix: str) -> bytes:
    canvas, factor = enlarge_small_image(image)
    drawn = draw_detections(canvas, found.boxes * factor, found.scores, found.labels, found.names)
    try:
        return encode_image(drawn, suffix)
    except ImageError:
        raise
    except UserError as error:
        raise ServiceError(422, "not_drawable", error.message, "Ask for JSON, or for image/png.") from None


def components() -> dict[str, Any]:
    """The schemas that the route refers to, for OpenAPI."""
    schema = JsonImages.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "JsonImages": schema}
