"""`onelook.detect_shards`: detections of any number of images, on one machine or on many, in Parquet shards."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onelook.api.candidates import model_digest, model_files
from onelook.api.checks import check_batch, check_thresholds
from onelook.api.open import GPU_BATCH, LoadOptions, PathLike, open_predictor
from onelook.api.shard_job import ModelFiles, ShardJob, detect_shard, keep_open
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import RayWorkers, device_of, workers_at
from onelook.cluster.retrying import run_all
from onelook.cluster.shards import Counts, Plan, Summary, arrow
from onelook.cluster.sources import list_images
from onelook.cluster.store import Store, local_path
from onelook.cluster.workers import InProcess, Workers
from onelook.config import check_arguments, to_plain
from onelook.errors import UsageError
from onelook.ops.merge import MergeKind
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import PostprocessKind, postprocess_of_kind
from onelook.predict.tiles import MERGE, chosen_tiles
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

SHARD_SIZE = 1000  # images
_BETWEEN_SUMMARIES = 10.0  # seconds


@dataclass
class ShardsResult:
    """Counts of what all shards hold, those of earlier sessions included.

    folder: where they are.  images, errors, detections: how many there are; errors are images that could not be read.
    per_class: number of detections by class.  shards, planned: files that hold them, and how many there will be.
    failed: number and reason of each shard that could not be finished; the same call tries them again.  seconds,
    new_images: of this session.  interrupted: whether Ctrl-C ended it.
    """

    folder: str
    images: int = 0
    errors: int = 0
    detections: int = 0
    per_class: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    planned: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    new_images: int = 0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 where all shards are finished, images with errors among them; 1 where one is missing, 130 after Ctrl-C."""
        return 130 if self.interrupted else int(self.shards < self.planned)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        return {**vars(self), "per_class": dict(self.per_class.most_common())}

    __repr__ = text_repr

    def __str__(self) -> str:
        rate = f", {self.new_images / self.seconds:.1f} a second" if self.new_images and self.seconds else ""
        errors = f" ({self.errors:,} could not be read)" if self.errors else ""
        start = "Interrupted; the same command continues. " if self.interrupted else ""
        lines = [
            f"{start}{self.detections:,} detections in {self.images:,} images{errors}; {self.shards:,} of "
            f"{self.planned:,} shards in {self.folder}.",
            f"{self.new_images:,} images in this session; {self.seconds:.1f} s{rate}.",
        ]
        lines += [f"Shard {number} was not finished: {reason}" for number, reason in list(self.failed.items())[:10]]
        return "\n".join(lines)


