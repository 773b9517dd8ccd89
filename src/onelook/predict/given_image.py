"""An image as a caller of `detect` gives it: a path, the bytes of a file, an array, or a PIL image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np

from onelook.data.images import MAX_PIXELS, decode_image
from onelook.errors import ImageError


class PilImage(Protocol):
    """What `detect` uses of a PIL image; Pillow itself is not imported."""

    @property
    def mode(self) -> str: ...

    def convert(self, mode: str) -> Any: ...


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | PilImage
"""An image: a path, the bytes of an image file, an (H, W, 3) uint8 RGB array, or a PIL image."""


def are_several(source: ImageLike | Sequence[ImageLike]) -> TypeGuard[Sequence[ImageLike]]:
    """Whether these are several images: a path and the bytes of a file are sequences too, but one image."""
    return isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)


def read_image(source: Any, *, bgr: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, bytes, an array or a PIL image; ImageError for anything else.

    bgr: whether an array has the order blue, green, red.
    """
    if isinstance(source, np.ndarray):
        checked = check_array(source)
        return np.ascontiguousarray(checked[..., ::-1]) if bgr else checked
    if isinstance(source, str | os.PathLike):
        return decode_image(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source))
    if hasattr(source, "convert") and hasattr(source, "mode"):
        return _from_pil(source)
    kind = type(source).__name__
    if hasattr(source, "detach"):
        raise ImageError("A torch tensor is no image here.", "Give an (H, W, 3) uint8 RGB array: tensor.numpy().")
    raise ImageError(
        f"A {kind} is no image.",
        "Give a path, an (H, W, 3) uint8 RGB array, a PIL image, the bytes of an image file, or a list.",
    )


def check_array(image: np.ndarray) -> np.ndarray:
    """The image itself; ImageError with the way to make it (H, W, 3) uint8 RGB where it is not."""
    said = f"An image is an (H, W, 3) uint8 RGB array, not {image.shape} {image.dtype}."
    if image.ndim == 4:
        raise ImageError(said, "Give a batch as a list of images: list(images).")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ImageError(said, "Make grey images RGB: np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2).")
    if image.ndim != 3:
        raise ImageError(said, "Give one image, with rows, columns and three colours.")
    if image.shape[2] != 3:
        hint = "Move the colours to the end: image.transpose(1, 2, 0)." if image.shape[0] == 3 else "Give 3 colours."
        raise ImageError(said, "Leave out the alpha channel: image[..., :3]." if image.shape[2] == 4 else hint)
    if image.dtype != np.uint8:
        floating = np.issubdtype(image.dtype, np.floating)
        how = "(image * 255).round().astype(np.uint8), if it is 0..1" if floating else "image.astype(np.uint8)"
        raise ImageError(said, f"Convert it: {how}.")
    if image.size == 0:
        raise ImageError(f"An image of {image.shape[1]} x {image.shape[0]} pixels is empty.", "Give a larger one.")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"The image has {image.shape[1]} x {image.shape[0]} pixels; the limit is {MAX_PIXELS:,}.",
            "Cut it, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
        )
    return image


def _from_pil(image: Any) -> np.ndarray:
    """A PIL image as it is, without turning it: boxes are in its own pixels. Alpha is dropped, 16 bits are scaled."""
    try:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return check_array(np.repeat(grey[..., None], 3, axis=2))
        if image.mode in ("I", "F"):
            raise ImageError(f"A PIL image of mode '{image.mode}' has no known white.", "Convert it to mode 'RGB'.")
        return check_array(np.array(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes now, and raises these for damaged files
        raise ImageError(f"The PIL image cannot be decoded: {error}.", "Replace the file.") from error


def name_of(source: Any) -> str | None:
    """The path of an image that was given as one; None for others."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None
