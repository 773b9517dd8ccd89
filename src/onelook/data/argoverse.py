"""Argoverse-HD: COCO JSON of video frames, whose images are named by a sequence and a file name in its folder.

An image has `sid` (number of its sequence), `fid` (number of the frame) and `name`; the file's `seq_dirs` holds the
folder of every sequence, relative to the images of Argoverse 1.1 (Li et al., ECCV 2020, section 5.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onelook.data.building import Images
from onelook.data.paths import plain_name
from onelook.errors import DataError

KEYS = ("sequences", "seq_dirs", "coco_subset")
"""Top-level keys of a file, beside those of COCO."""


def name_of(image: Mapping[str, Any]) -> object:
    """The file name of an image entry: `file_name`, or `name` of a frame of a sequence."""
    return image.get("file_name", image.get("name") if "sid" in image else None)


def join_folders(source: str, images: Images, folders: object) -> None:
    """Puts the folder of its sequence before the name of every image; DataError for a sequence without a folder."""
    if not isinstance(folders, list) or not all(plain_name(folder) for folder in folders):
        raise DataError(f"{source}: 'seq_dirs' must be a list of folders.", "Correct the file, or download it again.")
    names, extras = images.names.texts(), images.extras.texts()
    joined = type(images.names)()
    for number, (name, extra) in enumerate(zip(names, extras)):
        sequence = json.loads(extra).get("sid") if extra else None
        if not isinstance(sequence, int) or not 0 <= sequence < len(folders):
            raise DataError(
                f"{source}: images[{number}] has 'sid' {sequence!r}, but 'seq_dirs' has {len(folders)} folders.",
                "Correct the file, or download it again.",
            )
        joined.add(f"{folders[sequence]}/{name}")
    images.names = joined


def class_name(name: str) -> str:
    """COCO's spelling of a class: traffic_light is its traffic light."""
    return name.replace("_", " ")


def image_folders(root: Path) -> list[Path]:
    """Where the images of Argoverse 1.1 are, among the places that exist; root: the folder of the annotations."""
    places = [root.parent / "Argoverse-1.1/tracking", root / "Argoverse-1.1/tracking", root / "tracking"]
    return [place for place in places if place.is_dir()]
