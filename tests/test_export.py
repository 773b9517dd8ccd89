"""Tests of exported files: they run without this library's code and equal PyTorch, or they are not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser
from torch import nn

import onelook
from onelook.api.export import _not_kept
from onelook.augment.letterbox import Letterbox
from onelook.cli.app import run
from onelook.errors import ExportError
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.exporting import onnx as onnx_export
from onelook.exporting.describe import describe
from onelook.exporting.nms import append_nms
from onelook.exporting.onnx import OUTPUTS, ExportedFile, export_onnx
from onelook.exporting.target import ExportOptions
from onelook.exporting.verify import TOLERANCES, compare_rows, verification_images, verify_rows
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.yolox.architecture import Yolox
from onelook.networks.yolox.head import decode
from onelook.ops.nms import Nms
from onelook.ops.priors import grid_priors
from onelook.weights import save_weights
from shared import needs_shared, reference

SIZE = (64, 96)


pytestmark = pytest.mark.usefixtures("one_thread_in_module")


def _detector(seed: int = 0) -> Detector:
    """A small network whose features are normalised and whose scores spread over 0..1, as a trained one's."""
    torch.manual_seed(seed)
    detector = build(Yolox(depth=0.33, width=0.125, size=SIZE), classes=["cat", "dog", "cow"])
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics become those of the one batch below
    for name, parameter in detector.named_parameters():
        if name.endswith(("classes.bias", "objectness.bias")):
            nn.init.constant_(parameter, 0.5)
        elif name.endswith(("classes.weight", "objectness.weight")):
            nn.init.normal_(parameter)
    with torch.no_grad():
        detector(torch.from_numpy(verification_images(SIZE)))
    detector.eval()
    return detector


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _metadata(path: Path) -> ExportedMetadata:
    text = _session(path).get_modelmeta().custom_metadata_map[METADATA_KEY]
    return ExportedMetadata.from_json(text, str(path))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, ExportedFile]:
    detector = _detector()
    return detector, export_onnx(detector, tmp_path_factory.mktemp("raw") / "model.onnx")


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, ExportedFile]:
    detector = _detector()
    path = tmp_path_factory.mktemp("final") / "model.onnx"
    return detector, export_onnx(detector, path, nms=Nms(0.3, 0.5, limit=20), dynamic=True)


def test_rows_are_those_of_pytorch(raw: tuple[Detector, ExportedFile]) -> None:
    detector, exported = raw
    images = verification_images(SIZE)[:1]
    boxes, scores = _session(exported.path).run(["boxes", "scores"], {"images": images})
    with torch.no_grad():
        predictions = detector(torch.from_numpy(images))
    np.testing.assert_allclose(boxes, predictions.boxes, atol=0.05)
    np.testing.assert_allclose(scores, predictions.scores(), atol=1e-3)
    assert 0 < exported.agreement.box < 0.05 and 0 < exported.agreement.score < 1e-3


def test_file_has_all_metadata_that_a_consumer_needs(raw: tuple[Detector, ExportedFile]) -> None:
    _, exported = raw
    metadata = _metadata(exported.path)
    assert metadata == exported.metadata
    assert (metadata.names, metadata.size, metadata.batch) == (("cat", "dog", "cow"), SIZE, 1)
    assert (metadata.outputs, metadata.nms, metadata.precision) == ("raw", None, "float32")
    assert metadata.frame["type"] == "Letterbox"
    (images,) = _session(exported.path).get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", [1, 3, *SIZE])
    assert (exported.path.stat().st_mode & 0o777) == 0o644


def test_file_has_no_paths_of_the_computer_that_made_it(raw: tuple[Detector, ExportedFile]) -> None:
    content = raw[1].path.read_bytes()
    assert str(Path(onnx_export.__file__).parents[1]).encode() not in content
    assert b"stack_trace" not in content and b".py" not in content


