"""A few damaged files for every reader; `fuzz_readers.py` runs for as long as one likes. And what it has found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import data_sets as make
import onnx_models
from data_sets import put
from fuzz_readers import Watch, mutated, run_example
from fuzz_targets import all_targets
from onelook.data.check import check
from onelook.errors import ExportError
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.reporter import SilentReporter

EXAMPLES = 150
LONG = "x" * 400 + ".png"  # file systems take 255 bytes


def test_damaged_files_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    # Without libraries of other runtimes, which may break this process: `fuzz_readers.py` has a process for them.
    targets = {name: target for name, target in all_targets().items() if not name.startswith("exported: ")}
    watch = Watch()
    results = {number: run_example(targets, 0, number, watch) for number in range(EXAMPLES)}
    assert {number: found for number, found in results.items() if found[1] not in ("read", "refused")} == {}
    assert len({name for name, _ in results.values()}) > 40


def test_mutations_change_files_and_are_made_again() -> None:
    data = b'{"images": [{"id": 12, "width": 640}]}'
    found = [mutated(data, b"other", np.random.default_rng(number)) for number in range(100)]
    assert found == [mutated(data, b"other", np.random.default_rng(number)) for number in range(100)]
    assert len(set(found)) > 80


def test_what_a_reader_may_not_do_is_seen(tmp_path: Path) -> None:
    watch = Watch()
    with watch.inside(tmp_path / "data") as seen:
        os.system("true")
        (tmp_path / "outside").write_text("")
    assert [what.split()[0] for what in seen] == ["os.system", "writes"]


def long_coco(root: Path) -> Path:
    return make.coco(root, make.changed(images_0={"file_name": LONG}))


def long_yolo(root: Path) -> Path:
    make.yolo(root)
    put(root / "val.txt", f"images/val/a.png\nimages/val/{LONG}\n")
    put(root / "data.yaml", "val: val.txt\nnames: [cat, dog]\n")
    return root


def long_voc(root: Path) -> Path:
    make.voc(root)
    put(root / "ImageSets/Main/val.txt", f"a\n{LONG}\n")
    return root


def long_description(root: Path) -> Path:
    make.yolo(root)
    put(root / "data.yaml", f"val: {LONG[:-4]}\ntrain: images/val\nnames: [cat, dog]\n")
    return root


@pytest.mark.parametrize("write", [long_coco, long_yolo, long_voc, long_description])
def test_a_name_that_is_too_long_for_a_file_is_a_missing_file(write: Callable[[Path], Path], tmp_path: Path) -> None:
    report = check(write(tmp_path), reporter=SilentReporter())
    assert any("x" * 30 in problem.message and problem.severity == "error" for problem in report.problems)


def test_a_description_inside_an_exported_file_that_is_no_text_is_damaged(tmp_path: Path) -> None:
    path = onnx_models.write_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    described = json.loads(model.metadata_props[0].value)
    assert described["model"] == "yolox-nano"
    path.write_bytes(path.read_bytes().replace(b'"yolox-nano"', b'"yolox-nan\xff"'))
    with pytest.raises(ExportError, match="not UTF-8 text"):
        OnnxRuntime(path)
