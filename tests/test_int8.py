"""8-bit export: what stays in float, what the file says of itself, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import onelook
from onelook.api import export_report
from onelook.api.export_int8 import gain_note
from onelook.cli.app import run
from onelook.errors import ExportError
from onelook.exported import ExportedMetadata
from onelook.exporting.accuracy import Comparison, Int8Report
from onelook.exporting.graph import ExportGraph
from onelook.exporting.int8 import STEPS, Quantization, batches_of, quantize_within
from onelook.exporting.ranges import least_error_ranges, rounded
from onelook.exporting.sensitivity import rank_convolutions
from onelook.exporting.tensorrt import check_operators
from onelook.exporting.verify import TOLERANCES, compare_rows, verification_images
from onelook.networks.detector import Detector
from onelook.reporter import SilentReporter
from onelook.weights import save_weights
from spread_detector import own_data, shallow_detector

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


@pytest.fixture(scope="module")
def exported(detector: Detector, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_report, "MOST_TURNS", 3)
        return onelook.export(
            detector,
            int8=True,
            calibrate=data,
            max_drop=10,
            out=folder / "m.onnx",
            report=folder / "m.html",
            reporter=SilentReporter(),
        )


def test_file_is_in_8_bits_and_says_how_it_was_judged(exported: Any, data: Path) -> None:
    report, metadata = exported.exported.int8, exported.exported.metadata
    model = onnx.load(exported.path)
    said = json.loads(next(one.value for one in model.metadata_props if one.key == "onelook"))
    assert ExportedMetadata.from_json(json.dumps(said), "m") == metadata and said["precision"] == "int8"
    assert said["int8"]["calibration_images"] == 4 and len(said["int8"]["calibration_sha256"]) == 64
    assert "'train'" in said["int8"]["calibrated_on"] and "'val'" in said["int8"]["judged_on"]
    assert (said["int8"]["ap_float"], said["int8"]["ap_int8"]) == (report.ap_float, report.ap)
    assert report.ap_float > 0.5 and report.ap_float - report.ap <= 0.1
    # The AP is that of the file itself, as `onelook val` finds it.
    again = onelook.validate(exported.path, data, reporter=SilentReporter())
    assert again.stats["AP"] == pytest.approx(report.ap, abs=1e-9)
    assert exported.exported.bytes < report.comparison.float_bytes
    assert exported.to_dict()["int8"]["trials"][-1] == {"in_float": len(report.kept), "ap": report.ap}


def test_report_of_an_8_bit_file_has_what_the_export_measured(exported: Any) -> None:
    assert exported.to_dict()["report"] == str(exported.report)
    text, report = exported.report.read_text(encoding="utf-8"), exported.exported.int8
    for words in (f"{report.ap:.4f}", f"{report.ap_float:.4f}", "while 8 bits were chosen", "in float, besides"):
        assert words in text
    assert exported.exported.metadata.int8["calibration_sha256"] in text
    assert "detect_opencv" not in text  # OpenCV does not read 8-bit files


def test_weights_are_of_8_bits_but_those_of_the_last_convolutions(exported: Any) -> None:
    model = onnx.load(exported.path)
    constants = {one.name: one for one in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    in_float = set()
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        source = made.get(node.input[1])
        if source is None:
            assert constants[node.input[1]].data_type == TensorProto.FLOAT
            in_float.add(node.input[1])
        else:
            assert source.op_type == "DequantizeLinear"
            assert constants[source.input[0]].data_type == TensorProto.INT8
            assert constants[source.input[1]].dims  # a scale for each output channel
    last = {"detector.head.levels.0.predict.weight", "detector.head.levels.1.predict.weight"}
    report = exported.exported.int8
    assert in_float == last | set(report.kept)
    assert report.convolutions == Counter(node.op_type for node in model.graph.node)["Conv"] - len(last)


def judged(aps: list[float], max_drop: float = 0.01) -> tuple[Quantization, list[frozenset[str]], Any]:
    """A quantisation whose files have these APs, the float file's first; and what was kept in the files written."""
    left, kept = iter(aps), []

    def write(names: frozenset[str]) -> Path:
        kept.append(names)
        return Path("trial")

    quantization = Quantization(
        images=lambda: iter(()),
        count=0,
        held_out=np.zeros((1, 3, 8, 8), np.float32),
        judge=lambda path: next(left),
        compare=lambda first, second: Comparison(10, 2.0, 1.0),
        max_drop=max_drop,
        description={},
        reporter=SilentReporter(),
    )
    return quantization, kept, write


