"""The kept index: right as long as the annotations are, built anew when they change or when it is damaged."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import data_sets as make
from data_sets import put
from onelook.data import cache, dataset, open_dataset
from onelook.errors import DataError

MAKERS = {"coco": make.coco, "yolo": make.yolo, "voc": make.voc}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def kept(root: Path) -> list[Path]:
    return sorted((root / ".onelook").glob("*.index"))


def builds(monkeypatch) -> list[str]:
    """Counts how often an index is built."""
    calls: list[str] = []
    original = dataset._build
    monkeypatch.setattr(dataset, "_build", lambda *args: calls.append(args[1]) or original(*args))
    return calls


@pytest.mark.parametrize("kind", MAKERS)
def test_the_second_opening_builds_nothing(tmp_path, monkeypatch, kind):
    root, calls = MAKERS[kind](tmp_path / "data"), builds(monkeypatch)
    first, second = open_dataset(root), open_dataset(root)
    assert calls == ["val"] and len(kept(root)) == 1
    assert all(np.array_equal(first.boxes(i), second.boxes(i)) for i in range(3))
    assert not first.index.boxes.flags.writeable


@pytest.mark.parametrize("kind", MAKERS)
def test_a_change_of_the_same_size_within_the_same_tick_is_noticed(tmp_path, kind):
    root = MAKERS[kind](tmp_path / "data")
    file, old, new = {
        "coco": ("annotations/instances_val.json", "[5, 6, 7, 8]", "[5, 6, 7, 9]"),
        "yolo": ("labels/val/a.txt", "0.25 0.25", "0.35 0.25"),
        "voc": ("Annotations/a.xml", "<xmin>2", "<xmin>4"),
    }[kind]
    path = root / file
    before = path.stat()
    boxes = np.concatenate([open_dataset(root).boxes(i) for i in range(3)])
    text = path.read_text()
    assert old in text
    with open(path, "r+") as stream:  # in place: same inode, same size
        stream.write(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = np.concatenate([open_dataset(root).boxes(i) for i in range(3)])
    assert not np.array_equal(boxes, changed)


def test_content_is_compared_while_times_cannot_tell(tmp_path):
    path = put(tmp_path / "a.txt", "one")
    files = [("a", str(path))]
    before = cache.Snapshot(lambda: files)
    stamp = before.stamp()
    assert before.agrees(stamp, stamp["built"])
    stamp_of_other_content = {**stamp, "fresh": "0" * 32}
    assert not before.agrees(stamp_of_other_content, stamp["built"])
    later = stamp["built"] + 10 * cache.FRESH
    before.taken = later
    assert before.agrees(stamp_of_other_content, later)  # long since found right: times alone decide


def test_names_and_times_packed_in_parts_have_the_same_digest(tmp_path, monkeypatch):
    paths = [put(tmp_path / name, name) for name in ("a", "b", "\u00e9", "d", "e")]
    files = [*((path.name, str(path)) for path in paths), ("gone", str(tmp_path / "gone")), ("\udc80", "")]
    whole = cache.Snapshot(lambda: files)
    monkeypatch.setattr(cache, "_AT_ONCE", 2)
    assert cache.Snapshot(lambda: files).digest == whole.digest
    assert cache.Snapshot(lambda: files[:-1]).digest != whole.digest
    assert cache.Snapshot(lambda: files[::-1]).digest != whole.digest


def test_new_and_removed_files_are_noticed(tmp_path):
    root = make.yolo(tmp_path / "data")
    assert len(open_dataset(root)) == 3
    put(root / "images" / "val" / "d.png", make.png())
    assert len(open_dataset(root)) == 4
    put(root / "labels" / "val" / "b.txt", "1 .5 .5 .5 .5")
    assert open_dataset(root).num_objects.tolist() == [2, 1, 0, 0]
    (root / "labels" / "val" / "a.txt").unlink()
    assert open_dataset(root).labelled.tolist() == [False, True, True, False]


@pytest.mark.parametrize("where", [0, 10, 17, 30, 50, 80, 200, 1000, -1, -200])
def test_a_flipped_byte_never_changes_what_is_read(tmp_path, monkeypatch, where):
    root = make.coco(tmp_path / "data")
    expected = open_dataset(root).coco_ground_truth()
    (path,) = kept(root)
    content = bytearray(path.read_bytes())
    content[where] ^= 0xFF
    path.write_bytes(content)
    assert open_dataset(root).coco_ground_truth() == expected


FORGED: tuple[Any, ...] = (None, True, -1, 1 << 62, 1e308, "", "x", [], [[]], {}, {"x": None})


def values_below(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a JSON document, those that hold others included."""
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from values_below(inner, (*place, key))