def test_file_with_nms_has_the_documented_interface(final: tuple[Detector, ExportedFile]) -> None:
    _, exported = final
    metadata = _metadata(exported.path)
    assert (metadata.outputs, metadata.precision, metadata.batch) == ("detections", "float32", None)
    assert metadata.nms == {"confidence": 0.3, "iou": 0.5, "agnostic": False, "multi_label": False, "limit": 20}
    session = _session(exported.path)
    assert [(value.name, value.type) for value in session.get_inputs()] == [("images", "tensor(float)")]
    optional = {value.name: value.type for value in session.get_overridable_initializers()}
    assert optional == {"confidence": "tensor(float)", "iou": "tensor(float)"}
    assert {value.name: value.type for value in session.get_outputs()} == {
        "count": "tensor(int64)",
        "boxes": "tensor(float)",
        "scores": "tensor(float)",
        "labels": "tensor(int64)",
    }


def test_half_precision_file_takes_and_gives_float32(tmp_path: Path) -> None:
    torch.manual_seed(
        0
    )  # freshly initialised: normalising a random network's features would amplify float16's rounding
    exported = export_onnx(build(Yolox(depth=0.33, width=0.125, size=SIZE)), tmp_path / "model.onnx", half=True)
    assert _metadata(exported.path).precision == "float16"
    session = _session(exported.path)
    assert {value.type for value in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
    weights = [tensor for tensor in onnx.load(exported.path).graph.initializer if len(tensor.dims) == 4]
    assert weights and {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}


def test_a_batch_equals_its_images(final: tuple[Detector, ExportedFile]) -> None:
    session = _session(final[1].path)
    images = verification_images(SIZE)
    together = session.run(["count", "boxes", "scores", "labels"], {"images": images})
    assert together[0].min() > 0
    for index, image in enumerate(images):
        alone = session.run(["count", "boxes", "scores", "labels"], {"images": image[None]})
        for whole, part in zip(together, alone):
            np.testing.assert_allclose(whole[index], part[0], rtol=1e-3, atol=1e-2)


def test_thresholds_are_optional_inputs(final: tuple[Detector, ExportedFile]) -> None:
    session = _session(final[1].path)
    images = verification_images(SIZE)[:1]
    (usual,) = session.run(["count"], {"images": images})
    (strict,) = session.run(["count"], {"images": images, "confidence": np.array(1.0, np.float32)})
    (same,) = session.run(["count"], {"images": images, "iou": np.array(0.5, np.float32)})
    assert strict[0] == 0 < usual[0] == same[0]


@pytest.mark.parametrize(("name", "confidence"), [("multi_label", 0.3), ("agnostic", 0.2), ("plain", 0.2)])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_nms_nodes_are_nms(name: str, confidence: float, seed: int) -> None:
    nms = Nms(confidence, 0.5, agnostic=name == "agnostic", multi_label=name == "multi_label", limit=12)
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 12, (2, 30, 2)) * 4.0
    boxes = np.concatenate((low, low + rng.integers(1, 8, (2, 30, 2)) * 4.0 + 0.13), -1).astype(np.float32)
    scores = (rng.permutation(2 * 30 * 3).reshape(2, 30, 3) / 180).astype(np.float32)
    boxes[0, 3, 2] = np.inf
    outputs = _suppress(name, nms).run(None, {"row_boxes": boxes, "row_scores": scores})
    for image in range(2):
        count, *found = (output[image] for output in outputs)
        expected = nms(boxes[image], scores[image])
        assert count == len(expected[0])
        for got, want in zip(found, expected):
            np.testing.assert_array_equal(got[:count], want)
            assert not got[count:].any()


_SESSIONS: dict[str, Any] = {}


def _suppress(name: str, nms: Nms) -> Any:
    if name not in _SESSIONS:
        model = parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 18]>
            rows (float[batch, 30, 4] row_boxes, float[batch, 30, 3] row_scores)
              => (float[batch, 30, 4] row_boxes, float[batch, 30, 3] row_scores) {}"""
        )
        assert append_nms(model, nms, 30, 3) == 12
        onnx.checker.check_model(model, full_check=True)
        _SESSIONS[name] = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return _SESSIONS[name]


def test_candidate_pool_cannot_be_exported() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        rows (float[1, 3, 4] row_boxes, float[1, 3, 2] row_scores)
          => (float[1, 3, 4] row_boxes, float[1, 3, 2] row_scores) {}"""
    )
    with pytest.raises(ExportError, match="pool"):
        append_nms(model, Nms(pool=10), 3, 2)


