"""Images of every file format, encoded by Pillow and OpenCV, with the pixels that they must decode to."""

import io

import cv2
import numpy as np
from PIL import Image

NEWER = tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (
    4,
    11,
)  # than those that read neither GIF nor animations


def sample_image(height=48, width=64):
    """An image whose every quarter-turn and mirror image differs."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 200, height)[:, None]
    image[: height // 4, : width // 4] = 255
    image[-height // 5 :, : width // 3] = (200, 10, 10)
    return image


def noise(height=240, width=320):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


def close(found, wanted, tolerance=0.0):
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() <= tolerance


PLAIN = sample_image()
GREY = np.repeat(np.array(Image.fromarray(PLAIN).convert("L"))[..., None], 3, 2)
SIXTEEN = PLAIN.astype(np.uint16) * 257


def written_by_opencv(array, suffix):
    return cv2.imencode(suffix, array)[1].tobytes()


KINDS = {
    "JPEG": (encoded(PLAIN, "JPEG", quality=97), PLAIN, 2.0),
    "progressive JPEG": (encoded(PLAIN, "JPEG", quality=97, progressive=True), PLAIN, 2.0),
    "grey JPEG": (encoded(Image.fromarray(PLAIN).convert("L"), "JPEG", quality=97), GREY, 1.0),
    "CMYK JPEG": (encoded(Image.fromarray(PLAIN).convert("CMYK"), "JPEG", quality=97), PLAIN, 2.0),
    "PNG": (encoded(PLAIN, "PNG"), PLAIN, 0),
    "palette PNG": (encoded(Image.fromarray(PLAIN).quantize(256), "PNG"), PLAIN, 6.0),
    "palette PNG with transparency": (
        encoded(Image.fromarray(PLAIN).quantize(256), "PNG", transparency=3),
        PLAIN,
        6.0,
    ),
    "1-bit PNG": (encoded(Image.fromarray(GREY[..., 0] > 99), "PNG"), np.where(GREY > 99, 255, 0), 0),
    "grey and alpha PNG": (encoded(Image.fromarray(PLAIN).convert("LA"), "PNG"), GREY, 0),
    "RGBA PNG: alpha is dropped": (
        encoded(np.dstack([PLAIN, np.full(PLAIN.shape[:2], 7, np.uint8)]), "PNG"),
        PLAIN,
        0,
    ),
    "16-bit grey PNG": (encoded(Image.fromarray(GREY[..., 0].astype(np.uint16) * 257), "PNG"), GREY, 0),
    "16-bit RGB PNG": (written_by_opencv(SIXTEEN[..., ::-1], ".png"), PLAIN, 0),
    "16-bit RGB TIFF": (written_by_opencv(SIXTEEN[..., ::-1], ".tiff"), PLAIN, 0),
    "float RGB TIFF in 0..1": (written_by_opencv((PLAIN[..., ::-1] / 255).astype(np.float32), ".tiff"), PLAIN, 0),
    "float RGB TIFF in 0..255": (written_by_opencv(PLAIN[..., ::-1].astype(np.float32), ".tiff"), PLAIN, 0),
    "float grey TIFF": (encoded(Image.fromarray(GREY[..., 0].astype(np.float32) / 255), "TIFF"), GREY, 0),
    "CMYK TIFF": (encoded(Image.fromarray(PLAIN).convert("CMYK"), "TIFF"), PLAIN, 1.0),
    "multi-page TIFF: the first page": (
        encoded(PLAIN, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        PLAIN,
        0,
    ),
    "BMP": (encoded(PLAIN, "BMP"), PLAIN, 0),
    "WebP": (encoded(PLAIN, "WEBP", lossless=True), PLAIN, 0),
    "PPM": (encoded(PLAIN, "PPM"), PLAIN, 0),
    "PPM whose white is 51": (b"P6 # five times darker\n64 48\n51\n" + (PLAIN // 5).tobytes(), PLAIN // 5 * 5, 0),
    "PGM whose white is 4095": (
        b"P5\n64 48\n4095\n" + (GREY[..., 0].astype(np.uint16) * 16).astype(">u2").tobytes(),
        GREY,
        1.0,
    ),
    "PFM": (written_by_opencv((PLAIN[..., ::-1] / 255).astype(np.float32), ".pfm"), PLAIN, 0),
    "JPEG 2000": (written_by_opencv(PLAIN[..., ::-1], ".jp2"), PLAIN, 4.0),
}