@pytest.mark.parametrize("count", [60, pytest.param(None, marks=pytest.mark.slow)])
def test_a_forged_header_with_the_right_checksum_leads_to_a_new_index(tmp_path, count):
    root = make.coco(tmp_path)
    expected = open_dataset(root).coco_ground_truth()
    (path,) = kept(root)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[24:32])
    header, arrays = json.loads(whole[64 : 64 + length]), whole[-(-(64 + length) // 64) * 64 :]
    every = [(place, value) for place in list(values_below(header))[1:] for value in FORGED]
    for place, value in every if count is None else Random(0).sample(every, count):
        forged = copy.deepcopy(header)
        reduce(getitem, place[:-1], forged)[place[-1]] = value
        text = json.dumps(forged).encode()
        start = whole[:24] + struct.pack("<QI", len(text), zlib.crc32(text)) + bytes(28) + text
        path.write_bytes(start + bytes(-len(start) % 64) + arrays)
        opened = open_dataset(root)
        assert place[0] == "meta" or opened.coco_ground_truth() == expected, (place, value)


@pytest.mark.parametrize("length", [0, 1, 20, 64, 500, 1500])
def test_an_index_cut_short_is_built_anew(tmp_path, monkeypatch, length):
    root = make.coco(tmp_path / "data")
    expected = open_dataset(root).coco_ground_truth()
    (path,) = kept(root)
    path.write_bytes(path.read_bytes()[:length])
    calls = builds(monkeypatch)
    assert open_dataset(root).coco_ground_truth() == expected
    assert calls == ["val"]


def test_a_read_only_place_leaves_the_index_in_the_users_cache(tmp_path, monkeypatch):
    root, calls = make.coco(tmp_path / "data"), builds(monkeypatch)
    root.chmod(0o555)
    try:
        open_dataset(root)
        dataset = open_dataset(root)
    finally:
        root.chmod(0o755)
    assert calls == ["val"] and dataset.index.path.is_relative_to(tmp_path / "user cache" / "onelook")


def test_without_any_cache_folder_a_temporary_one_is_used_and_said(tmp_path, monkeypatch, caplog):
    root = make.coco(tmp_path / "data")
    monkeypatch.setattr(cache, "_places", lambda beside: [Path("/dev/null/nowhere")])
    dataset = open_dataset(root)
    assert len(dataset) == 3 and "No cache folder" in caplog.text
    monkeypatch.setattr(cache.tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(OSError("full")))
    dataset = open_dataset(root)
    copy = pickle.loads(pickle.dumps(dataset))
    assert dataset.index.path is None and np.array_equal(copy.boxes(1), dataset.boxes(1))


def test_a_pickle_is_refused_once_its_index_was_replaced(tmp_path):
    root = make.coco(tmp_path / "data")
    packed = pickle.dumps(open_dataset(root))
    pickle.loads(packed)
    make.coco(root, make.changed(annotations_0={"bbox": [1, 1, 1, 1]}))
    open_dataset(root)
    with pytest.raises(DataError, match="changed"):
        pickle.loads(packed)


def test_a_pickle_outlives_an_equal_index(tmp_path):
    """Processes that start a training together each build the index; the last one's stays."""
    root = make.coco(tmp_path / "set")
    dataset = open_dataset(root)
    (file,) = kept(root)
    before = file.read_bytes()
    file.unlink()
    open_dataset(root)
    assert file.read_bytes() != before  # it tells when it was made
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).sizes, dataset.sizes)


def test_processes_that_build_at_once_agree(tmp_path):
    root = make.yolo(tmp_path / "data")
    code = (
        "import sys; from onelook.data import open_dataset; sys.stdin.readline();"
        "print(open_dataset(sys.argv[1]).boxes(0).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = {process.communicate(timeout=60)[0] for process in processes}
    assert len(said) == 1 and "[" in said.pop()
    assert len(kept(root)) == 1 and not list((root / ".onelook").glob("*.tmp"))
