"""Shards: tar files of WebDataset, each image followed by its annotation, on a disk or in an object store.

The index remembers where every image lies in its shard, so that images are read in any order, one range of bytes each.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import msgspec

from onelook.data.braces import expand_braces
from onelook.data.cache import user_cache
from onelook.data.class_names import CLASS_LIMIT, first_names, unique_names
from onelook.data.formats.base import FilesOf, Format, Part, Source
from onelook.data.formats.shard_reader import read_split
from onelook.data.formats.shard_writer import MANIFEST, ShardWriter
from onelook.data.jsonstream import integer
from onelook.data.paths import plain_name, read_bytes
from onelook.data.remote import Url, exists, file_facts, matching, read_range, url_of
from onelook.data.split_names import WHOLE, named_splits, split_word
from onelook.errors import DataError

_NAME_FILES = ("classes.txt", "labels.txt", "names.txt")
_MANIFEST_LIMIT = 1 << 26  # bytes: a million shards
_REMEDY = "Write it anew: onelook convert DATA --to shards --out FOLDER"


def find(root: Path) -> Source | None:
    """The shards that a `shards.json` lists; None without one."""
    source = find_file(root / MANIFEST)
    return None if source is None else replace(source, described_by=root)


def find_flat(root: Path) -> Source | None:
    """The tar files in a folder, or in folders named after splits; None without any."""
    found = sorted(root.glob("*.tar")) or [
        path for path in sorted(root.glob("*/*.tar")) if _split_of_folder(path.parent.name)
    ]
    shards = [str(path) for path in found if not path.name.startswith(".")]
    return _source(root, root, shards, first_names(root, _NAME_FILES)) if shards else None


def find_file(path: Path) -> Source | None:
    """The data set of a `shards.json`, or of a single tar file."""
    if path.name == MANIFEST and path.is_file():
        return _listed(path.parent, path, read_bytes(path, _MANIFEST_LIMIT), str(path), str(path.parent))
    if path.suffix.lower() != ".tar" or not path.is_file():
        return None
    return _source(path.parent, path, [str(path)], first_names(path.parent, _NAME_FILES))


def find_pattern(text: str) -> Source | None:
    """The shards that a URL, or a pattern such as `data/train-{000..099}.tar`, names; None for other texts.

    A URL that does not end in `.tar` is a folder with a `shards.json`, or with tar files in it.
    """
    url = url_of(text)
    if url is None and (".tar" not in text or not ("{" in text or has_magic(text))):
        return None
    if url is not None and not url.endswith(".tar"):
        return _remote_folder(url)
    patterns = expand_braces(url or os.path.expanduser(text))
    shards = [shard for pattern in patterns for shard in _matching(pattern)]
    if not shards:
        raise DataError(f"No shard matches '{text}'.", "Check the pattern; * and {000..099} are filled in.")
    if url is not None:
        return _source(_cache_root(url), url, shards, None)
    shards = [os.path.abspath(shard) for shard in shards]
    folder = Path(os.path.commonpath([os.path.dirname(shard) for shard in shards]))
    return _source(folder, Url(text), shards, first_names(folder, _NAME_FILES))


def _matching(pattern: str) -> list[str]:
    if url_of(pattern) is not None:
        return matching(pattern) if has_magic(pattern) else [pattern]
    return sorted(glob(pattern)) if has_magic(pattern) else [pattern]


def _remote_folder(url: Url) -> Source:
    folder = url.removesuffix(MANIFEST).rstrip("/")
    manifest, root = f"{folder}/{MANIFEST}", _cache_root(url)
    if exists(manifest):
        size = file_facts([manifest])[0][0]
        if size > _MANIFEST_LIMIT:
            raise DataError(f"'{manifest}' has {size:,} bytes, more than any list of shards.", _REMEDY)
        return _listed(root, url, read_range(manifest, 0, size), manifest, folder)
    shards = matching(f"{folder}/*.tar") or matching(f"{folder}/*/*.tar")
    if not shards:
        raise DataError(f"There is neither '{manifest}' nor a tar file in '{url}'.", "Name the shards: URL/*.tar")
    return _source(root, url, shards, None)


def _cache_root(url: str) -> Path:
    """A path that stands for the folder of a URL, under whose name its index is kept; nothing is made there."""
    return user_cache() / "remote" / hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def _source(root: Path, described_by: Path | Url, shards: Sequence[str], names: tuple[str, ...] | None) -> Source:
    """A data set of shards that only their names assign to splits: `train-000.tar`, `val/000.tar`."""
    splits: dict[str, list[str]] = {}
    for shard in dict.fromkeys(shards):
        folder, _, name = shard.replace(os.sep, "/").rpartition("/")
        splits.setdefault(split_word(name) or _split_of_folder(folder.rpartition("/")[2]) or "", []).append(shard)
    others = splits.pop("", []) if len(splits) > 1 else []
    notes = [f"tar files whose names tell no split, which are not used: {len(others)}"] if others else []
    parts = {split or WHOLE: Part(shards=tuple(listed)) for split, listed in splits.items()}
    return Source(SHARDS, root, described_by, named_splits(parts), names, notes=tuple(notes))


def _split_of_folder(name: str) -> str | None:
    """The split that a folder is named after (`train`, `val2017`); other names may contain such a word by chance."""
    return split_word(name) if re.fullmatch(r"[a-z]+\d*", name.lower()) else None


def _listed(root: Path, described_by: Path | Url, text: bytes, name: str, folder: str) -> Source:
    """The data set of the content of a `shards.json`."""
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"'{name}' is not valid JSON: {error}.", _REMEDY) from None
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or not splits:
        raise DataError(f"'{name}' has no 'splits', a list of shards for each split.", _REMEDY)
    parts = {}
    for split, shards in splits.items():
        if not isinstance(shards, list) or not shards or any(plain_name(shard) is None for shard in shards):
            raise DataError(f"'{name}': '{split[:60]}' must be a list of tar files beside it.", _REMEDY)
        parts[split] = Part(shards=tuple(f"{folder}/{plain_name(shard)}" for shard in shards))
    names, ids, extras = _classes(content.get("classes"), name)
    return Source(SHARDS, root, described_by, parts, names, category_ids=ids, category_extras=extras)


def _classes(given: Any, name: str) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Mapping[str, Any], ...]]:
    entries = given if isinstance(given, list) and len(given) <= CLASS_LIMIT else [None]
    names, ids, extras = [], [], []
    for entry in entries:
        found = entry if isinstance(entry, dict) else {}
        label, number = found.get("name"), integer(found.get("id"))
        if not isinstance(label, str) or not label.strip() or number is None:
            raise DataError(f"'{name}': 'classes' must be a list of id and name of each class.", _REMEDY)
        names.append(label)
        ids.append(number)
        extras.append({key: value for key, value in found.items() if key not in ("id", "name")})
    if len(set(ids)) < len(ids):
        raise DataError(f"'{name}' gives two classes one id.", _REMEDY)
    return unique_names(tuple(names), Path(name)), tuple(ids), tuple(extras)


def _files_of(source: Source, split: str) -> FilesOf:
    """The shards, and what names the classes."""
    yield json.dumps([source.names, source.category_ids]), ""
    shards = source.parts[split].shards
    remote = [shard for shard in shards if url_of(shard) is not None]
    if remote:
        for shard, (size, mark) in zip(remote, file_facts(remote)):
            yield f"{shard}|{size}|{mark}", ""
        return
    for shard in shards:
        yield shard.removeprefix(f"{source.root}/"), shard


SHARDS = Format(
    name="shards",
    title="shards (WebDataset)",
    layout="shards.json, or tar files of images with .json or .txt annotations: {split}-*.tar or {split}/*.tar",
    find=find,
    find_flat=find_flat,
    find_file=find_file,
    find_pattern=find_pattern,
    files_of=_files_of,
    read=read_split,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: path,
    write=ShardWriter,
    write_options=("shard_size", "reporter"),
    stores_images=True,
    has_ids=True,
    lists_images=True,
)
