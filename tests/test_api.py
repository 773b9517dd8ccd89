"""What programs use: the public names, their types for mypy and editors, detectors in memory, results as values."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import onelook
from api_page import make_api
from data_sets import coco
from onelook.errors import ConfigError, UsageError, UserError, install_command
from onelook.reporter import SilentReporter
from onnx_models import write_model

PACKAGE = Path(onelook.__file__).parent

USER_CODE = """
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray
import onelook
from onelook import Detections, Detector, Evaluation, LoadedDetector, Recipe, TrainResult
from onelook import ExportResult, WrittenWeights

detector = onelook.load("yolox-nano", weights="yolox_nano.onnx", device="cpu")
assert_type(detector, LoadedDetector)
assert_type(detector.detect("dog.jpg", confidence=0.25, iou=0.45), Detections)
assert_type(detector.detect(Path("dog.jpg").read_bytes()), Detections)
assert_type(detector.detect(np.zeros((4, 4, 3), np.uint8)), Detections)
assert_type(detector.detect(["a.jpg", "b.jpg"]), list[Detections])
assert_type(detector.detect((Path("a.jpg"), np.zeros((4, 4, 3), np.uint8))), list[Detections])
for found in detector.stream("clip.mp4"):
    assert_type(found, Detections)
    assert_type(found.names, list[str])
    assert_type(found.save("out.jpg"), Path)
    found.to_pandas()
    drawn: NDArray[np.uint8] = found.plot()
    assert_type(found[found.scores > 0.5], Detections)
    assert_type(found[0][:1][[0]], Detections)
for found in detector.track("clip.mp4", tracker="ocsort"):
    tracks: NDArray[np.int64] | None = found.tracks
assert_type(onelook.score_tracks("annotated/", "tracks/").metrics, dict[str, float])
assert_type(onelook.stream(["a.onnx", detector], "data/").best.age, float | None)
assert_type(detector.validate("data/"), Evaluation)
assert_type(detector.validate("data/").stats["AP"], float)
assert_type(detector.export("onnx", nms=True), ExportResult)
assert_type(detector.export("darknet"), WrittenWeights)
assert_type(detector.export("onnx").path, Path)

recipe = onelook.change(onelook.recipe("yolox-s"), {"epochs": 50, "loss.assigner.radius": 2.0})
assert_type(recipe, Recipe)
assert_type(onelook.override(recipe, "epochs=3"), Recipe)
assert_type(onelook.diff(recipe, "yolox-s")[0].path, str)
dataset = onelook.open_dataset("data/", split="train")
assert_type(dataset, onelook.Dataset)
assert_type(len(dataset), int)

result = onelook.train(recipe, dataset, weights="yolox_s.pth", out="runs/a", reporter=onelook.SilentReporter())
assert_type(result, TrainResult)
assert_type(result.detector, LoadedDetector)
assert_type(result.folder, Path)
assert_type(detector.train("data/", epochs=5), TrainResult)
assert_type(onelook.train("yolox-nano", "data/", epochs=5, size=320, batch=8), TrainResult)

model = onelook.build("yolox-s", classes=80)
assert_type(model, Detector)
onelook.load_weights(model, "yolox_s.pth")
assert_type(onelook.deploy(model), Detector)
assert_type(onelook.save_weights(model, "a.safetensors"), Path)
assert_type(onelook.validate(model, dataset, reporter=onelook.SilentReporter()), Evaluation)
assert_type(onelook.validate(onelook.load(model), "data/"), Evaluation)
assert_type(onelook.export(model, out="a.onnx"), ExportResult)
assert_type(onelook.detect(model, "photos/", formats=("json",)).detections, int)
assert_type(onelook.score("annotations.json", "detections.json"), Evaluation)
assert_type(onelook.models()[0].gflops, float)
assert_type(onelook.benchmark(model).images_per_second, float)
try:
    onelook.check("data/")
except onelook.UserError as error:
    assert_type(error.remedy, str)
