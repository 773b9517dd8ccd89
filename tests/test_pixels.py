"""Every format decodes to the pixels of Pillow's `exif_transpose` and RGB, whatever its alpha, depth and turn."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from onelook.data.headers import read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from onelook.errors import ImageError
from tiff_files import tiff

CASE = Path(__file__).parent / "cases" / "avif_alpha_red_blue_swapped"
TOLERANCE = 1  # of 255: CMYK in JPEG, and 16 bits, are rounded in different ways
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "LAB", "I;16"),
    "AVIF": ("RGB", "RGBA", "L"),
    "JPEG2000": ("RGB", "RGBA", "L", "LA", "CMYK", "YCbCr", "I;16"),
    "GIF": ("P", "RGBA", "L"),
    "BMP": ("RGB", "RGBA", "L", "P", "1"),
    "16-bit PNG": ("RGB", "RGBA"),
    "16-bit TIFF": ("RGB", "RGBA", "CMYK"),
    "16-bit JPEG2000": ("RGB", "RGBA"),
    "16-bit BMP": ("RGB",),
}
TURNED = {"JPEG": ("exif", "xmp"), "PNG": ("exif", "xmp", "profile"), "WEBP": ("exif", "xmp"), "TIFF": ("exif", "xmp")}
TURNED |= {"AVIF": ("exif",), "16-bit TIFF": ("exif",)}


def reference(content):
    """What Pillow makes of a file; grey of 16 bits is scaled, where Pillow's own conversion cuts it off at 255."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode.startswith("I;16"):
        return np.repeat(np.rint(np.array(image)[..., None] / 257).astype(np.uint8), 3, axis=2)
    return np.array(image.convert("RGB"))


def in_mode(pixels, mode):
    """An image of (H, W, 4) uint8 noise in a mode of Pillow."""
    rgb = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if mode == "RGBA":
        return Image.fromarray(pixels)
    if mode == "LA":
        grey = rgb.convert("L")
        grey.putalpha(Image.fromarray(np.ascontiguousarray(pixels[..., 3])))
        return grey
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + pixels[..., 1])
    return rgb.quantize(16) if mode == "P" else rgb.convert(mode)


def turn_options(kind, how, orientation):
    """The arguments of `save` that store an orientation in one of the ways that the format has."""
    if how == "xmp":
        text = XMP.format(orientation)
        if kind == "PNG":
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", text, zip=orientation % 2 == 0)
            return {"pnginfo": info}
        return {"tiffinfo": {700: text.encode()}} if kind == "TIFF" else {"xmp": text.encode()}
    block = Image.Exif()
    block[274] = orientation
    if how == "profile":
        data, info = block.tobytes(), PngInfo()
        info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=orientation % 2 == 0)
        return {"pnginfo": info}
    return {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": block}


def bmp_of_16_bits(pixels, five_six_five):
    """Masks of 5, 6 and 5 bits, or 5 bits a colour without masks."""
    height, width = pixels.shape[:2]
    raw = b"".join(row.tobytes() + bytes(-2 * width % 4) for row in pixels[..., :2].copy().view("<u2")[..., 0])
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F) if five_six_five else b""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3 if masks else 0, len(raw), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(raw), 0, 0, 14 + len(head)) + head + raw


