"""From images of any kind to detections: the predictor, its backends, `load`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import onelook
from onelook.augment.letterbox import Letterbox
from onelook.data.images import decode_image
from onelook.errors import ConfigError, ExportError, ImageError, UserError, WeightsError, install_command
from onelook.networks.build import build
from onelook.ops.nms import Nms
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.runtimes.torch import TorchRuntime
from onnx_models import BOXES, describe, write_model
from shared import data, needs_shared, reference


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture
def detector(small: Path) -> Predictor:
    return onelook.load(small)


def white(height: int = 128, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


# --- what goes in ----------------------------------------------------------------------------------------------------


def test_path_array_and_pil_give_the_same(detector: Predictor, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(150, 255, (128, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    results = [
        detector.detect(tmp_path / "a.png", confidence=0.1),
        detector.detect(str(tmp_path / "a.png"), confidence=0.1),
        detector.detect(image, confidence=0.1),
        detector.detect(Image.fromarray(image), confidence=0.1),
        detector.detect([image], confidence=0.1)[0],
        detector.detect([tmp_path / "a.png"], confidence=0.1)[0],
    ]
    assert [len(result) for result in results] == [2] * 6
    for result in results[1:]:
        np.testing.assert_array_equal(result.boxes, results[0].boxes)
        np.testing.assert_array_equal(result.scores, results[0].scores)
        assert result.names == ["cat", "dog"]


def test_boxes_are_pixels_of_the_original(detector: Predictor) -> None:
    found = detector.detect(white(128, 96))  # framed at half its size
    np.testing.assert_allclose(found.boxes, BOXES[0] * 2, atol=1e-4)
    assert found.boxes.dtype == np.float32 and found.scores.dtype == np.float32 and found.labels.dtype == np.int64


def test_views_and_extreme_shapes_are_images(detector: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    same = [image[::-1, ::-1], np.ascontiguousarray(image[::-1, ::-1])]
    a, b = detector.detect(same, confidence=0.0)
    np.testing.assert_array_equal(a.scores, b.scores)
    for shape in [(1, 1), (1, 5000), (40000, 2)]:
        assert np.isfinite(detector.detect(white(*shape)).boxes).all()


def test_a_list_gives_a_list_and_keeps_no_pixels_of_files(detector: Predictor, tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), white())
    found = detector.detect([tmp_path / f"{name}.png" for name in "abc"])
    assert [Path(result.source or "").name for result in found] == ["a.png", "b.png", "c.png"]
    assert found[0].image is None and found[0].to_dict()["width"] == 96
    assert cv2.imread(str(found[0].save(tmp_path / "out.png"))) is not None
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (np.zeros((8, 8), np.uint8), "RGB"),
        (np.zeros((8, 8, 1), np.uint8), "RGB"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((2, 8, 8, 3), np.uint8), "list"),
        (np.zeros((8, 8, 3), np.float32), "255"),
        (np.zeros((8, 8, 3), np.int64), "uint8"),
        (np.zeros((0, 8, 3), np.uint8), "larger"),
        (np.zeros(5, np.uint8), "rows"),
        (torch.zeros(3, 8, 8), "numpy"),
        (12, "path"),
        (None, "path"),
    ],
)
def test_what_is_no_image_says_how_to_make_it_one(detector: Predictor, wrong: object, hint: str) -> None:
    with pytest.raises(ImageError) as caught:
        detector.detect(wrong)
    assert hint in caught.value.remedy


def test_a_pil_image_keeps_its_own_pixels(detector: Predictor) -> None:
    grey = Image.fromarray(np.full((64, 64), 255, np.uint8))
    deep = Image.fromarray(np.full((64, 64), 65535, np.uint16))
    for image in (grey, deep, grey.convert("LA"), grey.convert("CMYK"), grey.convert("1"), grey.convert("P")):
        assert detector.detect(image, confidence=0.5).names == ["cat", "dog"]
    with pytest.raises(ImageError, match="white"):
        detector.detect(Image.new("F", (8, 8)))


@pytest.mark.parametrize("wrong", [{"confidence": 2}, {"iou": -1}, {"confidence": "high"}, {"iou": float("nan")}])
def test_thresholds_out_of_range_are_refused(detector: Predictor, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        detector.detect(white(), **wrong)  # type: ignore[arg-type]


# --- backends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 2, 4])
def test_fixed_and_free_batch_sizes_give_the_same(tmp_path: Path, batch: int | None) -> None:
    backend = OnnxRuntime(write_model(tmp_path / "m.onnx", batch))
    pixels = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (255, 0, 128)])
    found = backend(pixels, Nms(0.3))
    assert [len(scores) for _, scores, _ in found] == [2, 0, 2]
    np.testing.assert_allclose(found[2][1], np.array([0.9, 0.8]) * 128 / 255, rtol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("", "was not exported by Onelook"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        (describe(size=[32, 32]), "does not fit its own description"),
        (describe(batch=3), "fit|batch"),
        (describe(frame={"type": "Popen", "args": "ls"}), "damaged"),
        (describe(frame={"type": "Letterbox", "fill": "black"}), "damaged"),
        (describe(format=99), "format 99"),
        (
            describe(
                outputs="detections",
                nms={"confidence": 0.1, "iou": 0.5, "agnostic": False, "multi_label": False, "limit": 3},
            ),
            "no output 'count'",
        ),
    ],
)
def test_a_description_that_is_damaged_or_wrong_is_refused(tmp_path: Path, metadata: object, words: str) -> None:
    path = write_model(tmp_path / "m.onnx", 2 if metadata == describe(batch=3) else None, metadata)
    with pytest.raises(ExportError, match=words) as caught:
        OnnxRuntime(path)
    assert "m.onnx" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000), b"\x08\x07\x12\x07pytorch"])
def test_a_file_that_is_no_model_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx"):
        onelook.load(tmp_path / "m.onnx")


def test_torch_backend_gives_what_the_detector_says() -> None:
    torch.manual_seed(0)
    model = build("yolox-nano", ["a", "b"]).eval()
    backend = TorchRuntime(model, "cpu", size=(64, 96))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    keep = Nms(0.0, 1.0)
    for (boxes, scores, labels), place, score in zip(backend(pixels, keep), wanted.boxes, wanted.scores()):
        order = score.amax(1).argsort(descending=True, stable=True)
        np.testing.assert_allclose(scores, score.amax(1)[order], atol=1e-5)
        assert len(boxes) == len(place) and set(labels.tolist()) <= {0, 1}
    assert backend.class_names == ("a", "b") and model.training is False


def test_sizes_and_devices_that_do_not_exist_are_refused(small: Path) -> None:
    model = build("yolox-nano")
    with pytest.raises(ConfigError, match="100") as caught:
        TorchRuntime(model, "cpu", size=(100, 64))
    assert "32" in caught.value.remedy
    with pytest.raises(ConfigError, match="CPU"):
        TorchRuntime(model, "cpu", half=True)
    with pytest.raises(ConfigError, match="device"):
        TorchRuntime(model, "gpu")
    with pytest.raises(ConfigError, match="device"):
        OnnxRuntime(small, "tpu")
    with pytest.raises(ConfigError, match="exported for 64 x 64"):
        onelook.load(small, size=128)
    with pytest.raises(ConfigError, match="size"):
        onelook.load(small, size=-3)


# --- load ------------------------------------------------------------------------------------------------------------


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'yolox-nano'"):
        onelook.load("yolox-nanno")
    with pytest.raises(WeightsError, match="no weights") as caught:
        onelook.load("yolox-nano")
    assert "https://" in caught.value.remedy
    with pytest.raises(WeightsError, match="does not exist"):
        onelook.load(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        onelook.load(tmp_path / "none.onnx")
    with pytest.raises(WeightsError, match=r"best\.safetensors"):
        onelook.load(tmp_path)


def test_a_run_and_its_file_load_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    onelook.save_weights(build("yolox-nano", ["cup", "pan"]), tmp_path / "best.safetensors", size=(64, 64))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    results = []
    for model, weights in [
        (tmp_path, None),
        (tmp_path / "best.safetensors", None),
        ("yolox-nano", tmp_path / "best.safetensors"),
    ]:
        predictor = onelook.load(model, weights, device="cpu")
        assert predictor.class_names == ("cup", "pan")
        results.append(predictor.detect(image, confidence=0.0).scores)
    np.testing.assert_array_equal(results[0], results[1])
    with pytest.raises(WeightsError, match="yolox-nano"):
        onelook.load("yolox-s", tmp_path / "best.safetensors")
    with pytest.raises(ConfigError, match="Two sets"):
        onelook.load(tmp_path, tmp_path / "best.safetensors")


def test_weights_of_unnamed_classes_make_a_model_of_as_many(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = build("yolox-nano", classes=3)
    assert trained.architecture is not None
    names = trained.architecture.official_names()
    torch.save({"model": {names[name]: tensor for name, tensor in trained.state_dict().items()}}, tmp_path / "a.pth")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = Predictor(TorchRuntime(trained, "cpu", size=(64, 64))).detect(image, confidence=0.0)
    for model, weights in [("yolox-nano", tmp_path / "a.pth"), (tmp_path / "a.pth", None)]:
        predictor = onelook.load(model, weights, device="cpu", size=64)
        found = predictor.detect(image, confidence=0.0)
        assert predictor.class_names == () and set(found.names) == {"0", "1", "2"}
        np.testing.assert_array_equal(found.scores, expected.scores)


# --- official answers ------------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(("entry", "agnostic"), [("torch_demo", True), ("evaluation", None)])
def test_dog_is_found_as_officially(entry: str, agnostic: bool | None, tmp_path: Path) -> None:
    folder = reference("yolox")
    golden = json.loads((folder / "dog.json").read_text())[entry]
    detector = onelook.load("yolox-nano", weights=folder / "yolox_nano.onnx", device="cpu")
    found = detector.detect(folder / "dog.jpg", golden["score_threshold"], golden["nms_threshold"], agnostic=agnostic)
    wanted = golden["detections"]
    assert found.names == [one["name"] for one in wanted]
    np.testing.assert_allclose(found.boxes, [one["box"] for one in wanted], atol=0.05, rtol=0)
    np.testing.assert_allclose(found.scores, [one["score"] for one in wanted], atol=1e-4, rtol=0)
    assert found.to_coco(7)[0]["image_id"] == 7


@needs_shared
def test_dog_in_the_frame_has_the_official_pixels() -> None:
    folder = reference("yolox")
    golden = json.loads((folder / "dog.json").read_text())
    image = decode_image(folder / "dog.jpg")
    assert int(image.sum(dtype=np.int64)) == golden["decoded_jpeg"]["sum"]
    framed, placement = Letterbox()(image, tuple(golden["input_size"]))
    tensor = framed[..., ::-1].transpose(2, 0, 1).astype(np.float64)
    assert tensor.sum() == golden["input_tensor"]["sum"]
    np.testing.assert_allclose(tensor.mean((1, 2)), golden["input_tensor"]["channel_means"], rtol=1e-6)
    samples = golden["input_tensor"]
    np.testing.assert_array_equal(tensor.ravel()[samples["sample_index"]], samples["sample"])
    assert placement.scale_x == golden["ratio"]


# --- without torch ---------------------------------------------------------------------------------------------------

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Block())
"""


