"""HEIC photographs: read where pillow-heif is installed, else named as what they are, also in a folder."""

import io
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from onelook.data import headers
from onelook.data.headers import read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from onelook.errors import ImageError
from onelook.predict.sources import find_sources

CASE = Path(__file__).parent / "cases" / "heic_photo_called_video" / "photos"


@pytest.fixture
def no_reader(monkeypatch):
    monkeypatch.setattr(headers, "_reads_heic", lambda: False)


def test_a_photo_is_an_image_that_is_named_as_what_it_is(no_reader):
    (source,) = find_sources([str(CASE / "b.heic")])
    assert source.kind == "image"
    for read in (decode_image, image_size):
        with pytest.raises(ImageError, match="it is a HEIC image") as caught:
            read(source.path)
        assert "Convert it to JPEG or PNG" in caught.value.remedy


@pytest.mark.parametrize("name", ["b", "b.HEIF", "b.jpg", "b.unknown"])
def test_no_name_makes_a_photo_a_video(name, tmp_path):
    shutil.copy(CASE / "b.heic", tmp_path / name)
    assert [source.kind for source in find_sources([str(tmp_path / name)])] == ["image"]


def test_a_folder_does_not_leave_photos_out_in_silence(tmp_path):
    for name in ("a.png", "b.heic"):
        shutil.copy(CASE / name, tmp_path / name)
    Image.open(CASE / "a.png").save(tmp_path / "c.DNG", "TIFF")  # the preview of a raw file
    (tmp_path / "d.jxl").write_bytes(b"\xff\x0a")
    found = {source.name: source for source in find_sources([str(tmp_path)])}
    assert {name: source.kind for name, source in found.items()} == {
        **{"a": "image", "b": "image", "c": "missing", "d": "missing"},
    }
    assert "d.jxl' was left out" in found["d"].error.message


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_photo_has_the_pixels_that_pillow_finds(orientation, mode, tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    pixels = np.zeros((48, 64, len(mode)), np.uint8)
    pixels[:10, :20], pixels[30:, 40:, 0], pixels[..., 3:] = 200, 90, 130
    block, stream = Image.Exif(), io.BytesIO()
    block[274] = orientation
    Image.fromarray(pixels).save(stream, "HEIF", exif=block, quality=90)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue()))).convert("RGB"))
    assert np.array_equal(decode_image(stream.getvalue()), expected)
    assert read_header(stream.getvalue()).size == expected.shape[:2]
