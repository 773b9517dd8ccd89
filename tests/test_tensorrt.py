"""TensorRT: what is written without a GPU, and the engine through a simulation of the library's interface."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import onelook
from onelook.errors import ConfigError, ExportError, UserError
from onelook.exporting.onnx import export_onnx
from onelook.exporting.target import ExportedFile, ExportOptions
from onelook.exporting.targets import TARGETS
from onelook.exporting.tensorrt import check_operators, finish_tensorrt, trtexec_command
from onelook.networks.detector import Detector
from onelook.ops.nms import Nms
from onelook.predict.runtimes.torch import TorchRuntime
from rows_of_files import SIZE, AllRows, assert_same, batch, opened
from simulated_tensorrt import Cuda, modules
from spread_detector import spread_detector

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of other libraries


@pytest.fixture(scope="module")
def detector() -> Detector:
    return spread_detector(SIZE)


@pytest.fixture(scope="module")
def written(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> ExportedFile:
    """The ONNX file of any batch size that engines are built of."""
    return export_onnx(detector, tmp_path_factory.mktemp("onnx") / "model.onnx", dynamic=True, size=SIZE)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    for name, module in modules(cuda).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("onelook.exporting.tensorrt.find_spec", lambda name: object())
    return cuda


def test_without_a_gpu_the_command_is_written(written: ExportedFile, detector: Detector, tmp_path: Path) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed: the engine is built here")
    engine = tmp_path / "model.engine"
    file = finish_tensorrt(detector, engine, written)
    assert file.path.suffix == ".onnx" and not engine.exists() and file.agreement.box < 0.05
    assert file.beside == (Path(f"{engine}.json"),)
    with pytest.raises(UserError, match=r"only its description .*\n.*trtexec command"):
        onelook.load(engine)
    (note,) = file.notes
    assert "No engine was built or run" in note and "'tensorrt' is not installed" in note
    assert f"trtexec --onnx={file.path} --saveEngine={engine} --stronglyTyped" in note
    assert trtexec_command(file.path, engine, file.metadata)[-3:] == [
        "--minShapes=images:1x3x64x96",
        "--optShapes=images:8x3x64x96",
        "--maxShapes=images:32x3x64x96",
    ]
    assert_same(opened(file)(batch(2), AllRows()), TorchRuntime(detector, "cpu", size=SIZE)(batch(2), AllRows()))


def test_tensorrt_without_a_gpu_leaves_no_older_engine_beside_new_metadata(
    written: ExportedFile, detector: Detector, tmp_path: Path
) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed: the engine is built here")
    engine = tmp_path / "m.engine"
    engine.write_bytes(b"of other weights")
    finish_tensorrt(detector, engine, written)
    assert {one.name for one in tmp_path.iterdir()} == {"m.engine.json"}


def test_an_engine_that_is_not_built_changes_nothing_of_the_older_one(
    simulated: Cuda, written: ExportedFile, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.exporting.tensorrt.build_engine", _fail)
    for name in ("m.engine", "m.engine.json"):
        (tmp_path / name).write_bytes(b"before")
    with pytest.raises(ExportError, match="no engine"):
        finish_tensorrt(detector, tmp_path / "m.engine", written)
    assert {(tmp_path / name).read_bytes() for name in ("m.engine", "m.engine.json")} == {b"before"}


def _fail(*_: object) -> None:
    raise ExportError("There is no engine.")


def test_an_engine_with_nms_by_its_description_is_refused(
    simulated: Cuda, written: ExportedFile, detector: Detector, tmp_path: Path
) -> None:
    file = finish_tensorrt(detector, tmp_path / "m.engine", written)
    nms = {"confidence": 0.25, "iou": 0.45, "agnostic": False, "multi_label": False, "limit": 300}
    changed = replace(file.metadata, outputs="detections", nms=nms)
    Path(f"{file.path}.json").write_text(changed.to_json())
    with pytest.raises(ExportError, match="does not fit its own description"):
        opened(file)


def test_operator_that_tensorrt_does_not_take_is_named(detector: Detector, tmp_path: Path) -> None:
    file = export_onnx(detector, tmp_path / "m.onnx", nms=Nms(), size=SIZE)
    with pytest.raises(ExportError, match="'Abs'"):
        check_operators(file.path)


def test_engine_is_built_verified_and_run_through_the_simulated_interface(
    simulated: Cuda, detector: Detector, tmp_path: Path
) -> None:
    file = TARGETS["tensorrt"].write(detector, tmp_path / "m.engine", ExportOptions(dynamic=True))
    assert file.path == tmp_path / "m.engine" and file.notes == () and file.runs_in == "TensorRT 0.simulated"
    assert {one.name for one in tmp_path.iterdir()} == {"m.engine", "m.engine.json", "m.onnx"}
    runtime = opened(file, device="cuda:0")
    outside = TorchRuntime(detector, "cpu", size=SIZE)
    for count in (1, 3, 2):  # memory grows once and is kept
        assert_same(runtime(batch(count), AllRows()), outside(batch(count), AllRows()))
    assert simulated.freed == 3 + 3  # images and two outputs, here and in the verification
    with pytest.raises(ConfigError, match="toaster"):
        opened(file, device="toaster")
    with pytest.raises(ExportError, match="CUDA says 101"):
        opened(file, device="cuda:1")
    simulated.largest = 100
    with pytest.raises(ExportError, match="CUDA says 2"):
        opened(file)(batch(1), AllRows())
    file.path.write_bytes(b"of another GPU")
    with pytest.raises(ExportError, match="not an engine for this GPU"):
        opened(file)
