"""The page's files: sent by the server with their headers, and part of what is installed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from http_server import client_of, repository_of
from onelook.serving.options import ServerOptions
from onelook.serving.page_files import CONTENT_SECURITY_POLICY, page_files

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src/onelook/serving/page"


def test_every_file_of_the_folder_is_sent_and_loaded_by_the_page():
    names = {path.name for path in FOLDER.iterdir()}
    assert set(page_files()) == {"/", *(f"/page/{name}" for name in names - {"index.html"})}
    text = "".join(file.content.decode() for file in page_files().values())
    for name in names - {"index.html"}:
        assert f'"page/{name}"' in text or f'"./{name}"' in text, f"nothing loads {name}"


def test_the_server_sends_the_page_with_its_headers_and_needs_no_token_for_it(tmp_path):
    repository = repository_of(tmp_path, ServerOptions(tokens=("a-token-of-the-tests",)))
    with client_of(repository) as client:
        for path, file in page_files().items():
            answer = client.get(path)
            assert answer.status_code == 200 and answer.content == file.content
            assert answer.headers["content-type"] == file.media_type
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert again.status_code == 304 and not again.content
            assert client.head(path).status_code == 200
        assert client.get("/v1/models").status_code == 401
        for path in ("/page/", "/page/none.js", "/page/%2e%2e/page_files.py", "/page/../page_files.py"):
            assert client.get(path).status_code in (401, 404)
        assert client.post("/").status_code in (401, 405)


def test_the_wheel_has_the_page(tmp_path, monkeypatch):
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77, as the build does")
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # Where setuptools-scm is installed, these lines would write the version into the sources that other tests import.
    settings, found = re.subn(r"^\[tool\.setuptools_scm\]$.*?(?=^\[)", "", settings, flags=re.MULTILINE | re.DOTALL)
    assert found == 1
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    for name in ("README.md", "LICENSE", "NOTICE", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():  # of setuptools about itself
        warnings.simplefilter("ignore")
        distribution = setuptools.Distribution()
        distribution.parse_config_files(["pyproject.toml"])
        command = distribution.get_command_obj("build_py")
        command.ensure_finalized()
        command.manifest_files = {}  # of a checkout; package-data alone has to name the files
        names = command.find_data_files("onelook", "src/onelook")
    assert {Path(name).resolve() for name in names} >= set(FOLDER.iterdir())
