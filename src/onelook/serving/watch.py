"""A folder of models that is watched: FOLDER/name/version/file, or FOLDER/name/version for a run's folder."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path

from onelook import run_files
from onelook.errors import UsageError, UserError, reason_of
from onelook.predict.runtimes import RUNTIMES, exported_runtime
from onelook.serving.repository import Place, Repository

log = logging.getLogger("onelook.serving")
Stamp = tuple[tuple[str, int, int], ...]  # name, size and time of change of every file of a version
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUILT_OF = ".onnx"  # lies beside a TensorRT engine, which is then the model


def valid_name(name: str) -> bool:
    """Whether a model or version may have this name: letters, digits, dot, dash and underscore."""
    return _NAME.fullmatch(name) is not None


def model_in(folder: Path) -> Path:
    """The model of a version's folder. UserError where there is none, or more than one."""
    if (folder / run_files.BEST_WEIGHTS).is_file():
        return folder
    kinds = {suffix: exported_runtime(suffix) for suffix in RUNTIMES}
    suffixes = (*(suffix for suffix, kind in kinds.items() if kind and not kind.evaluates_text), ".safetensors")
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(suffixes))
    if len(found) > 1:
        found = [path for path in found if path.suffix.lower() != _BUILT_OF] or found
    if not found:
        raise UserError(f"'{folder}' holds no model.", f"Put a file there that ends with {', '.join(suffixes)}.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"'{folder}' holds several models: {names}.", "Give each version a folder of its own.")
    return found[0]


class FolderWatch:
    """Keeps a repository's models as a folder has them.

    A version is loaded once its files did not change between two looks, so that a file that is still copied is left
    alone; it is loaded again when they change, and unloaded when its folder is gone. A version that cannot be loaded is
    not tried again before its files change. What cannot be read, such as a network folder that is away, is not gone.
    """

    def __init__(self, folder: Path, repository: Repository, seconds: float = 2.0) -> None:
        if not folder.is_dir():
            raise UsageError(f"The folder to watch, '{folder}', does not exist.", "Create it, or check the path.")
        self.folder, self.repository, self.seconds = folder, repository, seconds
        self._seen: dict[tuple[str, str], Stamp] = {}
        self._done: dict[tuple[str, str], Stamp] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="onelook-watch", daemon=True)

    def start(self) -> None:
        """Starts looking, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def look(self, *, first: bool = False) -> None:
        """Looks once. first: what is there is loaded at once, not only when a second look finds the same.

        UserError where a folder cannot be read; then nothing is changed.
        """
        try:
            found = self._versions()
        except OSError as error:
            raise UserError(f"The watched folder cannot be read: {reason_of(error)}.", "Check its rights.") from error
        for key, stamp in found.items():
            if self._done.get(key) != stamp and (first or self._seen.get(key) == stamp):
                self._done[key] = stamp
                self._load(*key)
        for key in self._done.keys() - found.keys():
            del self._done[key]
            self.repository.remove(*key, forget=True)
        self._seen = found

    def _load(self, name: str, version: str) -> None:
        try:
            self.repository.add(Place(name, version, model_in(self.folder / name / version)))
        except UserError as error:  # the repository has logged what it refused
            log.warning("watched model not loaded", extra={"model": name, "version": version, "reason": str(error)})
        except OSError as error:
            log.warning("watched model not read", extra={"model": name, "version": version, "reason": str(error)})

    def _versions(self) -> dict[tuple[str, str], Stamp]:
        """The versions and their files. OSError where a folder cannot be read, or the watched one is gone."""
        found = {}
        for name in _folders(self.folder):
            for version in _folders_within(self.folder / name):
                key = (name, version)
                stamp = _stamp(self.folder / name / version)
                if stamp == ():  # its files are being replaced
                    stamp = self._done.get(key)
                if stamp:
                    found[key] = stamp
        return found

    def _watch(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.look()
            except Exception:  # the next look may succeed: a folder can vanish while it is read
                log.exception("the watched folder cannot be read")


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and valid_name(entry.name))


def _folders_within(folder: Path) -> list[str]:
    try:
        return _folders(folder)
    except FileNotFoundError:
        return []


def _stamp(folder: Path) -> Stamp | None:
    """The files of a version; None where its folder is gone."""
    found = []
    try:
        for entry in os.scandir(folder):
            if entry.is_file() and not entry.name.startswith("."):
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_mtime_ns))
    except FileNotFoundError:  # of the folder, or of a file that was deleted meanwhile
        return () if folder.is_dir() else None
    return tuple(sorted(found))