def test_file_that_differs_from_pytorch_is_an_error_and_the_old_one_stays(
    raw: tuple[Detector, ExportedFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx.load(raw[1].path)
    del other.metadata_props[:]
    monkeypatch.setattr(onnx_export, "to_model", lambda *_: other)
    place = tmp_path / "model.onnx"
    place.write_text("what was there before")
    with pytest.raises(ExportError, match="does not agree with PyTorch: boxes differ by up to"):
        export_onnx(_detector(seed=1), place)
    assert place.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(("where", "by"), [("boxes", 0.2), ("boxes", np.nan), ("scores", 0.01), ("scores", np.nan)])
def test_rows_that_differ_are_found(where: str, by: float) -> None:
    expected = {"boxes": np.full((1, 3, 4), 5.0), "scores": np.full((1, 3, 2), 0.5)}
    found = {key: value.copy() for key, value in expected.items()}
    found[where][0, 1, 1] += by
    with pytest.raises(ExportError, match="does not agree"):
        compare_rows(tuple(found.values()), tuple(expected.values()), TOLERANCES["float32"], (64, 64))


class _Amplifier(nn.Module):
    """Boxes and scores that float32 holds only where `factor` is small: the sine of large numbers."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.dtype = torch.float32

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.sin(images.to(self.dtype).flatten(1)[:, :12] / 3 * self.factor)
        return values.reshape(-1, 3, 4) * 20 + 30, values.reshape(-1, 3, 4)[..., :2] / 4 + 0.5


@pytest.mark.parametrize(("factor", "blames_weights"), [(1.0, False), (1e6, True)])
def test_refusal_says_when_float32_itself_does_not_hold_the_outputs(factor: float, blames_weights: bool) -> None:
    graph, metadata = _Amplifier(factor), describe(_detector(seed=0), ExportOptions(size=(64, 64)))

    def run(outputs: Any, feed: Any) -> list[np.ndarray]:
        boxes, scores = graph(torch.from_numpy(feed["images"]))
        return [boxes.numpy() + 5, scores.numpy()]

    with pytest.raises(ExportError, match="does not agree") as caught:
        verify_rows(run, OUTPUTS, graph, metadata)  # type: ignore[arg-type]
    assert ("amplify rounding" in caught.value.message) == blames_weights


def test_boxes_that_overflow_on_both_sides_agree() -> None:
    boxes = np.array([[[-np.inf, 0, np.inf, 5.0], [1, 2, 3, 4]]])
    scores = np.full((1, 2, 2), 0.5)
    assert compare_rows((boxes, scores), (boxes, scores), TOLERANCES["float32"], (64, 64)).box == 0
    with pytest.raises(ExportError, match="does not agree"):
        compare_rows((boxes.clip(-1e30, 1e30), scores), (boxes, scores), TOLERANCES["float32"], (64, 64))


def test_verification_images_have_structure_and_are_always_the_same() -> None:
    images = verification_images((64, 64))
    assert np.array_equal(images, verification_images((64, 64)))
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 255
    assert np.array_equal(images, images.round())
    coarse = images.reshape(4, 3, 4, 16, 4, 16).mean((3, 5))
    assert coarse.std((2, 3)).min() > 10


@pytest.mark.slow
def test_export_of_an_exported_file_keeps_its_size_and_tells_what_it_does_not_keep(tmp_path: Path) -> None:
    given = tmp_path / "given.onnx"
    first = onelook.export("yolox-nano", weights="none", size=SIZE, batch=2, out=given)
    assert first.to_dict()["notes"] == []
    again = onelook.export(given, out=tmp_path / "again.onnx")
    assert _metadata(again.path).size == SIZE
    (note,) = again.to_dict()["notes"]
    assert note.startswith("not kept of the given file: batch 2; ")


def test_only_settings_that_differ_and_were_not_chosen_are_told_as_not_kept(
    final: tuple[Detector, ExportedFile],
) -> None:
    after = final[1].metadata
    assert after.nms is not None and _not_kept(None, after) == _not_kept(after, after) == ()
    half = replace(after, precision="float16")
    assert _not_kept(after, half) == ()
    assert _not_kept(half, after)[0].startswith("not kept of the given file: float16; ")
    assert "batch of any size" in _not_kept(after, replace(after, batch=1))[0]
    assert _not_kept(after, replace(after, batch=4)) == ()
    assert "NMS (confidence 0.3," in _not_kept(after, replace(after, nms={**after.nms, "confidence": 0.25}))[0]


def test_detector_of_unknown_architecture_cannot_be_exported(tmp_path: Path) -> None:
    detector = _detector()
    detector.architecture = None
    with pytest.raises(ExportError, match="architecture"):
        export_onnx(detector, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "yolox-nano"], "no weights"),
        (["--model", "yolox-nanno"], "Did you mean 'yolox-nano'"),
        (["--model", "nowhere/best.safetensors"], "does not exist"),
        (["--model", "yolox-nano", "--weights", "none", "--int8"], "8-bit"),
        (["--model", "yolox-nano", "--weights", "none", "--size", "100"], "multiples of 32"),
        (["--model", "yolox-nano", "--weights", "none", "--out", "nowhere/x.onnx"], "does not exist"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", *arguments]) == (2 if message in ("batch", "8-bit") else 1)
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_weights_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_weights(build("yolox-nano"), tmp_path / "a.safetensors")
    before = path.read_bytes()
    assert run(["export", "--model", str(path), "--out", str(tmp_path / "." / "a.safetensors")]) == 1
    assert "overwrite" in capsys.readouterr().err and path.read_bytes() == before


def test_an_earlier_file_is_replaced_only_when_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"an earlier file")
    command = ["export", "--model", "yolox-nano", "--weights", "none", "--size", "64", "--out", str(path)]
    assert run(command) == 1
    assert "exists already" in (message := capsys.readouterr().err) and "--overwrite" in message
    assert path.read_bytes() == b"an earlier file"
    assert run([*command, "--overwrite"]) == 0
    assert path.read_bytes() != b"an earlier file"


def test_settings_that_a_darknet_file_cannot_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--model", "yolov4-tiny", "--weights", "none", "--to", "darknet", "--half"]
    assert run([*command, "--out", str(tmp_path / "a.weights")]) == 2
    assert "--half" in capsys.readouterr().err and not (tmp_path / "a.weights").exists()


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--nms", "--dynamic", "--half", "--nms --dynamic --half"])
@pytest.mark.parametrize("name", ["yolox-nano", "yolox-tiny"])
def test_command_exports_quietly(name: str, options: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    assert (
        run(["export", "--model", name, "--weights", "none", *options.split(), "--out", str(out), "--json", "-"]) == 0
    )
    printed = capfd.readouterr()
    assert len(printed.err.splitlines()) < 10
    result = json.loads(printed.out)
    assert result["file"] == str(out) and result["bytes"] == out.stat().st_size
    assert result["largest_score_difference"] < 1e-3
    assert result["largest_box_difference"] < (1 if "--half" in options else 1e-3)
    assert _metadata(out).model == name


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--half"])
def test_export_of_official_weights_is_the_official_file(options: str, tmp_path: Path) -> None:
    official, out = reference("yolox") / "yolox_nano.onnx", tmp_path / "model.onnx"
    command = ["export", "--model", "yolox-nano", "--weights", str(official), "--out", str(out), *options.split()]
    assert run(command) == 0
    photo = cv2.cvtColor(cv2.imread(str(reference("yolox") / "dog.jpg")), cv2.COLOR_BGR2RGB)
    framed, _ = Letterbox()(photo, (416, 416))
    images = framed.transpose(2, 0, 1)[None].astype(np.float32)
    boxes, scores = _session(out).run(["boxes", "scores"], {"images": images})
    (theirs,) = _session(official).run(None, {"images": images[:, ::-1].copy()})
    priors = grid_priors([(52, 52), (26, 26), (13, 13)], [8, 16, 32])
    expected = decode(torch.from_numpy(theirs[..., :4]), priors).numpy()
    best = scores[0].max(-1) > 0.5
    assert best.sum() > 3
    np.testing.assert_allclose(scores, theirs[..., 5:] * theirs[..., 4:5], atol=0.03 if options else 1e-4)
    np.testing.assert_allclose(boxes[:, best], expected[:, best], atol=2.0 if options else 0.05)
