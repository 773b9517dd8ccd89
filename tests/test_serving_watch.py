"""The folder of models that a server watches: what is added, changed, damaged, deleted, and away for a while."""

from __future__ import annotations

import shutil

import pytest

from onelook.api.open import LoadOptions
from onelook.api.serve import open_servable
from onelook.errors import UserError
from onelook.serving.options import ServerOptions
from onelook.serving.repository import Repository
from onelook.serving.watch import FolderWatch, model_in
from onnx_models import write_model


def test_a_watched_folder_is_followed(tmp_path):
    folder = tmp_path / "models"
    repository = Repository(lambda path: open_servable(path, LoadOptions()), ServerOptions())
    folder.mkdir()
    watch = FolderWatch(folder, repository)
    watch.look(first=True)
    assert not repository.ready()
    place = folder / "small" / "1"
    place.mkdir(parents=True)
    write_model(place / "any.onnx")
    watch.look()
    assert repository.names() == []  # it may still be written
    watch.look()
    assert repository.names() == ["small"] and repository.ready()
    first = repository.find("small")
    (place / "any.onnx").write_bytes(b"damaged")
    watch.look()
    watch.look()
    assert repository.find("small") is first and "any.onnx" in repository.index()[0].reason
    write_model(place / "any.onnx", batch=1)
    watch.look()
    watch.look()
    assert repository.find("small") is not first and repository.index()[0].reason == ""
    shutil.copytree(place, folder / "small" / "2")
    watch.look()
    watch.look()
    assert repository.versions("small") == ["1", "2"]
    serving = repository.find("small")
    folder.rename(tmp_path / "away")
    with pytest.raises(UserError, match="The watched folder cannot be read"):
        watch.look()
    (tmp_path / "away").rename(folder)
    (folder / "small" / "2" / "any.onnx").rename(tmp_path / "new.onnx")  # as when a file is deleted, then copied anew
    watch.look()
    assert repository.find("small") is serving and repository.versions("small") == ["1", "2"]
    shutil.rmtree(folder / "small")
    watch.look()
    assert repository.names() == [] and repository.index() == []
    repository.close(5)


def test_a_folder_holds_one_model(tmp_path):
    with pytest.raises(UserError, match="no model"):
        model_in(tmp_path)
    for name in ("a.engine", "a.onnx", "a.engine.json"):
        (tmp_path / name).write_bytes(b"x")
    assert model_in(tmp_path).name == "a.engine"  # the ONNX file is what it was built of
    (tmp_path / "b.xml").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.engine, b\.xml"):
        model_in(tmp_path)
