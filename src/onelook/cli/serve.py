"""`onelook serve`: an HTTP server of models."""

from __future__ import annotations

from pathlib import Path

from onelook.api import serve as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter


def serve(
    *models: str,
    model: list[str] | None = None,
    watch: Path | None = None,
    watch_seconds: float = 2.0,
    weights: Path | None = None,
    host: str = "127.0.0.1",
    port: int = api.PORT,
    device: str | None = None,
    half: bool = False,
    threads: int | None = None,
    workers: int = 1,
    batch: int | None = None,
    max_wait_ms: float = 2.0,
    queue: int = 32,
    queue_ms: float | None = None,
    deadline: float = 30.0,
    drain: float = 30.0,
    max_bytes: int = 32 << 20,
    max_pixels: int = 40_000_000,
    decode_seconds: float = 10.0,
    max_images: int = 16,
    token_file: Path | None = None,
    allow_url: list[str] | None = None,
    allow_origin: list[str] | None = None,
) -> CommandResult[api.ServeResult]:
    """Serve models over HTTP: images to detections, and the open inference protocol v2.

    Only this machine reaches the server unless --host says otherwise. SIGTERM and Ctrl-C let the requests in work
    finish. Logs are JSON lines on standard error; /metrics is for Prometheus.

    Examples:
        onelook serve yolox-nano.onnx
        onelook serve runs/a --model small=b.onnx --port 9000
        onelook serve --watch models --token-file tokens.txt --host 0.0.0.0
        onelook serve detector.xml --threads 1 --queue 16 --queue-ms 500 --deadline 2

    Args:
        models: exported files, weights files and folders of runs. NAME=PATH or NAME/VERSION=PATH choose the name.
        model: one more model; may be given several times.
        watch: folder NAME/VERSION/FILE whose models are loaded, exchanged and unloaded as it changes.
        watch_seconds: seconds between two looks at it.
        weights: weights for a single model given by name.
        host: address to listen on; 0.0.0.0 is every address of the machine.
        port: port to listen on; 0 is any free one.
        device: cpu, cuda, cuda:1, mps; the runtime's choice unless given.
        half: compute in float16; on a GPU only, or in the runtimes of OpenVINO and ncnn.
        threads: threads of one run on a CPU; the runtime's choice unless given.
        workers: threads of a model that run it at the same time, each with a copy of its own.
        batch: most images in one run of a network; 1 on a CPU, 8 on a GPU unless given.
        max_wait_ms: milliseconds that an image waits at most for others of its batch.
        queue: images of a model that are admitted; beyond it requests are refused at once with 503.
        queue_ms: milliseconds from an image's admission to its run; 503 beyond it. The deadline unless given.
        deadline: seconds that a request may take; the header X-Deadline-Ms may ask for less.
        drain: seconds for requests in work when the server ends.
        max_bytes: most bytes of a request.
        max_pixels: most pixels of an image.
        decode_seconds: seconds for decoding an image.
        max_images: most images of a request.
        token_file: file with one token a line; requests need one of them then.
        allow_url: host that images may be fetched from; may be given several times. None unless given.
        allow_origin: origin of web pages that may use the server; may be given several times. None unless given.
    """
    result = api.serve(
        [*models, *(model or ())],
        watch=watch,
        watch_seconds=watch_seconds,
        weights=weights,
        host=host,
        port=port,
        device=device,
        half=half,
        threads=threads,
        workers=workers,
        batch=batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        queue_ms=queue_ms,
        deadline=deadline,
        drain=drain,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        decode_seconds=decode_seconds,
        max_images=max_images,
        token_file=token_file,
        allow_url=allow_url or (),
        allow_origin=allow_origin or (),
        reporter=ConsoleReporter(),
    )
    return CommandResult(result)
