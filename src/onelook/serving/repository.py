"""The models of the server by name and version: loaded, exchanged and unloaded while requests run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onelook.errors import UserError, did_you_mean
from onelook.serving.metrics import Metrics
from onelook.serving.options import ServerOptions
from onelook.serving.served_model import Opener, ServedModel
from onelook.serving.service_error import ServiceError, without_paths

log = logging.getLogger("onelook.serving")
RETIRE_SECONDS = 300.0  # that an exchanged version may still work for its last requests


@dataclass(frozen=True)
class Place:
    """Where a version of a model comes from. path: a file, or the folder of a run."""

    name: str
    version: str
    path: Path


@dataclass(frozen=True)
class ModelState:
    """An entry of the repository's index, in the protocol's words. reason: why it is not ready."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """Models by name and version.

    A version is exchanged at one moment: requests that were admitted before finish with the old one, later ones use
    the new one, and none is lost. A file that cannot be opened, or whose trial run fails, changes nothing: what served
    before serves on, and the reason is in the index.
    """

    def __init__(self, opener: Opener, options: ServerOptions, metrics: Metrics | None = None) -> None:
        self.options = options
        self.metrics = Metrics() if metrics is None else metrics
        self.draining = False
        self._opener = opener
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self._failures: dict[tuple[str, str], str] = {}
        self._lock = threading.RLock()  # of the tables and of what is admitted: held for moments only
        self._loading = threading.Lock()  # one model is opened at a time: the others go on serving

    # --- loading -----------------------------------------------------------------------------------------------------

    def add(self, place: Place) -> ServedModel:
        """Opens a model and makes it the one of its name and version. UserError where it cannot be used."""
        key = (place.name, place.version)
        with self._loading:
            with self._lock:
                self._places.setdefault(key, place)
            try:
                model = self._open(place)
            except UserError as error:
                self._failed(key, error)
                raise
            with self._lock:
                old = self._models.setdefault(place.name, {}).get(place.version)
                self._models[place.name][place.version] = model
                self._places[key] = place
                self._failures.pop(key, None)
                if old is not None:
                    old.retired = True
        self.metrics.loads.labels(*key, "loaded").inc()
        self.metrics.ready.labels(*key).set(1)
        log.info("model loaded", extra={"model": place.name, "version": place.version, "exchanged": old is not None})
        if old is not None:
            self._retire(old)
        return model

    def remove(self, name: str, version: str | None = None, *, forget: bool = False) -> None:
        """Unloads a model, or one version of it. forget: also where it came from, so that it cannot be loaded again."""
        with self._lock:
            versions = self._models.get(name, {})
            gone = [versions.pop(one) for one in list(versions) if version in (None, one)]
            for model in gone:
                model.retired = True
            if not versions:
                self._models.pop(name, None)
            for key in [key for key in self._places if key[0] == name and version in (None, key[1])]:
                self._failures.pop(key, None)
                if forget:
                    del self._places[key]
        for model in gone:
            self.metrics.ready.labels(model.name, model.version).set(0)
            log.info("model unloaded", extra={"model": model.name, "version": model.version})
            self._retire(model)

    def reload(self, name: str) -> None:
        """Loads every version of a known model again from its place."""
        with self._lock:
            places = [place for place in self._places.values() if place.name == name]
        if not places:
            raise self._unknown(name)
        for place in places:
            self.add(place)

    def places(self, name: str) -> list[Place]:
        """Where the versions of a model come from."""
        with self._lock:
            return [place for place in self._places.values() if place.name == name]

    def _open(self, place: Place) -> ServedModel:
        """The model, tried once. Whatever a library raises for a damaged file is a UserError."""
        try:
            before = place.path.stat() if place.path.exists() else None
            predictors = [self._opener(place.path) for _ in range(self.options.workers)]
            if before is not None and before.st_mtime_ns != place.path.stat().st_mtime_ns:
                raise UserError(f"'{place.path}' was written while it was opened.", "Load it again.")
            return ServedModel(place.name, place.version, predictors, self.options, self.metrics)
        except UserError:
            raise
        except Exception as error:
            log.exception("a model cannot be opened", extra={"model": place.name, "version": place.version})
            raise UserError(
                f"'{place.path}' cannot be used: {type(error).__name__}: {error}", "Export the model again."
            ) from error

    def _failed(self, key: tuple[str, str], error: UserError) -> None:
        with self._lock:
            self._failures[key] = without_paths(error.message)
            serves = key[1] in self._models.get(key[0], {})
        self.metrics.loads.labels(*key, "refused").inc()
        self.metrics.ready.labels(*key).set(int(serves))
        log.error(
            "model refused", extra={"model": key[0], "version": key[1], "reason": error.message, "old_serves": serves}
        )

    def _retire(self, model: ServedModel) -> None:
        threading.Thread(target=model.retire, args=(RETIRE_SECONDS,), name="onelook-retire", daemon=True).start()

    # --- serving -----------------------------------------------------------------------------------------------------

    @contextmanager
    def admit(self, name: str | None, version: str | None) -> Iterator[ServedModel]:
        """The model for a request of one image, which stays loaded and counts it until the block ends.

        ServiceError 404 for an unknown model, 503 with Retry-After where the queue is full.
        """
        with self._lock:
            model = self.find(name, version)
            if model.is_full:
                raise model.overloaded()
            model.take(1)
        try:
            yield model
        finally:
            with self._lock:
                model.release(1)

    @contextmanager
    def admit_more(self, model: ServedModel, images: int) -> Iterator[None]:
        """More images of a request that was admitted already with one."""
        if images + 1 > model.capacity:
            raise ServiceError(
                413,
                "too_many_images",
                f"A request of {images + 1} images is more than the queue of {model.capacity} holds.",
                "Send several requests.",
            )
        with self._lock:
            if model.admitted + images > model.capacity:
                raise model.overloaded()
            model.take(images)
        try:
            yield
        finally:
            with self._lock:
                model.release(images)

    def full(self, name: str | None, version: str | None) -> ServedModel | None:
        """The model of a request whose queue is full; None where it has room, or where there is no such model."""
        versions = self._models.get(name) if name else next(iter(self._models.values()), None)
        if not versions:
            return None
        try:
            model = versions.get(version) if version else _newest(versions)
        except (RuntimeError, ValueError):  # the table is changed at this moment: the admission itself decides
            return None
        return model if model is not None and model.is_full else None

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The model of a name and version; the first and the newest where not given. ServiceError 404."""
        with self._lock:
            if not name:
                if not self._models:
                    raise ServiceError(503, "no_model", "No model is loaded.", "Load one, or wait until it is.", 5)
                name = next(iter(self._models))
            versions = self._models.get(name)
            if not versions:
                raise self._unknown(name)
            if not version:
                return _newest(versions)
            if version not in versions:
                known = ", ".join(sorted(versions, key=_order))
                raise ServiceError(
                    404, "unknown_version", f"The model '{name}' has no version '{version[:80]}'.", f"It has: {known}."
                )
            return versions[version]

    def _unknown(self, name: str) -> ServiceError:
        hint = did_you_mean(name[:80], self._models)
        known = ", ".join(self._models) or "none"
        return ServiceError(
            404, "unknown_model", f"There is no model '{name[:80]}'.{hint}", f"The models are: {known}."
        )

    # --- state -------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The models that serve; the first one is the default."""
        with self._lock:
            return list(self._models)

    def versions(self, name: str) -> list[str]:
        """The versions of a model that serve, oldest first."""
        with self._lock:
            return sorted(self._models.get(name, {}), key=_order)

    def index(self) -> list[ModelState]:
        """Every known model and version, and whether it serves."""
        with self._lock:
            found = []
            for key in sorted(self._places, key=lambda one: (one[0], _order(one[1]))):
                serves = key[1] in self._models.get(key[0], {})
                reason = self._failures.get(key, "" if serves else "unloaded")
                found.append(ModelState(*key, "READY" if serves else "UNAVAILABLE", reason))
            return found

    def ready(self) -> bool:
        """Whether requests are taken: at least one model serves, each known one in some version, and none drains."""
        with self._lock:
            wanted = {key[0] for key in self._places if key[0] in self._models or key in self._failures}
            return not self.draining and bool(self._models) and wanted <= self._models.keys()

    def live(self) -> bool:
        """Whether the threads of the models work: none has ended or is held up in one run."""
        with self._lock:
            models = [model for versions in self._models.values() for model in versions.values()]
        return not any(model.batcher.stalled(self.options.stall) for model in models)

    def close(self, timeout: float) -> None:
        """Lets the requests in work finish and ends all threads."""
        self.draining = True
        ends = time.monotonic() + timeout
        with self._lock:
            models = [model for versions in self._models.values() for model in versions.values()]
            self._models = {}
            for model in models:
                model.retired = True
        for model in models:
            model.retire(max(0.0, ends - time.monotonic()))


def _order(version: str) -> tuple[int, int, str]:
    """Numbers by their value, after all other names: the highest number is the newest."""
    return (1, int(version), version) if version.isdecimal() and len(version) < 18 else (0, 0, version)


def _newest(versions: dict[str, ServedModel]) -> ServedModel:
    return versions[max(versions, key=_order)]
