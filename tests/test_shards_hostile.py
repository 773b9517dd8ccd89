"""Damaged and hostile tar files: an error names the shard and the member, and nothing is unpacked or allocated."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data_sets as make
from data_sets import put
from onelook.data.check import check
from onelook.data.convert import convert
from onelook.data.formats.tar_samples import read_samples
from onelook.errors import DataError, ImageError
from shard_files import QUIET, annotation, opened, shard


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))
    monkeypatch.setattr("os.fsync", lambda file: None)  # nothing has to survive a loss of power, and a disk takes long


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def _overwrite(path: Path, place: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)


GOOD = [("a.png", make.png()), ("a.json", annotation()), ("b.png", make.png(grey=1)), ("b.json", annotation())]


def sample(*more: tuple[str, bytes | str]) -> Callable[[Path], Any]:
    return lambda path: shard(path, [*GOOD, *more])


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut inside an image": (lambda path: (sample()(path), _cut(path, 560)), r"train\.tar/a\.png' is cut short"),
    "cut between two members": (lambda path: (sample()(path), _cut(path, 2048)), "end mark is missing"),
    "damaged header": (lambda path: (sample()(path), _overwrite(path, 2048, b"\xff" * 200)), "damaged at byte 2,048"),
    "not a tar file": (lambda path: put(path, b"x" * 5000), "no tar file"),
    "empty": (lambda path: put(path, b""), "empty"),
    "compressed": (lambda path: put(path, gzip.compress(b"x")), "compressed"),
    "a path out of it": (sample(("../../x.png", make.png())), r"train\.tar': the name '\.\./\.\./x\.png'"),
    "an absolute path": (sample(("/x.png", make.png())), "must be a path inside"),
    "a control character": (sample(("x\n.png", make.png())), "must not hold"),
    "a link": (lambda path: shard(path, [("a.png", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "two images of a sample": (
        sample(("c.png", make.png()), ("c.jpg", make.png())),
        r"train\.tar/c\.jpg' is a second image of its sample",
    ),
    "XML": (sample(("c.png", make.png()), ("c.xml", "<annotation/>")), r"train\.tar/c\.xml' is an annotation in XML"),
    "JSON": (sample(("c.png", make.png()), ("c.json", "{")), r"train\.tar/c\.json: not valid JSON"),
    "JSON, deep": (sample(("c.png", make.png()), ("c.json", "[" * 100_000)), r"train\.tar/c\.json: not valid JSON"),
    "a list": (sample(("c.png", make.png()), ("c.json", "[]")), r"train\.tar/c\.json: the JSON must be an object"),
    "another layout": (
        sample(("c.png", make.png()), ("c.json", '{"boxes": [[1, 2, 3, 4]]}')),
        r"train\.tar/c\.json: there is 'boxes', but no 'annotations'",
    ),
    "a box of text": (
        sample(("c.png", make.png()), ("c.json", annotation(box="abcd"))),
        r"train\.tar/c\.json.*: annotations\[0\]: 'bbox' must be four finite numbers",
    ),
    "no class": (
        sample(("c.png", make.png()), ("c.json", '{"annotations": [{"bbox": [1, 2, 3, 4]}]}')),
        r"train\.tar/c\.json: annotations\[0\]: it needs a 'category'",
    ),
    "a row of text": (
        sample(("c.png", make.png()), ("c.txt", "0 .5 .5 .2 .2\n0 a b c d\n")),
        r"train\.tar/c\.txt:2: '0 a b c d' holds what is not a finite number",
    ),
    "no image": (sample(("c.png", "nothing")), r"train\.tar/c\.png' is not an image"),
    "a size that is none": (
        sample(("c.png", make.png()), ("c.json", '{"width": -3, "height": 4, "annotations": []}')),
        r"train\.tar/c\.json: images\[2\]: 'width' must be a positive number",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_shard_is_named_with_its_member(tmp_path: Path, what: str) -> None:
    write, message = HOSTILE[what]
    write(tmp_path / "data/train.tar")
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / "data")
    assert caught.value.remedy
    report = check(tmp_path / "data", reporter=QUIET)
    assert report.exit_code == 1 and any(str(tmp_path / "data/train.tar") in str(one) for one in report.problems)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"train.tar", ".onelook"}  # nothing was unpacked


def test_a_header_of_gigabytes_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """An extended header is read as one block, whose length the file states; a sparse file costs nothing to make."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with put(tmp_path / "train.tar", info.tobuf()).open("r+b") as file:
        file.truncate(4 << 30)
    with pytest.raises(DataError, match="an extended header of 3,221,225,472 bytes"):
        read_samples(str(tmp_path / "train.tar"))


@pytest.mark.parametrize("size", ["-512", "-99999", "9" * 30])
def test_a_size_that_leads_backwards_or_nowhere_ends(tmp_path: Path, size: str) -> None:
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": size}
        tar.addfile(info)
    with pytest.raises(DataError, match=r"train\.tar"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "has no 'splits'"),
        ('{"splits": {"train": ["../a.tar"]}, "classes": []}', "must be a list of tar files beside it"),
        ('{"splits": {"train": ["s3://b/a.tar"]}, "classes": [{"id": "a"}]}', "'classes' must be a list"),
        ('{"splits": {"train": ["a.tar"]}, "classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "one id"),
        ('{"splits": {"train": ["a.tar"]}, "classes": [{"id": 1, "name": "a"}]}', r"a\.tar' cannot be read: no such"),
    ],
)
def test_a_list_of_shards_that_is_wrong_says_what(tmp_path: Path, content: str, message: str) -> None:
    put(tmp_path / "shards.json", content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_classes_that_the_list_lacks_are_an_error(tmp_path: Path) -> None:
    put(tmp_path / "shards.json", '{"splits": {"train": ["a.tar"]}, "classes": [{"id": 4, "name": "dog"}]}')
    for entry, said in ((annotation("cat"), "the class 'cat'"), (annotation("cat").replace('"cat"', "3"), "it needs")):
        shard(tmp_path / "a.tar", [("a.png", make.png()), ("a.json", entry)])
        with pytest.raises(DataError, match=f"a\\.json: annotations\\[0\\]: {said}"):
            opened(tmp_path)


def test_a_shard_that_was_replaced_is_read_again_and_one_that_shrank_later_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.tar", GOOD)
    dataset = opened(tmp_path)
    assert len(dataset) == 2
    path.write_bytes(path.read_bytes()[:2200])
    with pytest.raises(ImageError, match=r"train\.tar/b\.png' is cut short"):
        dataset.image(1)
    shard(path, GOOD[:2])
    assert len(opened(tmp_path)) == 1
    path.unlink()
    with pytest.raises(ImageError, match=r"train\.tar/a\.png' cannot be read: no such file"):
        dataset.image(0)


def test_an_annotated_size_that_the_image_lacks_is_a_problem(tmp_path: Path) -> None:
    content = {"width": 10, "height": 10, "annotations": [{"bbox": [1, 2, 3, 4], "category": "cat"}]}
    shard(tmp_path / "train.tar", [("a.png", make.png()), ("a.json", json.dumps(content))])
    assert opened(tmp_path).sizes.tolist() == [[10, 10]]
    assert "image-size-mismatch" in {problem.code for problem in check(tmp_path, reporter=QUIET).problems}
    with pytest.raises(DataError, match=r"train\.tar/a\.png' is 64 x 48 pixels, but annotated as 10 x 10"):
        convert(tmp_path, to="coco", out=tmp_path / "out", reporter=QUIET)
