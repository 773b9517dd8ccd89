"""Detects in the images of one shard, in any process of any machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onelook.api.open import LoadOptions, PathLike, open_predictor
from onelook.cluster.shards import DETECTIONS, Counts, ShardRows, shard_name
from onelook.cluster.sources import image_source, read_image
from onelook.cluster.store import Store
from onelook.ops.nms import Postprocess
from onelook.predict.predictor import Predictor
from onelook.predict.sources import UnreadableSource
from onelook.predict.tiles import Tiles


@dataclass(frozen=True)
class ModelFiles:
    """A model as it is sent to other machines.

    model: the name of a built-in one whose weights are sent; None where the first file is the model.  weights: whether
    the next file holds weights for it.  contents: name and bytes (uint8) of each file: processes of one machine share
    the memory of arrays.
    """

    model: str | None
    weights: bool
    contents: tuple[tuple[str, np.ndarray], ...]

    @staticmethod
    def read(model: PathLike, weights: PathLike | None, files: Sequence[Path]) -> ModelFiles:
        """Reads the files of a model that was opened. files: those that it was read from, in that order."""
        name = None if Path(model).exists() else os.fspath(model)
        contents = tuple((file.name, np.frombuffer(file.read_bytes(), np.uint8)) for file in files)
        return ModelFiles(name, weights is not None, contents)

    def open(self, options: LoadOptions) -> Predictor:
        """A predictor of them."""
        with tempfile.TemporaryDirectory(prefix="onelook-") as folder:
            paths = [Path(folder, name) for name, _ in self.contents]
            for path, (_, content) in zip(paths, self.contents):
                path.write_bytes(content.data)
            model = paths.pop(0) if self.model is None else self.model
            return open_predictor(model, replace(options, weights=paths[0] if self.weights else None))


@dataclass(frozen=True)
class ShardJob:
    """How the images of every shard are detected.

    fingerprint: of the model.  batch: images in one run, always the same ones together.  out: the folder or address
    of the results.  tiles: how large images are cut; None leaves them whole.
    """

    files: ModelFiles
    options: LoadOptions
    postprocess: Postprocess
    batch: int
    fingerprint: str
    out: str
    tiles: Tiles | None = None


_opened: dict[str, Predictor] = {}  # the one model of this process, by its fingerprint and options


def detect_shard(job: ShardJob, number: int, sources: Sequence[str]) -> Counts:
    """Detects in the images of a shard, writes its file, and returns what it holds."""
    predictor = _predictor(job)
    rows = ShardRows(job.fingerprint)
    listed = [image_source(path) for path in sources]
    with closing(predictor.stream_sources(listed, job.postprocess, tiles=job.tiles, read=read_image)) as results:
        for path, (item, found) in zip(sources, results):
            rows.add(path, found, item.error if isinstance(item, UnreadableSource) else None)
    Store(job.out).write(f"{DETECTIONS}/{shard_name(number)}", rows.to_parquet())
    return rows.counts


def keep_open(job: ShardJob, predictor: Predictor) -> Predictor:
    """Keeps a predictor for the next shards of the job in this process, in place of any other."""
    predictor.batch = job.batch
    _opened.clear()
    _opened[_key(job)] = predictor
    return predictor


def _predictor(job: ShardJob) -> Predictor:
    return _opened.get(_key(job)) or keep_open(job, job.files.open(job.options))


def _key(job: ShardJob) -> str:
    return f"{job.fingerprint} {job.batch} {job.options}"
