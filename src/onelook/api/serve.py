"""`onelook.serve`: an HTTP server of models."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.api.open import LoadOptions, PathLike, open_predictor
from onelook.api.runtime_choice import report_threads
from onelook.config import check_arguments
from onelook.errors import UsageError, UserError, missing_package, reason_of
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes import exported_runtime
from onelook.reporter import PlainReporter, Reporter

if TYPE_CHECKING:
    from onelook.serving.repository import Place

PORT = 8000
LOCAL = ("127.0.0.1", "localhost", "::1")
_SHORTEST_TOKEN = 16
_A_DAY = 86_400.0  # seconds
_SHORTEST_LOOK = 0.1  # seconds


@dataclass(frozen=True)
class ServeResult:
    """What a server did, once it has ended.

    url: where it listened.  requests: how many it answered, refused ones among them.
    """

    url: str
    requests: int

    def __str__(self) -> str:
        return f"The server at {self.url} has ended after {self.requests:,} requests; those in work were finished."

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {"url": self.url, "requests": self.requests}


def serve(
    models: PathLike | Sequence[PathLike] = (),
    *,
    watch: PathLike | None = None,
    watch_seconds: float = 2.0,
    weights: PathLike | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
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
    token_file: PathLike | None = None,
    allow_url: Sequence[str] = (),
    allow_origin: Sequence[str] = (),
    reporter: Reporter | None = None,
    started: Callable[[str], object] | None = None,
) -> ServeResult:
    """Serves models over HTTP until SIGTERM or SIGINT: the open inference protocol v2, `POST /v1/detect`, metrics.

    models: exported files, weights files, and folders of runs; `NAME=PATH` and `NAME/VERSION=PATH` choose what they are
    called.  watch: a folder NAME/VERSION/FILE whose models are loaded, exchanged and unloaded as it changes, looked at
    every `watch_seconds`.  weights: for a single model that is given by its variant's name.  host: the address to
    listen on; only this machine reaches 127.0.0.1.  port: 0 is any free one.  device, half, threads: as in
    `onelook.load`.  workers: threads of a model that run it at the same time, each with a copy of its own.  batch,
    max_wait_ms: most images in one run, and how long one waits for others.  queue: images that are admitted; beyond it
    requests are refused with 503.  queue_ms: longest time from the admission of an image to its run, 503 as well; the
    deadline unless given.  deadline: seconds of a request.  drain: seconds for requests
    in work at the end.  max_bytes, max_pixels, decode_seconds, max_images: limits of a request.  token_file: one token
    a line; requests then need one.  allow_url: hosts from which images may be fetched.  allow_origin: origins of web
    pages that may use the server.  started: called with the address once it is open.

    Raises UserError for a model that cannot be opened or fails its trial run, and for a port that is taken. Needs the
    extra `serve`; PyTorch only for weights and runs.
    """
    check_arguments(serve, locals())
    reporter = reporter or PlainReporter()
    _check_installed()
    from onelook.serving.application import create_application
    from onelook.serving.logs import log_as_json
    from onelook.serving.options import ServerOptions
    from onelook.serving.repository import Repository
    from onelook.serving.running import open_socket, run_server
    from onelook.serving.watch import FolderWatch

    given = [models] if isinstance(models, str | os.PathLike) else list(models)
    places = model_places([os.fspath(one) for one in given])
    _check_models(len(places), watch, weights)
    _check_seconds(drain, watch_seconds)
    options = ServerOptions(
        workers=workers,
        batch=batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        queue_ms=queue_ms,
        deadline=deadline,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        decode_seconds=decode_seconds,
        max_images=max_images,
        allow_url=tuple(one.lower() for one in allow_url),
        allow_origin=tuple(allow_origin),
        tokens=() if token_file is None else read_tokens(token_file),
        any_host=host not in LOCAL,
    )
    loading = LoadOptions(weights=weights, device=device, half=half, threads=threads)
    log_as_json()
    repository = Repository(lambda path: open_servable(path, loading), options)
    watcher = None if watch is None else FolderWatch(Path(watch), repository, watch_seconds)
    for place in places:
        repository.add(place)
        reporter.info(_described(repository, place))
    if watcher is not None:
        watcher.look(first=True)
    _report_runtimes(repository, threads, reporter)
    listening = open_socket(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"

    def announce() -> None:
        reporter.info(f"Serving on {url}" + _who_reaches(host, bool(options.tokens)))
        if started is not None:
            started(url)

    app = create_application(repository)
    if watcher is not None:
        watcher.start()
    try:
        run_server(app, repository, listening, drain_seconds=drain, started=announce)
    finally:
        if watcher is not None:
            watcher.close()
        repository.close(timeout=drain)
    return ServeResult(url, _answered(repository))


def open_servable(path: PathLike, options: LoadOptions) -> Predictor:
    """A predictor for a server. UserError for files that would evaluate text of the file when they are loaded."""
    runtime = exported_runtime(path)
    if runtime is not None and runtime.evaluates_text:
        raise UsageError(
            f"'{os.fspath(path)}' is not served: PyTorch evaluates text of such a file while it loads it.",
            "Serve the weights or the run that it was made of, or export to onnx.",
        )
    return open_predictor(os.fspath(path), options)


def model_places(models: Sequence[str]) -> list[Place]:
    """The name, version and path of models: `PATH`, `NAME=PATH` or `NAME/VERSION=PATH`. UsageError for equal names."""
    from onelook.serving.repository import Place
    from onelook.serving.watch import valid_name

    places: dict[tuple[str, str], Place] = {}
    for text in models:
        called, has_name, path = text.partition("=")
        if not has_name:
            path = text
            called = Path(path).name if Path(path).is_dir() or not Path(path).suffix else Path(path).stem
            called = called.removesuffix(".ncnn") or Path(path).resolve().name
        name, _, version = called.partition("/")
        version = version or "1"
        if not (valid_name(name) and valid_name(version) and path):
            raise UsageError(
                f"'{called}' cannot be the name of a model.",
                "Use letters, digits, dots, dashes and underscores: --model NAME=PATH or NAME/VERSION=PATH.",
            )
        if (name, version) in places:
            raise UsageError(
                f"Two models are called '{name}', version {version}.", "Give them names: --model NAME/VERSION=PATH."
            )
        places[name, version] = Place(name, version, Path(path))
    return list(places.values())


def read_tokens(path: PathLike) -> tuple[str, ...]:
    """The tokens in a file, one a line; empty lines and lines that begin with # are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"The tokens in '{path}' cannot be read: {reason_of(error)}.", "Check the path.") from error
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is no text.", "Write one token a line.") from None
    tokens = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise UserError(
                f"Line {number} of '{path}' is no token: {_SHORTEST_TOKEN} or more letters and digits are needed.",
                "Make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
        tokens.append(token)
    if not tokens:
        raise UserError(f"'{path}' holds no token.", "Write one token a line.")
    return tuple(tokens)


def _check_installed() -> None:
    """MissingDependencyError where the extra `serve` is not installed."""
    from importlib.util import find_spec

    for package in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise missing_package(package, "'onelook serve'")


def _described(repository: Any, place: Place) -> str:
    model = repository.find(place.name, place.version)
    (height, width), facts = model.facts.size, model.facts
    return f"{place.name}, version {place.version}: {height}x{width}, {facts.precision}, {facts.runtime}, ready"


def _who_reaches(host: str, has_tokens: bool) -> str:
    if host in LOCAL:
        return " for this machine only; --host 0.0.0.0 is for others, too. Ctrl-C ends it."
    safe = "" if has_tokens else " Without --token-file, everyone who reaches it may use it."
    return f" for every machine that reaches it.{safe} Ctrl-C ends it."


def _check_models(count: int, watch: PathLike | None, weights: PathLike | None) -> None:
    """UsageError where there is nothing to serve, or where it is open which model weights are for."""
    if not count and watch is None:
        raise UsageError("There is no model to serve.", "Name a model, or a folder with --watch.")
    if weights is not None and count != 1:
        raise UsageError("Weights are for one model.", "Give one model, or export the models first.")


def _check_seconds(drain: float, watch_seconds: float) -> None:
    if not 0 <= drain <= _A_DAY:
        raise UsageError(f"--drain is {drain:g}.", "Give seconds, from 0 to a day.")
    if not _SHORTEST_LOOK <= watch_seconds <= _A_DAY:
        raise UsageError(f"--watch-seconds is {watch_seconds:g}.", f"Give seconds, from {_SHORTEST_LOOK} to a day.")


def _report_runtimes(repository: Any, threads: int | None, reporter: Reporter) -> None:
    """Says it where fewer threads than cores were chosen, and warns of several runtimes.

    A fault inside one native library ends the whole process, with the models of the others.
    """
    for name in repository.names()[:1]:
        report_threads(repository.find(name).predictor.runtime, threads, reporter)
    libraries = sorted({repository.find(name).facts.runtime.split()[0] for name in repository.names()})
    if len(libraries) > 1:
        reporter.warning(
            f"The models need several runtimes in one process ({', '.join(libraries)}). One server for each runtime "
            "keeps a fault of one library away from the other models."
        )


def _answered(repository: Any) -> int:
    found = repository.metrics.requests.collect()
    return int(sum(sample.value for one in found for sample in one.samples if sample.name.endswith("_total")))