def detect_shards(
    model: PathLike,
    sources: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    on: str = "ray",
    weights: PathLike | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    agnostic: bool = False,
    postprocess: PostprocessKind | None = None,
    size: int | tuple[int, int] | None = None,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    tile_merge: MergeKind = MERGE,
    tta: bool = False,
    half: bool = False,
    device: str | None = None,
    threads: int | None = None,
    shard_size: int = SHARD_SIZE,
    reporter: Reporter | None = None,
) -> ShardsResult:
    """Detects objects in any number of images, on one machine or on many, and writes the results to Parquet shards.

    model: a name with `weights`, a weights or exported file, or the folder of a run; its files are sent to the workers.
    sources: images, folders, patterns, and .txt lists, by path or address (s3://, gs://, az://, https://); one, or
    several.  out: folder or address of the results; the same call continues what is there.  on: "ray" is the cluster
    that this machine belongs to, or else this machine alone; "ray://HOST:PORT" is another; "local" is this process.
    "ray,workers=8,cpus=2,gpus=1" has up to 8 workers, each with as much.  batch: images in one run of the network; None
    is that of a file of a fixed batch, else 1 on a CPU, 8 on a GPU.  tile, overlap, tile_merge: how large images are
    cut, as in `onelook.detect`; an image of too many tiles is a row with an error.  threads: of a worker on a CPU; None
    is its CPUs on Ray.  shard_size: images in a file.

    The other settings are those of `onelook.detect`, and the detections are the same, bit for bit, on equal processors
    with equal threads and batches. An image that cannot be read is a row with an error. Ctrl-C, and the loss of
    workers, machines or this process, lose only shards that are not finished. Raises UserError where `out` holds
    results of another model or other settings.
    """
    check_arguments(detect_shards, locals())
    place = parse_place(on)
    check_thresholds(confidence, iou)
    check_batch(1 if batch is None else batch)
    tiles = chosen_tiles(tile, overlap, tile_merge)
    if shard_size < 1:
        raise UsageError(f"shard_size is {shard_size}.", "Give the number of images in a file, 1 or more.")
    arrow()  # before a model is loaded
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    names = [os.fspath(one) for one in given]
    if not names:
        raise UsageError("No source was given.", "Name images, folders, patterns, lists or addresses.")
    shown = PlainReporter() if reporter is None else reporter
    if threads is None and not place.is_local:
        threads = max(1, int(place.cpus))
    options = LoadOptions(weights=weights, device=device, size=size, tta=tta, half=half, threads=threads)
    # It is opened here first, so that a wrong setting is an error before anything is listed or started.
    opened = open_predictor(model, options if place.is_local else replace(options, device="cpu", half=False))
    if postprocess is not None:
        opened.postprocess = postprocess_of_kind(postprocess, opened.postprocess)
    steps = opened.settings(confidence, iou, agnostic or None)
    store = Store(os.fspath(out))
    started = time.monotonic()
    with workers_at(place, InProcess(), shown, device=device) as workers:
        # On Ray, the model was opened on a CPU of this machine.
        on_other_gpus = isinstance(workers, RayWorkers) and not workers.on_cpu
        images_at_once = batch or (GPU_BATCH if on_other_gpus and opened.batch == 1 else opened.batch)
        # Whole batches, so that the same images share a batch in any division.
        shard_size = -(-shard_size // images_at_once) * images_at_once
        options = replace(options, device=device_of(workers, device))
        job = _job(model, opened, options, steps=steps, batch=images_at_once, out=os.fspath(out))
        job = replace(job, tiles=tiles)
        if place.is_local:
            keep_open(job, opened)
        settings = _settings(job, opened, names, shard_size)
        with shown.progress("listing images"):
            plan = Plan.open(store, settings, list_images(names, leave_out=os.fspath(out)))
        result = ShardsResult(store.folder, planned=plan.shards)
        _run(plan, job, workers, result, shown)
    result.seconds = time.monotonic() - started
    return result


def _job(model: PathLike, opened: Predictor, options: LoadOptions, *, steps: Any, batch: int, out: str) -> ShardJob:
    files = model_files(opened)
    if not files:
        raise UsageError("The model has no files that can be sent to workers.", "Give a weights or exported file.")
    fingerprint = f"sha256:{model_digest(files, opened.size)}"
    absolute = out if "://" in out else os.path.abspath(local_path(out))
    sent = ModelFiles.read(model, options.weights, files)
    return ShardJob(sent, options, steps, batch, fingerprint, absolute)


def _settings(job: ShardJob, opened: Predictor, sources: Sequence[str], shard_size: int) -> dict[str, Any]:
    """What the detections of a folder depend on, as JSON."""
    settings = {
        "sources": [one if "://" in one else os.path.abspath(one) for one in sources],
        "model": job.fingerprint,
        "size": list(opened.size),
        **{f"postprocessing, {name}": value for name, value in to_plain(job.postprocess).items()},
        "batch": job.batch,
        "test-time augmentation": job.options.tta,
        "half precision": job.options.half,
        "images in a shard": shard_size,
    }
    if job.tiles is not None:
        settings |= {f"tiles, {name}": value for name, value in to_plain(job.tiles).items() if name != "type"}
    return dict(json.loads(json.dumps(settings)))


def _run(plan: Plan, job: ShardJob, workers: Workers, result: ShardsResult, reporter: Reporter) -> None:
    """Detects in all shards that are missing; fills the result, and keeps the summary up to date."""
    summary = Summary(plan)
    before, begun = summary.counts.images, time.monotonic()
    if summary.counted:
        reporter.info(f"{len(summary.counted):,} of {plan.shards:,} shards are finished already.")
    finished = frozenset(summary.counted)
    missing = (number for number in range(plan.shards) if number not in finished)
    shared, written = workers.share(job), begun
    with reporter.progress("detecting") as progress:

        def end(number: int, counts: Counts) -> None:
            nonlocal written
            summary.add(number, counts)
            found = summary.counts
            detail = f"{found.detections:,} detections, {found.errors:,} errors"
            progress(found.images, plan.images, detail)
            if time.monotonic() - written > _BETWEEN_SUMMARIES:
                written = time.monotonic()
                summary.write(seconds=written - begun, failed={})

        try:
            result.failed = run_all(
                workers,
                plan.lists(missing),
                lambda number, sources: workers.submit(detect_shard, shared, number, sources),
                end,
                retried=Exception,  # of one machine, such as a full disk, or of images that only one cannot decode
            )
        except KeyboardInterrupt:
            result.interrupted = True
        finally:
            summary.write(seconds=time.monotonic() - begun, failed=result.failed)
    counts = summary.counts
    result.images, result.errors, result.detections = counts.images, counts.errors, counts.detections
    result.per_class, result.shards, result.new_images = counts.per_class, len(summary.counted), counts.images - before
