"""A server in the tests' process: small exported models, and a runtime whose runs a test holds back."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoded_images import encoded, noise
from onelook.api.open import LoadOptions
from onelook.api.serve import open_servable
from onelook.augment.letterbox import Letterbox
from onelook.ops.nms import Nms, RawDetections
from onelook.predict.predictor import Predictor
from onnx_models import write_model

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

with warnings.catch_warnings():  # of the client's own future
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

from onelook.serving.application import create_application
from onelook.serving.options import ServerOptions
from onelook.serving.repository import Place, Repository

JPEG = encoded(noise(), "JPEG")
BASE = "http://localhost"


def repository_of(path: Path, options: ServerOptions | None = None, names: tuple[str, ...] = ("small",)) -> Repository:
    """A repository with the small exported model under these names; its files are beside each other in `path`."""
    repository = Repository(lambda file: open_servable(file, LoadOptions()), options or ServerOptions())
    for name in names:
        repository.add(Place(name, "1", write_model(path / f"{name}.onnx")))
    return repository


@contextmanager
def client_of(repository: Repository) -> Iterator[TestClient]:
    """A client of an application that is started, and ended after the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with TestClient(create_application(repository), base_url=BASE, raise_server_exceptions=False) as client:
            yield client


class HeldRuntime:
    """A runtime that waits in each run for the test's permission, and remembers the sizes of its batches."""

    size = (32, 32)
    frame = Letterbox()
    class_names = ("cat",)
    num_classes = 1
    postprocess = evaluating = Nms()

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.held = False

    def __call__(self, batch: np.ndarray, postprocess: Any) -> list[RawDetections]:
        if self.held:
            self.batches.append(len(batch))
            self.entered.release()
            assert self.open.wait(20)
        one = (np.array([[1, 1, 9, 9]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64))
        return [one] * len(batch)

    def raw(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(images), 1, 4), np.float32), np.zeros((len(images), 1, 1), np.float32)


def held_repository(options: ServerOptions, predictors: Callable[[Path], Predictor] | None = None) -> Any:
    """A repository whose only model is a HeldRuntime; returns both."""
    runtime = HeldRuntime()
    repository = Repository(predictors or (lambda path: Predictor(runtime, batch=1)), options)
    repository.add(Place("held", "1", Path("held")))
    runtime.held = True
    return repository, runtime


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Runs a function in a thread; the returned function waits for its value."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()

    def value() -> Any:
        thread.join(20)
        return found[0]

    return value


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)
