"""The notebooks are stored without outputs, use what is public, and run from the first cell to the last."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

import onelook
from test_docs import commands_of
from test_house import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells_of(path: Path, kind: str) -> list[str]:
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_without_outputs(path: Path) -> None:
    assert path.stat().st_size < 20_000
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content["metadata"]) == {"kernelspec", "language_info"}  # not those of the last editor
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) >= 6
    for cell in content["cells"]:
        assert not cell["metadata"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_and_commands_that_exist(path: Path, tmp_path: Path) -> None:
    from onelook.cli.app import VERBS

    for code in cells_of(path, "code"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "onelook":
                assert node.attr in onelook.__all__, node.attr
            assert not isinstance(node, ast.ImportFrom) or node.module in ("pathlib", "IPython.display")
    page = tmp_path / "page.md"
    page.write_text("\n\n".join(cells_of(path, "markdown")), encoding="utf-8")
    assert all(words[0] in VERBS for words in commands_of(page))


def test_the_notebooks_are_listed() -> None:
    page = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3 and all(f"[{path.name}]({path.name})" in page for path in NOTEBOOKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all run, in their order: the training of the first is not repeated."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    pytest.importorskip("ipykernel", reason="needs the extra notebooks")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    images = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    assert len(images) >= 2 and not any(output.output_type == "error" for output in outputs)
    assert (folder / "runs" / "shapes-nano" / "best.safetensors").is_file()
    written = {file.name for file in folder.iterdir() if not file.name.startswith(".")}
    assert written == {"runs"}