def without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = BLOCK.format(blocked=blocked) + code
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_python_needs_numpy_opencv_and_onnxruntime_only(small: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), white())
    code = f"""
import onelook
found = onelook.load({str(small)!r}).detect({str(tmp_path / "a.png")!r})
found.save({str(tmp_path / "b.jpg")!r})
print(found.names, found.to_dict()["width"])
assert "torch" not in sys.modules
"""
    done = without({"torch", "safetensors", "hotcoco", "rich", "cyclopts", "yaml", "onnx", "PIL"}, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['cat', 'dog'] 96" and (tmp_path / "b.jpg").is_file()


def test_the_command_needs_no_torch(small: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), white())
    arguments = ["detect", str(tmp_path / "a.png"), "--model", str(small), "--out", str(tmp_path / "out")]
    done = without({"torch", "safetensors", "hotcoco"}, f"from onelook.cli.app import main; main({arguments!r})")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())[0]["detections"]) == 2


@needs_shared
def test_validating_and_scoring_an_exported_file_needs_no_torch(tmp_path: Path) -> None:
    model, folder = write_model(tmp_path / "small.onnx", metadata=describe(names=["person", "dog"])), data("coco_mini")
    code = f"""
import onelook
found = onelook.validate({str(model)!r}, {str(folder)!r}, detections={str(tmp_path / "found.json")!r})
again = onelook.score({str(folder / "annotations" / "instances_val.json")!r}, {str(tmp_path / "found.json")!r})
assert again.stats == found.stats and len(found.results) > 0
assert "torch" not in sys.modules
"""
    done = without({"torch", "safetensors", "onnx", "onnxscript"}, code)
    assert done.returncode == 0, done.stderr