@pytest.mark.parametrize(
    ("aps", "count"), [([0.5, 0.495], 0), ([0.5, 0.6], 0), ([0.5, 0.2, 0.49], 2), ([0.5, 0.2, 0.3, 0.4, 0.495], 8)]
)
def test_fewest_convolutions_stay_in_float_the_most_costly_first(aps: list[float], count: int) -> None:
    quantization, kept, write = judged(aps)
    names = [f"layer {index}" for index in range(20)]
    report = quantize_within(write, Path("float"), lambda: names, 20, quantization)
    assert report.kept == tuple(names[:count]) and kept[-1] == frozenset(names[:count])
    assert [one.kept for one in report.trials] == list(STEPS[: len(aps) - 1])
    assert (report.ap_float, report.ap) == (aps[0], aps[-1])


def test_ranking_is_not_made_where_nothing_has_to_stay_in_float() -> None:
    quantization, _, write = judged([0.5, 0.5])

    def rank() -> list[str]:
        raise AssertionError

    assert quantize_within(write, Path("float"), rank, 5, quantization).kept == ()


def test_loss_that_cannot_be_avoided_is_refused_with_all_trials() -> None:
    quantization, kept, write = judged([0.5, 0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ExportError) as caught:
        quantize_within(write, Path("float"), lambda: [f"{index}" for index in range(6)], 6, quantization)
    assert "AP of 0.5000" in str(caught.value) and "4 in float: AP 0.3000 (-0.2000)" in str(caught.value)
    assert "--max-drop" in caught.value.remedy and len(kept) == 3  # 0, 2, 4 of 6


@pytest.mark.parametrize("ap", [-1.0, 0.0, 0.005])
def test_model_that_finds_nothing_cannot_be_judged(ap: float) -> None:
    quantization, kept, write = judged([ap])
    with pytest.raises(ExportError, match="cannot be measured"):
        quantize_within(write, Path("float"), list, 5, quantization)
    assert not kept


def test_convolution_with_an_outlying_channel_ranks_first(detector: Detector) -> None:
    graph = ExportGraph(detector)
    names = [name for name, one in graph.named_modules() if isinstance(one, nn.Conv2d)]
    chosen = names[len(names) // 2]
    convolution = graph.get_submodule(chosen)
    images = list(verification_images(SIZE, 2)[:, None])
    before = dict(rank_convolutions(graph, images, outputs=False))
    assert set(before) == {f"{name}.weight" for name in names} and min(before.values()) >= 0
    # One input channel of great values and no weight: the output is the same, the range of 8 bits is not.
    weight = convolution.weight.data
    weight[:, 0] = 0
    unchanged = dict(rank_convolutions(graph, images, outputs=False))[f"{chosen}.weight"]
    convolution.register_forward_pre_hook(lambda _, inputs: (_with_outlier(inputs[0]),))
    ranked = rank_convolutions(graph, images, outputs=False)
    assert dict(ranked)[f"{chosen}.weight"] > 5 * unchanged and ranked[0][0] == f"{chosen}.weight"
    assert torch.equal(convolution.weight.data, weight)  # weights are as before


def _with_outlier(images: torch.Tensor) -> torch.Tensor:
    changed = images.clone()
    changed[:, 0] = 1e4
    return changed


def _silu_model(values: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["images", "zero"], ["before"]),
        helper.make_node("Sigmoid", ["before"], ["gate"]),
        helper.make_node("Mul", ["before", "gate"], ["after"]),
    ]
    shape = list(values.shape)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", 1, shape)],
        [helper.make_tensor_value_info("after", 1, shape)],
        [numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_values_that_a_silu_removes_take_no_part_of_the_range() -> None:
    values = np.concatenate([np.linspace(-100, 0, 2000), np.linspace(0, 6, 2000)]).astype(np.float32)
    values = values.reshape(1, 1, 40, 100)
    found = least_error_ranges(_silu_model(values), ["before", "images"], [values], symmetric=False)
    assert -30 < found["before"][0] <= 0 and found["before"][1] > 3
    assert found["images"][0] < -60  # goes through no activation function


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 0), st.floats(0, 1e3), st.integers(0, 2**32 - 1))
def test_rounding_keeps_zero_and_stays_within_half_a_step(low: float, high: float, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(low, high, 100)
    step = max(high - low, 1e-12) / 255
    assert rounded(np.zeros(1), low, high)[0] == 0
    assert np.abs(rounded(values, low, high) - values).max() <= 1.01 * step  # the zero may move by half a step


@given(st.integers(1, 9), st.integers(1, 4))
def test_fixed_batches_are_filled_up(count: int, size: int) -> None:
    images = iter(np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1, 1))
    parts = list(batches_of(images, size, count, lambda done, total, detail="": None))
    assert all(len(part) == size for part in parts) and len(parts) == -(-count // size)
    assert [float(value) for value in np.concatenate(parts).ravel()[:count]] == list(range(count))


def test_bounds_of_8_bits_hold_for_most_confident_rows_and_refuse_swapped_boxes() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (1, 50, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 100, (1, 50, 2))], -1).astype(np.float32)
    scores = rng.uniform(0.5, 0.9, (1, 50, 3)).astype(np.float32)
    one_wrong = boxes.copy()
    one_wrong[0, 0] = 0
    found = compare_rows((one_wrong, scores * 0.9), (boxes, scores), TOLERANCES["int8"], (300, 300))
    assert 0.9 < found.within < 1 and "have to be" in str(found)
    with pytest.raises(ExportError, match=r"0% of the rows that score .* are near enough, not 80%") as caught:
        compare_rows((boxes[:, ::-1], scores), (boxes, scores), TOLERANCES["int8"], (300, 300))
    assert "--max-drop" in str(caught.value.remedy) and "--half" not in str(caught.value.remedy)
    with pytest.raises(ExportError):
        compare_rows((boxes, np.full_like(scores, np.nan)), (boxes, scores), TOLERANCES["int8"], (300, 300))


