"""Exported files of every format: they describe themselves, run alone, and find what PyTorch finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onelook
from onelook.api.bench import benchmark
from onelook.cli.app import run
from onelook.errors import ConfigError, ExportError, MissingDependencyError, UsageError
from onelook.exported import METADATA_KEY
from onelook.exporting.ncnn import _SpaceToDepthAsConvolution
from onelook.exporting.target import ExportedFile, ExportOptions
from onelook.exporting.targets import TARGETS
from onelook.exporting.verify import verification_images
from onelook.layers.focus import space_to_depth
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.yolox.architecture import Yolox
from onelook.ops.nms import Nms
from onelook.predict.runtimes.exported import ForeignFileError
from onelook.weights import save_weights
from rows_of_files import SIZE, AllRows, assert_same, batch, opened
from spread_detector import fresh_detector, spread_detector

NEEDS = {
    "onnx": ("onnx", "onnxscript"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "torch": (),
}
MISSING = {name: [package for package in needs if find_spec(package) is None] for name, needs in NEEDS.items()}
FORMATS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"))
    for name, missing in MISSING.items()
]
FREE_BATCH = [one for one in FORMATS if one.values not in (("ncnn",), ("litert",))]
needs_openvino = pytest.mark.skipif(bool(MISSING["openvino"]), reason="openvino is not installed")
needs_ncnn = pytest.mark.skipif(bool(MISSING["ncnn"]), reason="ncnn or pnnx is not installed")
# What other libraries say while they are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*jit"),
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return spread_detector(SIZE)


@pytest.fixture(scope="module")
def fresh() -> Detector:
    return fresh_detector(SIZE)


@pytest.fixture(scope="module")
def exported(detector: Detector, fresh: Detector, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that exports to a format, each combination of options once."""
    made: dict[tuple[str, ExportOptions], ExportedFile] = {}

    def export(name: str, **options: Any) -> ExportedFile:
        key = name, ExportOptions(**options)
        if key not in made:
            path = tmp_path_factory.mktemp(name) / f"model{TARGETS[name].suffix}"
            made[key] = TARGETS[name].write(fresh if key[1].half else detector, path, key[1])
        return made[key]

    return export