def test_public_names_that_need_torch_name_the_extra_without_it() -> None:
    for name in ("train", "Recipe", "build", "export", "models"):
        done = without({"torch"}, f"import onelook; onelook.{name}")
        assert f"onelook.{name} needs the package 'torch'" in done.stderr, done.stderr
        extra = "onnx" if name == "export" else "train"
        assert install_command(extra) in done.stderr


def test_without_torch_weights_of_other_origin_say_what_is_missing(tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.onnx", metadata="")
    for arguments in [f"'yolox-nano', weights={str(other)!r}", repr(str(other)), "'yolox-nano'"]:
        done = without({"torch"}, f"import onelook; onelook.load({arguments})")
        assert "MissingDependencyError" in done.stderr and "torch" in done.stderr, done.stderr


def test_commands_that_need_torch_say_so_without_it() -> None:
    done = without({"torch"}, "import onelook; onelook.load('runs/none')")
    assert "needs the package 'torch'" in done.stderr and "there is no file or folder of that name." in done.stderr
    done = without({"torch"}, "from onelook.cli.app import main; main(['models'])")
    assert done.returncode == 1
    assert "needs the package 'torch', which is not installed" in " ".join(done.stderr.split())


def test_the_help_of_every_command_needs_no_torch() -> None:
    code = """
from onelook.cli.app import VERBS, run
for verb in VERBS:
    assert run([verb, "--help"]) == 0, verb
assert run(["bench", "model", "--help"]) == 0
assert "torch" not in sys.modules
"""
    done = without({"torch", "safetensors", "onnx", "onnxscript"}, code)
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout and "--least-runtime" in done.stdout


def test_detections_introduce_themselves_in_one_line(detector: Predictor) -> None:
    found = detector.detect(np.full((60, 80, 3), 200, np.uint8), confidence=0.0)
    assert repr(found).startswith(f"Detections({len(found)}")
    assert len(repr(found)) < 400
    assert repr(found[:0]) == "Detections(0)"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"\x08\x07\xff" * 50, "damaged, cut off, or no ONNX file")]
)
def test_an_onnx_file_that_is_none_is_named_without_the_runtimes_words(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=words) as caught:
        onelook.load(tmp_path / "a.onnx")
    assert "ONNXRuntimeError" not in str(caught.value)
    with pytest.raises(ConfigError, match="No model was named"):
        onelook.load("")