def written(kind, mode, pixels, turn, variant):
    """The bytes of a file. turn: how it is stored, and which. variant: chooses among the format's other settings."""
    how, orientation = turn
    deep = pixels.astype(np.uint16) * 256 + pixels[::-1]
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode)
    if kind == "16-bit BMP":
        return bmp_of_16_bits(pixels, variant % 2 == 0)
    if kind == "16-bit TIFF":
        extra = (1 + variant % 2,) if mode == "RGBA" else ()
        colours = 5 if mode == "CMYK" else 2
        return tiff(deep[..., :channels], colours, extra=extra, order="<>"[variant // 2 % 2], orientation=orientation)
    if kind.startswith("16-bit"):
        return cv2.imencode(".png" if "PNG" in kind else ".jp2", deep[..., :channels])[1].tobytes()
    options = turn_options(kind, how, orientation) if orientation > 1 else {}
    options |= {
        "JPEG": {"quality": (60, 95)[variant % 2], "progressive": variant % 4 > 1, "subsampling": variant % 3},
        "WEBP": {"lossless": variant % 2 == 0, "exact": variant % 4 == 0},
        "TIFF": {"compression": (None, "tiff_lzw", "tiff_deflate")[variant % 3]},
        "AVIF": {"quality": (50, 100)[variant % 2], "subsampling": ("4:2:0", "4:4:4")[variant // 2 % 2], "speed": 10},
        "JPEG2000": {"irreversible": variant % 2 == 0},
        "GIF": {"transparency": variant % 16} if variant % 2 and mode == "P" else {},
    }.get(kind, {})
    if kind == "TIFF" and mode in ("YCbCr", "LAB", "1"):
        options.pop("compression")
    stream = io.BytesIO()
    in_mode(pixels, mode).save(stream, kind, **options)
    return stream.getvalue()


@st.composite
def image_files(draw):
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    least = 32 if kind == "16-bit JPEG2000" else 1  # OpenCV writes no smaller ones
    height, width = draw(st.integers(least, 40)), draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if draw(st.booleans()):  # smooth
        pixels = np.ascontiguousarray(cv2.resize(pixels[:2, :2], (width, height)).reshape(height, width, 4))
    how = draw(st.sampled_from(TURNED.get(kind, ("none",))))
    orientation = draw(st.integers(1, 8)) if kind in TURNED else 1
    variant = draw(st.integers(0, 11))
    return f"{kind} {mode} {how} {orientation}", written(kind, mode, pixels, (how, orientation), variant)


def assert_equals_pillow(name, content):
    try:
        expected = reference(content)
    except OSError:  # Pillow cannot read what it has written: YCbCr in TIFF files of some sizes
        reject()
    found = decode_image(content)
    assert found.shape == expected.shape and found.flags.c_contiguous and found.flags.writeable, name
    assert np.abs(found.astype(int) - expected).max() <= TOLERANCE, name
    assert read_header(content).size == expected.shape[:2], name


@given(image_files())
@settings(max_examples=120, deadline=None)
def test_any_file_has_the_pixels_that_pillow_finds(file):
    assert_equals_pillow(*file)


@pytest.mark.slow
@given(image_files())
@settings(max_examples=5000, deadline=None)
def test_many_files_have_the_pixels_that_pillow_finds(file):
    assert_equals_pillow(*file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "how"), [(kind, how) for kind, ways in TURNED.items() for how in ways])
def test_every_orientation_is_applied_however_it_is_stored(kind, how, orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 25, 4), dtype=np.uint8)
    content = written(kind, "RGB", pixels, (how, orientation), 1)
    assert_equals_pillow(f"{kind} {how}", content)
    (tmp_path / "x").write_bytes(content)
    assert image_size(tmp_path / "x") == ((25, 14) if orientation >= 5 else (14, 25))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("turns", range(4))
def test_turn_and_mirror_of_an_avif_are_applied_in_this_order(turns, axis):
    """Pillow writes no turn with its mirror on the other axis, so that the properties are changed in the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (14, 25, 3), dtype=np.uint8)
    block, stream = Image.Exif(), io.BytesIO()
    block[274] = 5 if axis is not None else 6  # a turn and a mirror, or a turn alone
    Image.fromarray(pixels).save(stream, "AVIF", exif=block)
    content = bytearray(stream.getvalue())
    content[content.index(b"irot") + 4] = turns
    if axis is not None:
        content[content.index(b"imir") + 4] = axis
    assert_equals_pillow(f"{turns} {axis}", bytes(content))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("colours", ["RGB", "grey", "grey, 0 is white"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_16_bit_tiff_has_the_values_that_were_written(order, planes, colours, orientation):
    """Pillow reads separate planes wrongly, and not all of the others."""
    values = np.random.default_rng(0).integers(0, 65536, (14, 25, 3 if colours == "RGB" else 1))
    kind = {"RGB": 2, "grey": 1, "grey, 0 is white": 0}[colours]
    content = tiff(values.astype(np.uint16), kind, planes=planes, order=order, orientation=orientation)
    expected = np.broadcast_to(np.rint(values / 257), (14, 25, 3))
    expected = 255 - expected if kind == 0 else expected
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    assert np.abs(decode_image(content) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_with_alpha_keeps_its_colours(extra, bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (14, 25, 4)).astype(f"u{bits // 8}")
    assert_equals_pillow("alpha", tiff(values, 2, extra=(extra,)))


def test_16_bit_planes_with_alpha_are_refused():
    values = np.zeros((14, 25, 4), np.uint16)
    with pytest.raises(ImageError, match="separate planes"):
        decode_image(tiff(values, 2, extra=(2,), planes=2))


@pytest.mark.parametrize("name", ["rgba.avif", "rgb.avif", "rgba.png"])
def test_red_stays_red(name):
    assert np.abs(decode_image(CASE / name)[40, 40].astype(int) - (220, 40, 30)).max() <= 2


def gif(transparent, background):
    """A frame of 20 x 20 at (7, 9) of a canvas of 53 x 37."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).quantize(32).save(stream, "GIF", **({"transparency": 3} if transparent else {}))
    content = bytearray(stream.getvalue())
    content[6:10], content[11] = struct.pack("<HH", 53, 37), background
    place = content.index(b"\x2c\0\0\0\0")
    content[place + 1 : place + 5] = struct.pack("<HH", 7, 9)
    return bytes(content)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("background", [0, 5])
def test_a_gif_whose_first_frame_is_a_part_has_its_background(transparent, background):
    assert_equals_pillow("GIF", gif(transparent, background))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("size", [(14, 25), (140, 250)])
def test_an_orientation_behind_the_pixels_of_a_png_counts_in_its_size_too(size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream, block = io.BytesIO(), Image.Exif()
    Image.fromarray(pixels).save(stream, "PNG")
    block[274] = 6
    end = chunk(b"IEND", b"")
    content = stream.getvalue().removesuffix(end) + chunk(b"eXIf", block.tobytes().removeprefix(b"Exif\0\0")) + end
    assert_equals_pillow("PNG", content)
    (tmp_path / "x.png").write_bytes(content)
    assert image_size(tmp_path / "x.png") == size[::-1]


SEEDS = [written(kind, mode, np.full((9, 11, 4), 90, np.uint8), (TURNED.get(kind, ("exif",))[-1], 6), 1)
         for kind in ("AVIF", "GIF", "JPEG2000", "TIFF", "PNG", "16-bit BMP") for mode in ("RGB", "RGBA")
         if mode in MODES[kind]]  # fmt: skip


@given(st.sampled_from(range(len(SEEDS))), st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=5))
@example(0, [])
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_ends_in_an_image_or_an_image_error(which, changes):
    content = bytearray(SEEDS[which])
    for place, value in changes:
        content[place % len(content)] = value
    try:
        image = decode_image(bytes(content), limit=1_000_000)
    except ImageError:
        return
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
