"""Decodes with Pillow the images that OpenCV gets wrong or cannot read. Pillow is imported when the first one comes.

Measured against Pillow with OpenCV 4.10 to 5.0: AVIF loses its turn and, with alpha, exchanges red and blue; the alpha
of a TIFF is multiplied into its colours, and its Lab is off; JPEG 2000 in YCbCr or CMYK, the transparent background of
a GIF and the 5-bit colours of a BMP come out otherwise. `Header.needs_pillow` says which files these are.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def decode_with_pillow(data: bytes, kind: str, pixels: int) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, upright, of the first image of a file of this format; None where Pillow cannot.

    pixels: H times W by our own reading of the file. A file with a second, larger size inside (JPEG 2000 has one in its
    codestream and one in a box before it) is not decoded: Pillow would take memory for that one.

    Alpha is dropped, and where it was multiplied into the colours, that is undone.
    """
    from PIL import ImageOps

    try:
        with _opener(kind)(io.BytesIO(data)) as image:
            if image.width * image.height > pixels:
                return None
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception:  # damaged bytes raise errors of any kind in the readers of the formats
        return None


def _opener(kind: str) -> Any:
    """The reader of one format: `Image.open` would try all others as well."""
    if kind == "AVIF":
        from PIL.AvifImagePlugin import AvifImageFile

        return AvifImageFile
    if kind == "HEIC":
        from pillow_heif.as_plugin import HeifImageFile

        return HeifImageFile
    if kind == "JPEG 2000":
        from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

        return Jpeg2KImageFile
    if kind == "TIFF":
        from PIL.TiffImagePlugin import TiffImageFile

        return TiffImageFile
    if kind == "GIF":
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile
    if kind == "BMP":
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile
    raise ValueError(kind)


def _to_rgb(image: Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's own conversion makes everything above 255 white
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "La":
        image = image.convert("LA")
    return np.array(image.convert("RGB"))