def test_processor_without_gain_is_named() -> None:
    def report(int8_ms: float) -> Int8Report:
        return Int8Report(0.5, 0.5, (), 10, (), Comparison(100, 10.0, int8_ms))

    assert gain_note(report(5.0)) == ()
    (note,) = gain_note(report(12.0))
    assert "gain no time" in note and "1.20 times" in note


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--int8"], 2, "--calibrate DATA"),
        (["--calibrate", "."], 2, "--int8"),
        (["--max-drop", "2"], 2, "Add --int8"),
        (["--calibration-images", "20"], 2, "Add --int8"),
        (["--int8", "--calibrate", ".", "--max-drop", "nan"], 2, "max_drop is nan"),
        (["--int8", "--half", "--calibrate", "."], 2, "--half or --int8"),
        (["--int8", "--calibrate", ".", "--max-drop", "-1"], 2, "max_drop is -1"),
        (["--int8", "--calibrate", ".", "--calibration-images", "0"], 2, "calibration_images is 0"),
        (["--int8", "--calibrate", ".", "--to", "ncnn"], 2, "ncnn2int8"),
        (["--int8", "--calibrate", ".", "--to", "torch"], 2, "ONNX or OpenVINO"),
        (["--int8", "--calibrate", ".", "--to", "darknet"], 2, "float32 weights only"),
        (["--int8", "--calibrate", "nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes_are_one_message(flags: list[str], code: int, message: str, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "m.out")
    assert run(["export", "--model", "yolox-nano", "--weights", "none", "--out", out, *flags]) == code
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_model_without_trained_weights_is_refused(data: Path, tmp_path: Path, capsys: Any) -> None:
    """From the command line to the message: nothing is written, and the folder is as before."""
    torch.manual_seed(0)
    weights = save_weights(shallow_detector(SIZE), tmp_path / "a.safetensors")
    # Its own data, and then boxes that nothing finds.
    path = data.parent / "nothing"
    path.mkdir(exist_ok=True)
    (path / "train").symlink_to(data / "train")
    (path / "val").symlink_to(data / "val")
    (path / "annotations").mkdir()
    for split in ("train", "val"):
        document = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        for one in document["annotations"]:
            one["bbox"], one["area"] = [0, 0, 1, 1], 1
        (path / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    before = {one.name for one in tmp_path.iterdir()}
    out = tmp_path / "m.onnx"
    assert run(["export", "--model", str(weights), "--int8", "--calibrate", str(path), "--out", str(out)]) == 1
    assert "cannot be measured" in " ".join(capsys.readouterr().err.split())
    assert {one.name for one in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_single_split_is_said_and_nms_is_inside(detector: Detector, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(SilentReporter):
        def warning(self, text: str) -> None:
            said.append(text)

    data = own_data(detector, tmp_path / "data", SIZE, {"val": (0, 4)})
    result = onelook.export(
        detector,
        int8=True,
        calibrate=data,
        max_drop=20,
        nms=True,
        dynamic=True,
        out=tmp_path / "m.onnx",
        reporter=Listening(),
    )
    assert any("one split" in text for text in said)
    metadata = result.exported.metadata
    assert metadata.outputs == "detections" and metadata.batch is None and metadata.precision == "int8"
    found = onelook.load(result.path).detect(data / "val" / "000.png", confidence=0.01)
    assert len(found) > 0


@pytest.mark.slow
def test_tensorrt_gets_ranges_around_zero_and_biases_in_float(detector: Detector, data: Path, tmp_path: Path) -> None:
    result = onelook.export(
        detector,
        "tensorrt",
        int8=True,
        calibrate=data,
        max_drop=20,
        out=tmp_path / "m.engine",
        reporter=SilentReporter(),
    )
    model = onnx.load(result.path)
    check_operators(result.path)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes
    for node in nodes:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    assert "--stronglyTyped" in result.exported.notes[0]
    assert json.loads((tmp_path / "m.engine.json").read_text())["precision"] == "int8"
