"""Checks the images of a data set: missing, damaged, of another size than annotated, in two splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from onelook.data.annotated_sizes import REMEDY, Misfit
from onelook.data.formats.base import ReadSplit
from onelook.data.members import ImageFile, read_image_file
from onelook.data.problems import Problems
from onelook.data.sizes import image_size
from onelook.data.split_names import share_images
from onelook.devices import num_cores
from onelook.errors import ImageError
from onelook.reporter import Progress, Reporter

FILE_LIMIT = 1 << 30


@dataclass(frozen=True)
class CheckedImage:
    """One image file: its displayed size, a digest of its content where it was read, or its error."""

    size: tuple[int, int] | None = None
    digest: bytes | None = None
    error: ImageError | None = None


def check_image(path: ImageFile, *, quick: bool) -> CheckedImage:
    """Reads one image: its header only (`quick`), or all of it."""
    try:
        size = image_size(path)
        if quick:
            return CheckedImage(size)
        data = read_image_file(path, FILE_LIMIT)
        from onelook.data.images import decode_image

        size = decode_image(data, name=str(path)).shape[:2]
        return CheckedImage((size[0], size[1]), hashlib.blake2b(data, digest_size=16).digest())
    except ImageError as error:
        return CheckedImage(error=error)
    except OSError as error:
        return CheckedImage(error=ImageError(f"The image '{path}' cannot be read: {error}.", "Check the file."))


def look_at_all(paths: Sequence[ImageFile], progress: Progress, *, quick: bool) -> dict[ImageFile, CheckedImage]:
    """Reads every image, by a few threads: its header only (`quick`), or all of it."""
    workers = min(8, num_cores())
    found: dict[ImageFile, CheckedImage] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 64):  # in small parts, so that Ctrl-C ends it at once
            part = paths[start : start + 64]
            found.update(zip(part, pool.map(lambda path: check_image(path, quick=quick), part)))
            progress(start + len(part), len(paths))
    return found


def check_images(read: Sequence[ReadSplit], problems: Problems, reporter: Reporter, *, quick: bool) -> None:
    """Checks every image once, however many splits hold it."""
    paths = list(dict.fromkeys(part.image_file(row) for part in read for row in range(len(part.index))))
    with reporter.progress("Checking images") as progress:
        looked = look_at_all(paths, progress, quick=quick)
    reported: set[ImageFile] = set()
    for part in read:
        for row in range(len(part.index)):
            path = part.image_file(row)
            found = looked[path]
            if path not in reported:
                reported.add(path)
                _report(part, row, path, found, problems)
    if not quick:
        _report_repeated(read, looked, problems)


def _report(part: ReadSplit, row: int, path: ImageFile, found: CheckedImage, problems: Problems) -> None:
    if found.error is not None:
        missing = isinstance(path, str) and not os.path.lexists(path)
        line = int(part.image_lines[row]) or None
        place = {"file": part.annotation_file(row), "line": line} if missing else {"file": str(path)}
        code = "image-missing" if missing else "image-unreadable"
        problems.error(code, found.error.message, found.error.remedy, **place)
        return
    annotated = tuple(part.index.sizes[row].tolist())
    if found.size is not None and annotated != found.size:
        misfit = Misfit(str(path), found.size, (annotated[0], annotated[1]))
        place = {"file": part.annotation_file(row), "line": int(part.image_lines[row]) or None}
        problems.error("image-size-mismatch", f"{misfit}.", REMEDY, **place)


def _report_repeated(read: Sequence[ReadSplit], looked: dict[ImageFile, CheckedImage], problems: Problems) -> None:
    """The same content under two names, or in two splits that share no images by design."""
    first: dict[bytes, dict[str, ImageFile]] = {}
    for part in read:
        for row in range(len(part.index)):
            path = part.image_file(row)
            digest = looked[path].digest
            if digest is None:
                continue
            seen = first.setdefault(digest, {})
            for split, other in seen.items():
                if split == part.split:
                    message = f"The same image is in the split '{split}' twice: '{other}' and '{path}'."
                    problems.warning("image-duplicate", message, "Remove one of the two.", file=str(path))
                elif not share_images(split, part.split):
                    message = f"The same image is in the splits '{split}' ('{other}') and '{part.split}' ('{path}')."
                    remedy = "Remove it from one of them, or results will look better than they are."
                    problems.warning("image-in-two-splits", message, remedy, file=str(path))
            seen.setdefault(part.split, path)