@pytest.mark.parametrize("name", FORMATS)
def test_file_alone_gives_the_rows_of_pytorch(name: str, detector: Detector, exported: Any) -> None:
    file = exported(name)
    assert file.agreement.box < 0.05 and file.agreement.score < 2e-3 and file.agreement.detects
    runtime = opened(file, threads=1)
    assert runtime.metadata == file.metadata and runtime.class_names == ("cat", "dog", "köw")
    assert (runtime.size, runtime.precision, runtime.device_name) == (SIZE, "float32", "cpu")
    assert set(map(str, (file.path, *file.beside))) >= set(map(str, runtime.files()))
    images = verification_images(SIZE)[:1]
    boxes, scores = runtime.run(["boxes", "scores"], {"images": images})
    with torch.no_grad():
        predictions = detector(torch.from_numpy(images))
    np.testing.assert_allclose(boxes, predictions.boxes, atol=0.05, rtol=2e-3)
    np.testing.assert_allclose(scores, predictions.scores(), atol=2e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_half_precision_halves_the_file_and_stays_near(name: str, detector: Detector, exported: Any) -> None:
    full, half = exported(name), exported(name, half=True)  # of networks of one size
    assert half.metadata.precision == opened(half).precision == "float16"
    assert half.bytes < 0.7 * full.bytes
    assert 0 < half.agreement.score < 0.05


@pytest.mark.parametrize("name", FORMATS)
def test_any_number_of_images_is_taken(name: str, exported: Any) -> None:
    runtime = opened(exported(name), threads=1)
    one_by_one = [runtime(batch(3)[row : row + 1], Nms(0.3, 0.5))[0] for row in range(3)]
    assert_same(runtime(batch(3), Nms(0.3, 0.5)), one_by_one, 1e-3)


@pytest.mark.parametrize("options", [{"dynamic": True}, {"batch": 2}], ids=["any batch", "batch of 2"])
@pytest.mark.parametrize("name", FREE_BATCH)
def test_batches_give_what_single_images_give(name: str, options: dict[str, Any], exported: Any) -> None:
    single, several = opened(exported(name), threads=1), opened(exported(name, **options), threads=1)
    assert several.metadata.batch == options.get("batch")
    assert_same(several(batch(3), AllRows()), single(batch(3), AllRows()))


@needs_openvino
def test_openvino_file_with_nms_keeps_what_nms_outside_keeps(exported: Any) -> None:
    inside = Nms(0.3, 0.5, limit=20)
    outside, file = opened(exported("openvino", dynamic=True)), exported("openvino", nms=inside, dynamic=True)
    runtime = opened(file)
    assert runtime.metadata.nms is not None and runtime.metadata.nms["limit"] == 20
    for settings in (inside, replace(inside, confidence=0.6), replace(inside, iou=0.2)):
        assert_same(runtime(batch(4), settings), outside(batch(4), settings), 1e-2)
    built_in = runtime.run(["count"], {"images": verification_images(SIZE)})[0]  # without thresholds: the file's own
    assert built_in.tolist() == [len(scores) for _, scores, _ in outside(batch(4), inside)]
    with pytest.raises(ConfigError, match="agnostic"):
        runtime(batch(1), replace(inside, agnostic=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ncnn", {"dynamic": True}, "one image at a time"),
        ("ncnn", {"batch": 2}, "one image at a time"),
        ("ncnn", {"nms": Nms()}, "NMS"),
        ("litert", {"dynamic": True}, "fixed batch"),
        ("litert", {"nms": Nms()}, "NMS"),
        ("torch", {"nms": Nms()}, "NMS"),
        ("tensorrt", {"nms": Nms()}, "NMS"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    if MISSING.get(name):
        pytest.skip(f"not installed: {MISSING[name]}")
    with pytest.raises(UsageError, match=message):
        TARGETS[name].check(ExportOptions(**options))


@pytest.mark.parametrize(
    ("target", "message"), [("coreml", "Apple"), ("CoreML", "Apple"), ("ExecuTorch", "ExecuTorch"), ("onx", "'onnx'")]
)
def test_other_formats_are_refused_with_the_reason(target: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onelook.export("yolox-nano", target, weights="none")


def test_the_command_gives_the_reason_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--model", "yolox-nano", "--weights", "none", "--to", "coreml"]) == 2
    assert "Core ML runs on Apple's systems only" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", [one for one in FORMATS if one.values in (("openvino",), ("ncnn",))])
def test_threads_are_those_of_the_free_cores(name: str, exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"onelook.predict.runtimes.{name}"
    monkeypatch.setattr(f"{module}.chosen_threads", lambda: 1)
    monkeypatch.setattr(f"{module}.num_cores", lambda: 4, raising=False)
    for threads, expected in ((None, 1), (2, 2)):
        runtime: Any = opened(exported(name), threads=threads)
        found = (
            runtime._net.opt.num_threads if name == "ncnn" else runtime._compiled.get_property("INFERENCE_NUM_THREADS")
        )
        assert found == expected


@pytest.mark.parametrize(
    ("name", "package"), [("openvino", "openvino"), ("ncnn", "ncnn"), ("ncnn", "pnnx"), ("litert", "litert_torch")]
)
def test_missing_package_is_named_before_anything_is_loaded(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"onelook.exporting.{name}.find_spec", lambda one: None if one == package else object())
    with pytest.raises(MissingDependencyError, match=f"'{package.replace('_', '-')}'.*\n.*pip install"):
        TARGETS[name].check(ExportOptions())


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_file_gets_one_message(name: str, exported: Any, tmp_path: Path) -> None:
    file = exported(name)
    content = file.path.read_bytes()
    path = tmp_path / file.path.name
    for other in file.beside:
        shutil.copy(other, tmp_path)
    no_text = content.replace(b"Convolution", b"Convol\xfftion")  # what the library repeats in its message
    for damaged in (b"", b"hello\n", content[: len(content) // 2], *([no_text] if no_text != content else [])):
        path.write_bytes(damaged)
        with pytest.raises(ExportError, match=path.name):
            onelook.load(path)
    path.write_bytes(content)
    assert onelook.load(path).size == SIZE


@pytest.mark.parametrize(("name", "suffix"), [("ncnn", ".param"), ("ncnn", ".bin"), ("litert", ".tflite")])
def test_changed_files_are_refused_before_their_library_reads_them(
    name: str, suffix: str, exported: Any, tmp_path: Path
) -> None:
    if MISSING[name]:
        pytest.skip(f"not installed: {MISSING[name]}")
    file = exported(name)
    for one in (file.path, *file.beside):
        shutil.copy(one, tmp_path)
    path = tmp_path / file.path.name
    content = path.with_suffix(suffix).read_bytes()
    path.with_suffix(suffix).write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(ExportError, match="not as exported"):
        onelook.load(path)


@needs_ncnn
def test_ncnn_model_needs_its_other_files(exported: Any, tmp_path: Path) -> None:
    file = exported("ncnn")
    shutil.copy(file.path, tmp_path)
    with pytest.raises(ExportError, match=r"model\.bin' does not exist"):
        onelook.load(tmp_path / "model.param")
    shutil.copy(file.path.with_suffix(".bin"), tmp_path)
    with pytest.raises(ForeignFileError, match=r"no '.*model\.param\.json'"):
        onelook.load(tmp_path / "model.param")


@needs_openvino
def test_openvino_model_of_another_program_is_refused(exported: Any, tmp_path: Path) -> None:
    file = exported("openvino")
    shutil.copy(file.path.with_suffix(".bin"), tmp_path)
    text = file.path.read_text(encoding="utf-8")
    assert "<onelook " in text
    (tmp_path / "model.xml").write_text(text.replace("<onelook ", "<other "), encoding="utf-8")
    with pytest.raises(ForeignFileError, match="not exported by Onelook"):
        onelook.load(tmp_path / "model.xml")


@pytest.mark.parametrize("damage", ["lzma", "version", "cut"])
def test_damaged_archive_of_a_program_is_said_to_be_damaged(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if damage == "lzma" else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"model/extra/{METADATA_KEY}.json", "{}" * 1000)
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02") + 6  # the version of ZIP that is needed, in the directory
    changed = {"version": content[:place] + b"\xff" + content[place + 1 :], "cut": content[:-30]}
    path.write_bytes(changed.get(damage, content))
    with pytest.raises(ExportError, match="is damaged"):
        onelook.load(path)


@pytest.mark.parametrize("file", ["a.xml", "a.param", "a.tflite", "a.pt2", "a.engine"])
def test_exported_file_holds_no_weights_for_pytorch(file: str) -> None:
    for model, weights in ((file, None), ("yolox-nano", file)):
        with pytest.raises(UsageError, match=rf"'{file}' is an exported file"):
            onelook.export(model, weights=weights)


@pytest.mark.parametrize("name", FORMATS)
def test_unknown_device_is_named(name: str, exported: Any) -> None:
    with pytest.raises(ConfigError, match="toaster"):
        onelook.load(exported(name).path, device="toaster")


@pytest.mark.parametrize("name", FORMATS)
def test_half_is_chosen_only_where_the_runtime_chooses(name: str, exported: Any) -> None:
    path = exported(name).path
    if name in ("onnx", "torch", "litert"):
        with pytest.raises(UsageError, match="precision is built in"):
            onelook.load(path, half=True)
    elif name == "ncnn":
        assert onelook.load(path, half=True).runtime.precision == "float16"  # type: ignore[attr-defined]


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from onelook.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize("name", [one for one in FORMATS if one.values != ("torch",)])
def test_detect_and_bench_run_without_pytorch(name: str, exported: Any, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "image.png"), batch(1)[0])
    path = str(exported(name).path)
    commands = (
        ["detect", str(tmp_path / "image.png"), "--model", path, "--out", str(tmp_path / "out"), "--format", "json"],
        ["bench", "model", path, "--runs", "2", "--warm-up", "0", "--threads", "1", "--json", str(tmp_path / "b.json")],
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(image["detections"]) > 1 and {one["name"] for one in image["detections"]} <= {"cat", "dog", "köw"}
    assert json.loads((tmp_path / "b.json").read_text())["setting"]["precision"] == "float32"


@pytest.mark.parametrize("name", FORMATS)
def test_bench_names_the_runtime(name: str, exported: Any) -> None:
    setting = benchmark(exported(name).path, runs=1, warm_up=0, threads=1).setting
    library = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "ncnn": "ncnn", "litert": "LiteRT", "torch": "PyTorch"}[
        name
    ]
    assert setting.runtime.startswith(f"{library} ") and setting.threads == 1 and setting.form == "exported"


@needs_ncnn
def test_command_line_names_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    weights = save_weights(build(Yolox(depth=0.33, width=0.125, size=(64, 64))), tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    assert run(["export", "--model", str(weights), "--to", "ncnn"]) == 0
    shown = capsys.readouterr().out
    assert "a.ncnn.param" in shown and "a.ncnn.bin, a.ncnn.param.json" in shown and "runs in    ncnn" in shown
    names = {"a.safetensors", "a.ncnn.param", "a.ncnn.bin", "a.ncnn.param.json"}
    assert {one.name for one in tmp_path.iterdir()} == names
    (tmp_path / "a.ncnn.param").unlink()
    assert run(["export", "--model", str(weights), "--to", "ncnn"]) == 1
    assert "a.ncnn.bin' exists already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("channels", [1, 3])
def test_space_to_depth_as_a_convolution_is_exact(channels: int) -> None:
    images = torch.randn(2, channels, 6, 8)
    assert torch.equal(_SpaceToDepthAsConvolution(channels)(images), space_to_depth(images))
