"""The results of a large work: Parquet shards, the plan that says what each shard holds, and the summary.

    plan.json                      the settings, and how many images there are
    plan/part-000000.parquet       the images in their order
    detections/shard-00000000.parquet   a row for each of the plan's next `shard_size` images
    summary.json                   the counts so far

A shard is written whole when it is finished: which shards exist is all that a later session needs to know.
"""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onelook.cluster.store import Store
from onelook.data import parquet_file
from onelook.errors import ImageError, UserError
from onelook.types import Detections

PLAN, SUMMARY, DETECTIONS, LISTS = "plan.json", "summary.json", "detections", "plan"
_IMAGES_IN_PART = 200_000  # about 20 MB of paths
_COUNTS = b"onelook.counts"  # the key of a shard's counts in its footer


@dataclass
class Counts:
    """What a shard holds, or several together. errors: images that could not be read."""

    images: int = 0
    errors: int = 0
    detections: int = 0
    per_class: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Adds the counts of another shard."""
        self.images += other.images
        self.errors += other.errors
        self.detections += other.detections
        self.per_class.update(other.per_class)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON holds them."""
        return {**vars(self), "per_class": dict(self.per_class.most_common())}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Counts:
        """Counts as JSON holds them."""
        return Counts(plain["images"], plain["errors"], plain["detections"], Counter(plain["per_class"]))


def arrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`."""
    return parquet_file.arrow("Writing Parquet shards", work="detect --on")


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:08d}.parquet"


class ShardRows:
    """The rows of a shard. model: the fingerprint of the model, in every row."""

    def __init__(self, model: str) -> None:
        self.model, self.counts = model, Counts()
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("source", "width", "height", "boxes", "scores", "labels", "classes", "error")
        }

    def add(self, source: str, found: Detections | None, error: ImageError | None = None) -> None:
        """Adds an image with its detections, or with the reason why it could not be read."""
        counts, columns = self.counts, self._columns
        counts.images += 1
        columns["source"].append(source)
        columns["error"].append(None if error is None else error.message)
        if found is None:
            counts.errors += 1
            for name in ("width", "height", "boxes", "scores", "labels", "classes"):
                columns[name].append(None)
            return
        height, width = found.size or (None, None)
        names = found.names
        counts.detections += len(found)
        counts.per_class.update(names)
        rows = {"width": width, "height": height, "boxes": list(found.boxes), "scores": found.scores}
        for name, value in {**rows, "labels": found.labels, "classes": names}.items():
            columns[name].append(value)

    def to_parquet(self) -> bytes:
        """The content of the shard's file."""
        pa, parquet = arrow()
        numbers = pa.list_(pa.float32())
        schema = pa.schema(
            [
                ("source", pa.string()),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
                ("scores", numbers),
                ("labels", pa.list_(pa.int64())),
                ("classes", pa.list_(pa.string())),
                ("error", pa.string()),
                ("model", pa.string()),
            ],
            metadata={_COUNTS: json.dumps(self.counts.to_dict())},
        )
        columns = {**self._columns, "model": [self.model] * self.counts.images}
        out = io.BytesIO()
        parquet.write_table(pa.Table.from_pydict(columns, schema), out)
        return out.getvalue()


def counts_of(content: bytes) -> Counts:
    """The counts of a shard's file. UserError where it is damaged, which no end of a program makes it."""
    pa, parquet = arrow()
    try:
        return Counts.of(json.loads(parquet.read_schema(io.BytesIO(content)).metadata[_COUNTS]))
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
        raise UserError(f"A shard is damaged: {error}.", "Delete it: the same command makes it again.") from error


@dataclass(frozen=True)
class Plan:
    """What a folder's shards hold. settings: that all detections depend on.  images: how many there are."""

    store: Store
    settings: Mapping[str, Any]
    images: int

    @property
    def shard_size(self) -> int:
        """Images in a shard; the last one may have fewer."""
        return int(self.settings["images in a shard"])

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.images // self.shard_size)

    def finished(self) -> set[int]:
        """The numbers of the shards that exist."""
        existing = self.store.names(DETECTIONS)
        return {number for number in range(self.shards) if shard_name(number) in existing}

    def lists(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[str]]]:
        """Shards, by ascending numbers, with their images; one part of the list is in memory at a time."""
        _, parquet = arrow()
        size = self._part_size(self.shard_size)
        part, images = -1, []
        for number in numbers:
            start = number * self.shard_size
            if start // size != part:
                part = start // size
                content = self.store.read(_part_name(part))
                if content is None:
                    raise UserError(
                        f"'{_part_name(part)}' is missing in '{self.store.folder}'.", "Begin in a new folder."
                    )
                images = parquet.read_table(io.BytesIO(content)).column("source").to_pylist()
            start -= part * size
            yield number, images[start : start + self.shard_size]

    @staticmethod
    def _part_size(shard_size: int) -> int:
        return -(-_IMAGES_IN_PART // shard_size) * shard_size

    @staticmethod
    def open(store: Store, settings: Mapping[str, Any], images: Iterable[str]) -> Plan:
        """The plan in a folder, made of `images` where there is none yet. UserError where it is of other settings."""
        content = store.read(PLAN)
        if content is not None:
            kept = _read_json(content, store)
            before = kept.get("settings", {})
            changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if changed:
                held = "; ".join(f"{name} was {before.get(name)}, now {settings.get(name)}" for name in changed)
                raise UserError(
                    f"'{store.folder}' holds other work: {held}.",
                    "Give the same settings to continue it, or another folder (out).",
                )
            return Plan(store, settings, int(kept["images"]))
        pa, parquet = arrow()
        rest, count = iter(images), 0
        part_size = Plan._part_size(int(settings["images in a shard"]))
        for part in itertools.count():
            listed = list(itertools.islice(rest, part_size))
            if not listed:
                break
            out = io.BytesIO()
            parquet.write_table(pa.table({"source": pa.array(listed, pa.string())}), out)
            store.write(_part_name(part), out.getvalue())
            count += len(listed)
        store.write(PLAN, (json.dumps({"settings": settings, "images": count}, indent=1) + "\n").encode())
        return Plan(store, settings, count)


def _part_name(part: int) -> str:
    return f"{LISTS}/part-{part:06d}.parquet"


def _read_json(content: bytes, store: Store) -> dict[str, Any]:
    try:
        found = json.loads(content)
        if isinstance(found, dict) and isinstance(found.get("images"), int):
            return found
    except ValueError:
        pass
    raise UserError(f"'{PLAN}' in '{store.folder}' is damaged.", "Begin in another folder (out).")


class Summary:
    """The counts of all finished shards, kept in a file so that a later session does not read every shard again."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.counts, self.counted = plan, Counts(), set[int]()
        content = plan.store.read(SUMMARY)
        if content is not None:
            try:
                kept = json.loads(content)
                counted = _numbers(kept["shards counted"])
                self.counts, self.counted = Counts.of(kept), counted
            except (ValueError, KeyError, TypeError):
                pass  # it is made again of the shards themselves
        finished = plan.finished()
        if not self.counted <= finished:  # a shard was deleted, to be made again
            self.counts, self.counted = Counts(), set()
        for number in sorted(finished - self.counted):
            self.add(number, counts_of(plan.store.read(f"{DETECTIONS}/{shard_name(number)}") or b""))

    def add(self, number: int, counts: Counts) -> None:
        """Adds a finished shard."""
        self.counts.add(counts)
        self.counted.add(number)

    def write(self, *, seconds: float, failed: Mapping[int, str]) -> None:
        """Writes the file. seconds: of this session.  failed: shards that could not be finished, and why."""
        counts, plan = self.counts, self.plan
        content = {
            "complete": len(self.counted) == plan.shards,
            **counts.to_dict(),
            "images planned": plan.images,
            "shards": plan.shards,
            "shards counted": _ranges(self.counted),
            "shards failed": {str(number): reason for number, reason in failed.items()},
            "seconds of the last session": round(seconds, 1),
            "settings": plan.settings,
        }
        plan.store.write(SUMMARY, (json.dumps(content, indent=1) + "\n").encode())


def _ranges(numbers: set[int]) -> str:
    """Numbers as text: "0-3,5"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _numbers(text: str) -> set[int]:
    """The numbers of such a text."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
