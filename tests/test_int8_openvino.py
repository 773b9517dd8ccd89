"""8-bit export for OpenVINO with NNCF, and through the simulated interface of TensorRT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import onelook
from onelook.exporting.openvino_int8 import _convolutions, _Quantizer
from onelook.networks.detector import Detector
from onelook.predict.runtimes.openvino import OpenvinoRuntime
from onelook.reporter import SilentReporter
from simulated_tensorrt import Cuda, modules
from spread_detector import own_data, shallow_detector

pytest.importorskip("onnxscript")
openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

SIZE = (64, 96)
# What other libraries say while they are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*jit"),
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return shallow_detector(SIZE)


@pytest.fixture(scope="module")
def data(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_data(detector, tmp_path_factory.mktemp("data"), SIZE, {"train": (0, 4), "val": (4, 10)})


def weight_types(path: Path) -> dict[str, str]:
    """The element type that each convolution's weights are stored in, by the name of the convolution."""
    found = {}
    for operation in openvino.Core().read_model(str(path)).get_ordered_ops():
        if operation.get_type_name() in ("Convolution", "GroupConvolution"):
            weight = operation.input_value(1).get_node()
            while weight.get_type_name() != "Constant":
                weight = weight.input_value(0).get_node()
            found[operation.get_friendly_name()] = weight.get_element_type().get_type_name()
    return found


@pytest.mark.parametrize("free", [False, True])
def test_openvino_file_is_in_8_bits_but_its_last_convolutions(
    free: bool, detector: Detector, data: Path, tmp_path: Path, capfd: Any
) -> None:
    result = onelook.export(
        detector,
        "openvino",
        int8=True,
        calibrate=data,
        max_drop=20,
        nms=free,
        dynamic=free,
        out=tmp_path / "m.xml",
        reporter=SilentReporter(),
    )
    assert capfd.readouterr() == ("", "")  # NNCF has a log and progress bars of its own
    report, types = result.exported.int8, weight_types(result.path)
    assert report is not None and report.ap_float > 0.3 and report.ap_float - report.ap <= 0.2
    assert sorted(types.values()).count("f32") == 2 + len(report.kept)
    assert list(types.values()).count("i8") == report.convolutions - len(report.kept)
    said = OpenvinoRuntime(result.path, threads=1).metadata
    assert said == result.exported.metadata and said.precision == "int8" and (said.int8 or {})["ap_int8"] == report.ap
    again = onelook.validate(result.path, data, reporter=SilentReporter())
    assert again.stats["AP"] == pytest.approx(report.ap, abs=1e-6)
    assert {one.name for one in tmp_path.iterdir()} == {"m.xml", "m.bin"}


def test_convolutions_that_are_kept_stay_in_float(detector: Detector, data: Path, tmp_path: Path) -> None:
    from onelook.api.export_int8 import Int8Settings, open_quantization
    from onelook.exporting.openvino import convert
    from onelook.exporting.target import ExportOptions

    quantization = open_quantization(
        Int8Settings(calibrate=data, calibration_images=2), detector.architecture.frame, SIZE, SilentReporter()
    )
    source = convert(detector, tmp_path / "m.onnx", ExportOptions())
    convolutions = _convolutions(source.model())
    assert len(convolutions) == 19 and all(name.endswith(".weight") for name in convolutions)
    kept = frozenset(list(convolutions)[::3])
    model = _Quantizer(source.model, 1, quantization)(kept)
    openvino.save_model(model, str(tmp_path / "m.xml"), compress_to_fp16=False)
    types = weight_types(tmp_path / "m.xml")
    assert {weight for weight, name in convolutions.items() if types[name] == "f32"} == kept


def test_engine_in_8_bits_is_built_through_the_simulated_interface(
    detector: Detector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda()
    for name, module in modules(cuda).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("onelook.exporting.tensorrt.find_spec", lambda name: object())
    result = onelook.export(
        detector,
        "tensorrt",
        int8=True,
        calibrate=data,
        max_drop=20,
        out=tmp_path / "m.engine",
        reporter=SilentReporter(),
    )
    assert result.path == tmp_path / "m.engine" and result.exported.runs_in == "TensorRT 0.simulated"
    assert result.exported.metadata.precision == "int8" and result.exported.int8 is not None
    assert {one.name for one in tmp_path.iterdir()} == {"m.engine", "m.engine.json", "m.onnx"}
