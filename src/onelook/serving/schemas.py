"""The JSON of the answers, for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Detection(BaseModel):
    """An object in an image."""

    label: int = Field(description="index of the class")
    name: str = Field(description="name of the class; the label's number where the model has no names")
    score: float
    box: list[float] = Field(description="x1, y1, x2, y2 in pixels of the upright image", min_length=4, max_length=4)


class ImageResult(BaseModel):
    """The objects of one image, best first."""

    source: str = Field(description="the file's name, or the number of the image in the request")
    width: int
    height: int
    detections: list[Detection]


class Timings(BaseModel):
    """Milliseconds of the stages; of several images the longest."""

    decode: float
    queue: float
    inference: float
    total: float


class DetectAnswer(BaseModel):
    """The detections of a request's images, in their order."""

    model: str
    version: str
    results: list[ImageResult]
    timings_ms: Timings


class ServedModelInfo(BaseModel):
    """A model that can be asked for."""

    name: str
    version: str = Field(description="the version that answers unless another is asked for")
    versions: list[str]
    default: bool = Field(description="whether it answers requests that name no model")
    family: str = Field(description="the family of the network, as its paper calls it")
    variant: str = Field(description="the published model that it is, or the architecture where it is none")
    size: list[int] = Field(description="height and width of the network's input")
    classes: list[str]
    runtime: str
    precision: str
    threshold: float = Field(description="least score of a detection unless a request says otherwise")
    ready: bool


class ModelsAnswer(BaseModel):
    """The models of the server."""

    models: list[ServedModelInfo]


class ErrorDetail(BaseModel):
    """What is wrong, and what helps."""

    code: str
    message: str
    remedy: str


class ErrorAnswer(BaseModel):
    """An error of `/v1`."""

    error: ErrorDetail


class ProtocolError(BaseModel):
    """An error of the open inference protocol."""

    error: str


class ServerMetadata(BaseModel):
    """The server, in the open inference protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor; -1 is a free side."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model, in the open inference protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Health(BaseModel):
    """Whether the server is live or ready."""

    live: bool | None = None
    ready: bool | None = None


class ModelReady(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool


class InferTensor(BaseModel):
    """A tensor with its data in row order; or `binary_data_size` is in its parameters, and bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(BaseModel):
    """A request of the open inference protocol."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferTensor]
    outputs: list[RequestedOutput] | None = None


class InferAnswer(BaseModel):
    """The outputs of a run."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferTensor]


class RepositoryEntry(BaseModel):
    """A version of a model in the repository."""

    name: str
    version: str
    state: str
    reason: str


class JsonImage(BaseModel):
    """An image in JSON: base64 of a file, or its address."""

    base64: str | None = None
    url: str | None = None
    name: str | None = None


class JsonImages(BaseModel):
    """The images of a request in JSON."""

    image: str | JsonImage | None = None
    images: list[str | JsonImage] | None = None
