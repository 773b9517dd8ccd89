"""Images of every kind decode to upright RGB, and what is no image gives one clear error."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onelook.data.exif import DamagedHeaderError
from onelook.data.headers import read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from onelook.errors import ImageError
from shared import data, needs_shared

NEWER = tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 11)
needs_newer_opencv = pytest.mark.skipif(not NEWER, reason="this OpenCV reads neither GIF nor animations")


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


# --- what is no image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello, I am a text\n" * 50, "text"),
        (bytes(4000), "zero bytes"),
        (bytes(range(128, 256)) * 9, "unknown"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\xff\xd8\xff", "header|ends"),
        (b"\xff\xd8\xff\xd9", "ends before"),
        (b"\x89PNG\r\n\x1a\n", "header"),
        (b"GIF89a", "header"),
        (b"II*\0\xff\xff\xff\xff", "header"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8X", "header"),
        (b"P6\n-3 4\n255\n", "size"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 9), "0x9"),
    ],
)
def test_what_is_no_image_is_one_error_with_its_name(content, words, tmp_path):
    path = tmp_path / "renamed.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(path)
    assert "renamed.jpg" in caught.value.message and caught.value.remedy


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_and_never_half_grey(kind, part):
    content = encoded(noise(), kind)
    if kind == "JPEG2000" and part == 0.999:
        pytest.skip("the last bytes of a JPEG 2000 codestream refine what is there already")
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode_image(content[: int(len(content) * part)])


def test_a_truncated_progressive_jpeg_with_a_thumbnail_is_truncated():
    thumbnail = encoded(sample_image(12, 16), "JPEG")
    content = encoded(noise(), "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail)
    decode_image(content)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(content[: len(content) // 2])


def test_a_jpeg_with_bytes_after_its_end_is_whole():
    close(decode_image(encoded(PLAIN, "JPEG", quality=97) + bytes(99)), PLAIN, 2.0)


def test_a_damaged_png_names_the_byte():
    content = bytearray(encoded(noise(), "PNG"))
    content[9000:9004] = b"oops"
    with pytest.raises(ImageError, match="checksum error at byte"):
        decode_image(bytes(content))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_size_above_the_limit_is_refused_before_memory_is_taken(monkeypatch):
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", huge) + png_chunk(b"IDAT", zlib.compress(bytes(9_000_000)))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the image is decoded"))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"60000 x 60000 = 3,600,000,000 pixels; the limit is 178,956,970"):
            decode_image(bomb + png_chunk(b"IEND", b""))
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "GIF"])
def test_the_limit_is_a_setting_and_holds_for_every_format(kind):
    with pytest.raises(ImageError, match="64 x 48 = 3,072 pixels; the limit is 3,071"):
        decode_image(encoded(PLAIN, kind), limit=3071)
    if kind != "GIF" or NEWER:
        assert decode_image(encoded(PLAIN, kind), limit=3072).shape == (48, 64, 3)


def test_the_limit_is_an_environment_variable():
    code = "import onelook.data.images as i; print(i.MAX_PIXELS)"
    environment = {**os.environ, "ONELOOK_MAX_PIXELS": "1234", "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "1234"


def test_a_jpeg_of_thousands_of_scans_is_refused():
    content = encoded(noise(), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans"):
        decode_image(content[:-2] + content[scan:-2] * 5000 + content[-2:])


def test_a_jpeg_of_a_few_bytes_and_many_pixels_is_truncated():
    content = encoded(PLAIN, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    with pytest.raises(ImageError, match="truncated"):
        decode_image(content[:place] + struct.pack(">HH", 12_000, 12_000) + content[place + 4 :])


def test_the_flattest_image_is_not_taken_for_truncated():
    flat = np.zeros((4000, 4000), np.uint8)
    for options in ({"optimize": True}, {"progressive": True}):
        assert decode_image(encoded(flat, "JPEG", quality=10, **options)).shape == (4000, 4000, 3)


def test_jpeg_2000_tiles_that_begin_outside_are_refused():
    content = bytearray(KINDS["JPEG 2000"][0])
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 39] = 0xA3  # the first tile's top; OpenCV 4.10 crashes on it
    with pytest.raises(ImageError, match="tiles"):
        decode_image(bytes(content))


def test_missing_folder_pipe_and_odd_names(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, words in [
        ("none.jpg", "does not exist"),
        (".", "folder"),
        ("pipe.jpg", "regular"),
        ("a\0b", "file name"),
    ]:
        with pytest.raises(ImageError, match=words):
            decode_image(tmp_path / name if "\0" not in name else name)
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image("x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_permission_denied_says_so(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(PLAIN, "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="permission"):
        decode_image(path)


def test_permission_denied_says_so_even_to_the_superuser(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ImageError, match="permission denied"):
        decode_image(path)


SEEDS = [content for content, _, _ in KINDS.values()] + [encoded(PLAIN, "GIF")]


@given(st.integers(0, len(SEEDS) - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error(which, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(SEEDS[which])
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(0, min(len(content), 400) if rng.random() < 0.7 else len(content)))
        content[place] = rng.integers(0, 256)
    if rng.random() < 0.3:
        del content[int(rng.integers(1, len(content))) :]
    try:
        image = decode_image(bytes(content), limit=1_000_000)
    except ImageError:
        return
    assert image.shape[2] == 3 and image.dtype == np.uint8 and image.shape[0] * image.shape[1] <= 1_000_000


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0+", b"P5 ", b"RIFF"]),
)
@settings(max_examples=300, deadline=None)
def test_reading_a_header_ends_with_a_header_none_or_damage(rest, magic):
    try:
        header = read_header(magic + rest)
    except DamagedHeaderError:
        return
    assert header is None or header.height > 0


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


def test_a_large_damaged_tiff_is_an_error(tmp_path):
    (tmp_path / "x.tiff").write_bytes(b"II*\0\xf0\xff\xff\x00" + bytes(17_000_000))
    with pytest.raises(ImageError, match="damaged"):
        image_size(tmp_path / "x.tiff")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_file_is_turned_as_the_decoder_turns_it(kind, orientation, tmp_path):
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    (tmp_path / "x").write_bytes(encoded(PLAIN, kind, **options))
    assert image_size(tmp_path / "x") == decode_image(tmp_path / "x").shape[:2]
