"""Images of every kind decode to upright RGB, whole or their first rows only, and tell their size."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from encoded_images import KINDS, NEWER, PLAIN, close, encoded, exif, noise
from onelook.data.headers import read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from shared import data, needs_shared

needs_newer_opencv = pytest.mark.skipif(not NEWER, reason="this OpenCV reads neither GIF nor animations")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(kind):
    content, wanted, tolerance = KINDS[kind]
    close(decode_image(content), wanted, tolerance)


@needs_newer_opencv
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_image(kind):
    frames = [Image.fromarray(np.roll(PLAIN, 9 * shift, 1)) for shift in range(4)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    close(decode_image(content), PLAIN, 6.0 if kind == "GIF" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    options = {"JPEG": {"quality": 97}, "WEBP": {"lossless": True}}.get(kind, {})
    if kind == "TIFF":
        content = encoded(PLAIN, kind, tiffinfo={274: orientation})
    else:
        content = encoded(PLAIN, kind, exif=exif(orientation), **options)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # values of Image.Transpose
    upright = Image.fromarray(PLAIN)
    wanted = np.array(upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation])))
    close(decode_image(content), wanted, 2.0 if kind == "JPEG" else 0)
    assert read_header(content).size == wanted.shape[:2]


@needs_shared
def test_ordinary_files_are_bit_equal_to_opencv():
    for path in sorted(data("coco_mini").rglob("*.jpg"))[:20]:
        np.testing.assert_array_equal(decode_image(path), cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_jpeg_is_decoded_smaller_when_asked(tmp_path: Path, level: int) -> None:
    original = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8), (333, 221))
    for suffix, side in ((".jpg", 2**level), (".png", 1)):
        path = tmp_path / f"original{suffix}"
        cv2.imwrite(str(path), original[..., ::-1])
        image = decode_image(path, level=level)
        assert image.shape == (-(-221 // side), -(-333 // side), 3)
        expected = cv2.resize(original, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 2}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_first_rows_of_a_jpeg_are_those_of_the_whole(options, level, capfd):
    file = encoded(cv2.resize(noise(40, 50), (333, 241)), "JPEG", quality=90, **options)
    whole = decode_image(file, level=level)
    for rows in (1, 60, 100, *range(190, 242), 900):
        found = decode_image(file, level=level, rows=rows)
        wanted = min(-(-rows // 2**level), len(whole))
        assert wanted <= len(found) <= wanted + 33 and found.shape[1] == whole.shape[1]
        np.testing.assert_array_equal(found[:wanted], whole[:wanted])
    assert capfd.readouterr() == ("", "")  # a decoder that feels it was given too much would say so


@pytest.mark.parametrize(
    "file",
    [
        encoded(noise(), "JPEG", progressive=True),
        encoded(noise(), "JPEG", restart_marker_blocks=4),
        encoded(noise(), "JPEG", exif=exif(6)),
        encoded(noise(), "PNG"),
    ],
    ids=["progressive", "restart markers", "turned", "PNG"],
)
def test_files_whose_rows_do_not_come_in_order_are_decoded_whole(file, capfd):
    np.testing.assert_array_equal(decode_image(file, rows=50), decode_image(file))
    assert capfd.readouterr() == ("", "")


def test_first_rows_of_a_file_with_hardly_any_more_bytes_are_found():
    """A whole flat area takes a few bytes, which the decoder wants to see before it gives the rows above."""
    file = encoded(np.full((120, 8), 90, np.uint8), "JPEG", optimize=True)
    whole = decode_image(file)
    for rows in range(1, 121):
        np.testing.assert_array_equal(decode_image(file, rows=rows)[:rows], whole[:rows])


@pytest.mark.parametrize("rest", [b"", b"\0" * 64, b"film \xff\xd9 film"], ids=["nothing", "padding", "a film"])
def test_what_lies_behind_the_end_of_a_jpeg_is_not_given_to_the_decoder(rest, capfd):
    file = encoded(cv2.resize(noise(40, 50), (333, 241)), "JPEG", quality=90)
    np.testing.assert_array_equal(decode_image(file + rest, rows=50)[:50], decode_image(file)[:50])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".tiff", ".jpg"])
def test_the_size_of_a_large_file_is_that_of_its_decoded_image(suffix, tmp_path):
    """TIFF's directory lies behind its pixels, where OpenCV writes it: here, 18 MB."""
    pixels = np.zeros((2000, 3000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / f"x{suffix}"), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == ".tiff" else [])
    assert image_size(tmp_path / f"x{suffix}") == decode_image(tmp_path / f"x{suffix}").shape[:2] == (2000, 3000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_file_is_turned_as_the_decoder_turns_it(kind, orientation, tmp_path):
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    (tmp_path / "x").write_bytes(encoded(PLAIN, kind, **options))
    assert image_size(tmp_path / "x") == decode_image(tmp_path / "x").shape[:2]
