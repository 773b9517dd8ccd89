"""Tiny data sets in every layout, for tests to read and to damage."""

from __future__ import annotations

import copy
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

from onelook.data.check import check
from onelook.reporter import SilentReporter

WIDTH, HEIGHT = 64, 48
NAMES = ["cat", "dog"]


def png(width: int = WIDTH, height: int = HEIGHT, grey: int = 0) -> bytes:
    """A grey PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([grey]) * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def put(path: Path, content: str | bytes) -> Path:
    """Writes a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, "license": 3},
        {"id": 3, "file_name": "sub/b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 5, "file_name": "c.png", "width": WIDTH, "height": HEIGHT},
    ],
    "annotations": [
        {"id": 11, "image_id": 3, "category_id": 90, "bbox": [1.5, 2.25, 10, 20], "area": 55.5, "iscrowd": 0}
        | {"segmentation": [[1.5, 2.25, 11.5, 2.25, 11.5, 22.25]]},
        {"id": 12, "image_id": 7, "category_id": 2, "bbox": [0, 0, 64, 48], "iscrowd": 1}
        | {"segmentation": {"counts": [0, 3072], "size": [48, 64]}},
        {"id": 10, "image_id": 7, "category_id": 90, "bbox": [5, 6, 7, 8], "area": 56, "iscrowd": 0, "score_hint": 0.5},
    ],
    "categories": [{"id": 90, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "cat"}],
}


def coco(root: Path, content: dict[str, Any] | str | bytes | None = None, split: str = "val") -> Path:
    """`annotations/instances_{split}.json` beside `{split}/`. content: replaces the JSON."""
    for grey, name in enumerate(("a.png", "sub/b.png", "c.png")):
        put(root / split / name, png(grey=grey))
    content = COCO if content is None else content
    text = json.dumps(content) if isinstance(content, dict) else content
    put(root / "annotations" / f"instances_{split}.json", text)
    return root


def changed(**new: Any) -> dict[str, Any]:
    """The COCO dictionary with other values: `annotations_0={"bbox": None}` updates one entry, `images=[]` a list."""
    result = copy.deepcopy(COCO)
    for key, value in new.items():
        name, _, number = key.partition("_")
        if number:
            result[name][int(number)].update(value)
        else:
            result[name] = value
    return result


def yolo(root: Path, label: str | bytes = "0 .5 .5 .25 .5\n1 0.25 0.25 0.1 0.1\n", split: str = "val") -> Path:
    """`images/{split}` + `labels/{split}` + `data.yaml`; the label is for a.png, b.png has none, c.png an empty one."""
    for grey, name in enumerate(("a.png", "b.png", "c.png")):
        put(root / "images" / split / name, png(grey=grey))
    put(root / "labels" / split / "a.txt", label)
    put(root / "labels" / split / "c.txt", "")
    put(root / "data.yaml", f"{split}: images/{split}\nnames: [cat, dog]\n")
    return root


def voc_object(name: str = "dog", box: tuple[Any, ...] = (2, 3, 12, 23), more: str = "") -> str:
    """One `<object>`."""
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object>\n<name>{name}</name>\n{more}<bndbox>{sides}</bndbox>\n</object>\n"


def voc_xml(objects: str = "", head: str = "", size: str | None = None) -> str:
    """One annotation file."""
    given = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size is None else size
    return f"{head}<annotation>\n<filename>a.png</filename>\n{given}\n{objects}</annotation>\n"


def voc(root: Path, xml: str | bytes | None = None, split: str = "val") -> Path:
    """JPEGImages, Annotations, ImageSets/Main; a.png has the XML given, b.png another, c.png none."""
    for grey, name in enumerate(("a.png", "b.png", "c.png")):
        put(root / "JPEGImages" / name, png(grey=grey))
    put(root / "Annotations" / "a.xml", voc_xml(voc_object() + voc_object("cat")) if xml is None else xml)
    put(root / "Annotations" / "b.xml", voc_xml(voc_object("cat", more="<difficult>1</difficult>")))
    put(root / "ImageSets" / "Main" / f"{split}.txt", "a\nb\nc\n")
    return root


def without_objects(data: Path, folder: Path, split: str = "val") -> Path:
    """A copy of a COCO data set, one of whose splits shows no object."""
    shutil.copytree(data, folder)
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    return folder


def codes(root: Path) -> set[str]:
    return {problem.code for problem in check(root, reporter=SilentReporter()).problems}


def said(root: Path) -> str:
    """What check says of a data set."""
    report = check(root, reporter=SilentReporter())
    return " ".join([*report.summary["notes"], *map(str, report.problems)])