onelook.convert("data/", "yolo", "out/")
"""

WRONG_CODE = {  # lines that a type checker must refuse, and what it says of them
    "onelook.trian(None, 'data/')": "Module has no attribute",
    "x: int = onelook.Rezept": "Module has no attribute",
    "onelook.convert('a', 'cocoo', 'b')": 'Argument 2 to "convert" has incompatible type',
    "detector.detect([3, 4])": 'List item 0 has incompatible type "int"',
    "found['dog']": "Invalid index type",
}


def typed_names() -> dict[str, str]:
    """What type checkers see in `onelook/__init__.py`: name -> module."""
    nodes = ast.parse((PACKAGE / "__init__.py").read_text()).body
    (block,) = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, "only `X as X` is exported under mypy --strict"
            found[alias.name] = str(line.module)
    return found


def test_type_checkers_see_the_names_that_there_are() -> None:
    assert typed_names() == onelook._PUBLIC
    assert dir(onelook) == sorted(["__version__", *onelook._PUBLIC])
    for name in onelook._PUBLIC:
        found = getattr(onelook, name)
        if inspect.isclass(found) or inspect.isfunction(found):  # others are names for several types
            assert found.__name__ == name


BEHIND = {  # what members of the public classes return or take for those who build on the parts: named by its module
    *(
        "AnyLoss",
        "Architecture",
        "Augment",
        "Confusion",
        "ImageFile",
        "UnreadableSource",
        "PreparedImage",
        "ImageScore",
        "LabelSuspect",
        "Network",
    ),
    *("Point", "Postprocess", "Predictions", "Progress", "Pyramid", "Resize", "ResizeTransform", "Runtime", "Source"),
    *("Tensor", "Url"),
    *("ByteTrackState", "Excerpt", "OcSortState", "StreamedModel", "TrackCounts", "Tracker"),
}
FOREIGN = {
    "AbstractContextManager",
    "Any",
    "Callable",
    "Generator",
    "Iterator",
    "Literal",
    "Mapping",
    "Path",
    "Sequence",
}
FOREIGN |= {"SupportsIndex", "T"}


def test_every_type_of_a_public_signature_is_public() -> None:
    made = make_api()
    missing = set()
    for name in onelook._PUBLIC:
        value = getattr(onelook, name)
        members = made.methods(value) if inspect.isclass(value) else [(name, value)]
        for member, found in members:
            function = found.fget if isinstance(found, property) else found
            if not inspect.isfunction(function):
                continue
            for one in made.overloads(function) or [inspect.signature(function)]:
                text = " ".join(str(part) for part in (*one.parameters.values(), one.return_annotation))
                named = re.findall(r"(?<![\w.'\"])[A-Z]\w+", re.sub(r"Literal\[[^]]*\]", "", text))
                missing |= {(word, f"{name}.{member}") for word in named if not hasattr(builtins, word)}
    missing = {(word, place) for word, place in missing if word not in {*onelook._PUBLIC, *FOREIGN, *BEHIND}}
    assert missing == set()


def test_no_module_hides_a_public_name() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(onelook._PUBLIC)


def test_functions_stay_functions_whatever_is_imported_first() -> None:
    code = "import onelook.training.loop, onelook.exporting.onnx, onelook.api.validate, onelook.api.detect\n"
    code += "import onelook; print(onelook.train.__name__, onelook.validate.__name__, onelook.detect.__name__)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["train", "validate", "detect"]


TORCH_INSIDE = (
    *("_dynamo", "_inductor", "_export", "_higher_order_ops", "_functorch", "_subclasses", "_refs", "_decomp"),
    *("_prims", "_prims_common", "_library", "_ops", "_logging", "fx", "distributed", "onnx", "export", "ao", "jit"),
    *("cuda", "backends", "masked", "nested", "sparse", "autograd", "func", "optim", "quantization", "package"),
    *("profiler", "special", "compiler", "accelerator", "xpu", "mps", "mtia", "testing", "utils"),
)


def mypy_strict(code: str, folder: Path) -> tuple[int, str]:
    """The exit code and the messages of mypy for a user's page."""
    (folder / "page.py").write_text(code)
    # torch's own files take minutes to check, and say nothing about ours: tensors, modules and the data loader are
    # followed, but not what they are made with.
    inside = ",".join(["sympy.*", *(f"torch.{part}.*" for part in TORCH_INSIDE)])
    (folder / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n[mypy-{inside}]\nfollow_imports = skip\n")
    options = ["--strict", "--python-version", "3.11", "--cache-dir", str(folder), "--no-error-summary"]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "mypy", *options, "--config-file", "mypy.ini", str(folder / "page.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    return done.returncode, done.stdout


def test_mypy_strict_sees_every_type_of_a_users_page(tmp_path: Path) -> None:
    code, messages = mypy_strict(USER_CODE, tmp_path)
    assert (code, messages) == (0, ""), messages
    first = USER_CODE.count("\n") + 1
    _, messages = mypy_strict(USER_CODE + "\n".join(WRONG_CODE) + "\n", tmp_path)
    for number, (line, expected) in enumerate(WRONG_CODE.items(), first):
        said = re.findall(rf"^page\.py:{number}: error: (.*)$", messages, re.MULTILINE)
        assert any(re.match(expected, message) for message in said), f"{line}: {messages}"
    assert {int(number) for number in re.findall(r"^page\.py:(\d+): error", messages, re.MULTILINE)} == set(
        range(first, first + len(WRONG_CODE))
    )


@pytest.fixture
def nano() -> onelook.Detector:
    torch.manual_seed(0)
    return onelook.build("yolox-nano", ["cat", "dog"])


def test_a_detector_in_memory_is_loaded_and_left_as_it_is(nano: onelook.Detector, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in nano.state_dict().items()}
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    loaded = onelook.load(nano, device="cpu", size=64)
    assert isinstance(loaded, onelook.LoadedDetector) and loaded.class_names == ("cat", "dog")
    path = onelook.save_weights(nano, tmp_path / "a.safetensors")
    from_file = onelook.load(path, device="cpu", size=64)
    np.testing.assert_array_equal(loaded.detect(image, 0.0).boxes, from_file.detect(image, 0.0).boxes)
    assert nano.training and not nano.deployed
    assert all(torch.equal(tensor, before[name]) for name, tensor in nano.state_dict().items())
    assert onelook.load(loaded) is loaded


def test_the_bytes_of_a_file_are_an_image(tmp_path: Path) -> None:
    detector = onelook.load(write_model(tmp_path / "small.onnx"))
    content = cv2.imencode(".png", np.full((64, 64, 3), 255, np.uint8))[1].tobytes()
    for given in (content, bytearray(content), memoryview(content)):
        assert detector.detect(given).names == ["cat", "dog"]
    with pytest.raises(UserError, match="image data"):
        detector.detect(content[:40])


def test_a_loaded_detector_takes_no_second_settings(tmp_path: Path, nano: onelook.Detector) -> None:
    detector = onelook.load(write_model(tmp_path / "small.onnx"))
    with pytest.raises(UsageError, match="'device' cannot be chosen"):
        onelook.validate(detector, tmp_path, device="cpu")
    with pytest.raises(UsageError, match="'weights' cannot be chosen"):
        onelook.export(nano, weights="a.pth")
    with pytest.raises(UsageError, match="'model' must be"):
        onelook.export(3)  # type: ignore[call-overload]


def test_a_file_that_changed_is_not_exported_for_the_one_that_was_loaded(
    nano: onelook.Detector, tmp_path: Path
) -> None:
    path = onelook.save_weights(nano, tmp_path / "best.safetensors", size=(64, 64))
    detector = onelook.load(tmp_path, device="cpu")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"best\.safetensors' has changed since the detector was loaded"):
        detector.export("onnx", out=tmp_path / "a.onnx")


def test_nothing_is_printed_but_through_the_reporter(
    nano: onelook.Detector, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = coco(tmp_path / "data")
    found = onelook.validate(onelook.load(nano, device="cpu", size=64), folder, reporter=SilentReporter())
    assert set(found.per_class) and "AP" in str(found)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 255, np.uint8))
    result = onelook.detect(
        write_model(tmp_path / "m.onnx"), tmp_path / "a.png", out=tmp_path / "out", reporter=SilentReporter()
    )
    assert (result.images, result.per_class) == (1, {"cat": 1, "dog": 1})
    assert capfd.readouterr() == ("", "")


