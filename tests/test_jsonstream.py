"""The streaming reader of JSON: what it yields does not depend on where the chunks of the file end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onelook.data import jsonstream


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 4096])
def test_elements_and_lines_do_not_depend_on_the_chunks(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonstream, "CHUNK", chunk)
    values = [1, 23456, -1.5e-7, "é\U0001f600", [], {}, {"a": [1, {"b": None}]}, True, "]", "[,"]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"before": [0], "values": values}, ensure_ascii=False, indent=0), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    with jsonstream.JsonStream(path) as stream:
        for key in stream.keys():  # noqa: SIM118
            if key == "before":
                stream.skip()
            else:
                found = list(stream.elements(key))
    assert [value for _, value in found] == values
    for (line, value), following in zip(found, [line for line, _ in found[1:]]):
        text = "\n".join(lines[line - 1 : following - 1]).rstrip(",")
        assert json.loads(text) == value
