"""An image that does not exist is named; so is a file of the same name in another Unicode form."""

from __future__ import annotations

import re

import pytest

import data_sets as make
from data_sets import put
from onelook import build
from onelook.api.validate import validate
from onelook.augment.letterbox import Letterbox
from onelook.data import open_dataset
from onelook.data.images import decode_image
from onelook.errors import ImageError
from onelook.predict.frames import read_frames
from onelook.predict.sources import PreparedImage, UnreadableSource, find_sources
from onelook.reporter import SilentReporter


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user cache")))


def test_val_and_detect_name_an_image_in_another_unicode_form(tmp_path):
    root = make.coco(tmp_path, make.changed(images_0={"file_name": "caf\u00e9.png"}))
    (root / "val/a.png").rename(root / "val/cafe\u0301.png")
    cause = r"does not exist\. A file of this name in another Unicode form is there: .*caf\\xe9.*cafe\\u0301"
    dataset = open_dataset(root)
    with pytest.raises(ImageError, match=cause):
        validate(build("yolox-nano", classes=dataset.names), dataset, size=64, reporter=SilentReporter())
    (source,) = find_sources([str(root / "val/caf\u00e9.png")])
    assert source.error is not None and re.search(cause, source.error.message)
    (root / "images.txt").write_text("val/caf\u00e9.png\nval/caf\u00e9.mp4\nval/c.png\n", encoding="utf-8")
    (root / "val/cafe\u0301.mp4").touch()
    first, second, third = read_frames(find_sources([str(root / "images.txt")]), Letterbox(), (64, 64))
    for listed in (first, second):
        assert isinstance(listed, UnreadableSource) and re.search(cause, listed.error.message)
    assert isinstance(third, PreparedImage)


def test_a_missing_file_without_letters_of_two_forms_has_no_hint(tmp_path):
    for name in ("cafe.png", "caf\u00e8.png"):
        put(tmp_path / name, make.png())
    for name in ("caf.png", "caf\u00e9.png"):
        with pytest.raises(ImageError) as caught:
            decode_image(tmp_path / name)
        assert caught.value.message == f"'{tmp_path / name}' does not exist."