def test_recipes_differ_by_value_and_by_name() -> None:
    base = onelook.recipe("yolox-s")
    changed = onelook.change(base, {"loss.assigner.radius": 2.0})
    (one,) = onelook.diff("yolox-s", changed)
    assert (one.path, one.before, one.after) == ("loss.assigner.radius", 2.5, 2.0)
    assert str(onelook.diff(base, changed)) == "loss.assigner.radius: 2.5 -> 2.0"
    with pytest.raises(ConfigError, match="no recipe"):
        onelook.recipe("yolox-z")


def test_the_environment_is_compared_with_what_the_installation_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=1.26", "no-such-package<2,>=1", 'torch<3,>=2.6; extra == "train"', "other; extra == 'more-of-it'"]
    asked += ['onelook[train]; extra == "more-of-it"', 'pytest>=8; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    found = onelook.environment()
    assert found.packages == {"numpy": metadata.version("numpy"), "no-such-package": None}
    assert found.extras == {"train": {"torch": metadata.version("torch")}, "more-of-it": {"other": None}}
    assert found.problems == ["the package 'no-such-package' is not installed"] and found.exit_code == 1
    assert found.to_dict()["problems"][0]["remedy"].endswith(install_command())


def test_an_environment_without_an_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    found = onelook.environment()
    assert "runs from its source" in found.system["requirements"] and found.exit_code == 0


def test_results_introduce_themselves_in_a_few_lines(nano: onelook.Detector, tmp_path: Path) -> None:
    """What a notebook shows of a value: its type and what matters of it, never arrays and nested settings."""
    folder = coco(tmp_path / "data")
    detector = onelook.load(nano, device="cpu", size=64)
    dataset = onelook.open_dataset(folder)
    quiet = SilentReporter()
    values = [
        *(detector, dataset, dataset.sample(0), onelook.recipe("yolox-nano"), onelook.environment()),
        *(onelook.models("yolox-s"), onelook.models("yolox-s")[0], onelook.roadmaps()),
        *(onelook.diff("yolox-nano", "yolox-s"), onelook.diff("yolox-nano", "yolov7-tiny")[0]),
        *(onelook.validate(detector, folder, reporter=quiet), onelook.check(folder, reporter=quiet)),
        onelook.detect(detector, dataset.path(0), out=tmp_path / "found", reporter=quiet),
        onelook.convert(folder, "yolo", tmp_path / "yolo", reporter=quiet),
        onelook.benchmark(nano, size=64, runs=2, warm_up=1),
    ]
    for value in values:
        text = repr(value)
        assert type(value).__name__ in text.splitlines()[0]
        assert len(text.splitlines()) <= 25 and max(map(len, text.splitlines())) <= 240, text


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'onelook[train]'"),
        ('{"url": "file:///a%20b", "dir_info": {"editable": true}}', "pip install -e '/a b[train]'"),
        ('{"url": "file:///src", "dir_info": {}}', "pip install '/src[train]'"),
        (
            '{"url": "https://a.b/c.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}',
            "pip install 'onelook[train] @ git+https://a.b/c.git'",
        ),
        ('{"url": "file:///c.whl", "archive_info": {}}', "pip install 'onelook[train] @ file:///c.whl'"),
    ],
)
def test_the_command_for_a_missing_part_installs_from_the_same_place(
    record: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return record

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert install_command("train") == command


def test_tuning_without_torch_names_the_extra_that_it_needs() -> None:
    from onelook.errors import missing_package

    assert "[tune]" in missing_package("torch", "onelook.tune", work="tune").remedy
    assert "[train]" in missing_package("torch", "onelook.train", work="train").remedy
