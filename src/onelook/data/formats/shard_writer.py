"""Writes shards: tar files of images with annotations in JSON, and the `shards.json` that lists them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onelook.data.formats.base import Destination, Losses, split_folder
from onelook.data.formats.coco import category_entries, image_entry, object_entries
from onelook.data.index import DIFFICULT
from onelook.data.members import MAX_FILE, read_image_file
from onelook.data.split import Dataset
from onelook.errors import DataError, reason_of
from onelook.reporter import Reporter, SilentReporter

MANIFEST = "shards.json"
SHARD_SIZE = 500_000_000  # bytes: some thousand photographs, and a few seconds of a fast network


class ShardWriter:
    """Writes `{split}-000000.tar`, ... and `shards.json`.

    shard_size: bytes after which a new shard begins.  reporter: shows the progress.
    """

    one_file_an_image = True

    def __init__(self, shard_size: int | None = None, reporter: Reporter | None = None) -> None:
        self._shard_size = SHARD_SIZE if shard_size is None else shard_size
        self._reporter = SilentReporter() if reporter is None else reporter
        self._splits: dict[str, list[str]] = {}
        self._classes: list[dict[str, Any]] = []

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names, but for dots: the first one of a name ends what a sample has in common."""
        folder, _, base = name.rpartition("/")
        stem, dot, ending = base.rpartition(".")
        base = f"{stem.replace('.', '_')}{dot}{ending}"
        return Destination(split_folder(split), f"{folder}/{base}" if folder else base)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the shards of one split."""
        _count_losses(dataset, losses)
        split = split_folder(split)
        shards = self._splits[split] = []
        with (
            _Shards(out, split, shards, self._shard_size) as written,
            self._reporter.progress(f"Writing {split}") as progress,
        ):
            for i, place in enumerate(places):
                written.add(list(_members(dataset, i, place.name)))
                progress(i + 1, len(places))
        self._classes = list(category_entries(dataset))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes `shards.json`: the classes, and the shards of every split."""
        content = {"classes": self._classes, "splits": self._splits}
        (out / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class _Shards:
    """Tar files in a folder, of which a new one begins where the next sample would make the last one too long.

    names: gets the name of each.
    """

    def __init__(self, folder: Path, split: str, names: list[str], size: int) -> None:
        self._folder, self._split, self._names, self._size = folder, split, names, size
        self._tar: tarfile.TarFile | None = None
        self._room = 0

    def add(self, members: Sequence[tuple[str, bytes]]) -> None:
        """Writes a sample: (name, content) of each of its files."""
        blocks = sum(1 + -(-len(content) // tarfile.BLOCKSIZE) for _, content in members)
        size = blocks * tarfile.BLOCKSIZE
        if self._tar is None or size > self._room:
            self._tar, self._room = self._begin(), self._size
        for name, content in members:
            info = tarfile.TarInfo(name)  # without time and owner: the same data give the same file
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        self._room -= size

    def _begin(self) -> tarfile.TarFile:
        self._close()
        self._names.append(f"{self._split}-{len(self._names):06d}.tar")
        return tarfile.TarFile(self._folder / self._names[-1], "w", format=tarfile.PAX_FORMAT)

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def _members(dataset: Dataset, i: int, name: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of an image and of its annotation."""
    file = dataset.image_file(i)
    try:
        yield name, read_image_file(file, MAX_FILE)
    except OSError as error:
        raise DataError(
            f"The image '{file}' cannot be read: {reason_of(error)}.", "`onelook check` lists all that are missing."
        ) from error
    entry = image_entry(dataset, i, name)
    del entry["file_name"]
    if dataset.labelled[i]:
        objects = [
            {"category": dataset.names[label], **fields}
            for label, fields in zip(dataset.labels(i).tolist(), object_entries(dataset, i))
        ]
        for fields in objects:
            del fields["image_id"]
        entry["annotations"] = objects
    yield f"{name.rpartition('.')[0]}.json", json.dumps(entry).encode()


def _count_losses(dataset: Dataset, losses: Losses) -> None:
    if dataset.ignores_difficult:
        losses.add(
            "that evaluation leaves difficult objects out (they are marked, but count in COCO's protocol)",
            int(((dataset.index.object_flags & DIFFICULT) > 0).sum()),
        )
    if rest := dataset.index.meta.get("rest"):
        losses.set(f"the fields {' and '.join(repr(key) for key in rest)} of the annotation file", 1)
