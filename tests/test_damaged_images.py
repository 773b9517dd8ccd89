"""What is no image, or is damaged, truncated or too large, gives one clear error."""

import os
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoded_images import KINDS, NEWER, PLAIN, close, encoded, noise, sample_image
from hostile_images import HOSTILE, changed
from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from onelook.errors import ImageError


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_image_is_one_error_with_its_name(name, tmp_path):
    content, words = HOSTILE[name]
    path = tmp_path / "renamed.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(path)
    assert "renamed.jpg" in caught.value.message and caught.value.remedy


def test_an_empty_file_is_an_error():
    with pytest.raises(ImageError, match="empty"):
        decode_image(b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_and_never_half_grey(kind, part):
    content = encoded(noise(), kind)
    if kind == "JPEG2000" and part == 0.999:
        pytest.skip("the last bytes of a JPEG 2000 codestream refine what is there already")
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode_image(content[: int(len(content) * part)])


def test_a_whole_progressive_jpeg_with_a_thumbnail_is_decoded():
    thumbnail = encoded(sample_image(12, 16), "JPEG")
    decode_image(encoded(noise(), "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail))


def test_a_jpeg_with_bytes_after_its_end_is_whole():
    close(decode_image(encoded(PLAIN, "JPEG", quality=97) + bytes(99)), PLAIN, 2.0)


def test_a_size_above_the_limit_is_refused_before_memory_is_taken(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the image is decoded"))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="pixels; the limit is"):
            decode_image(HOSTILE["PNG of many pixels"][0])
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


def test_the_flattest_image_is_not_taken_for_truncated():
    flat = np.zeros((4000, 4000), np.uint8)
    for options in ({"optimize": True}, {"progressive": True}):
        assert decode_image(encoded(flat, "JPEG", quality=10, **options)).shape == (4000, 4000, 3)


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
    content = changed(SEEDS[which], np.random.default_rng(seed))
    try:
        image = decode_image(content, limit=1_000_000)
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


def test_a_large_damaged_tiff_is_an_error(tmp_path):
    (tmp_path / "x.tiff").write_bytes(b"II*\0\xf0\xff\xff\x00" + bytes(17_000_000))
    with pytest.raises(ImageError, match="damaged"):
        image_size(tmp_path / "x.tiff")
