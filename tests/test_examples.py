"""The programs in `examples/` find what Python finds: they read the same files and need no Python.

The C++ programs are built where CMake finds their libraries; `ONELOOK_EXAMPLES_CMAKE` holds further arguments of it,
such as "-DONNXRUNTIME=FOLDER". The page is opened in Chromium where `ONELOOK_ORT_WEB` names the folder `dist` of the
npm package onnxruntime-web.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

import onelook
from onelook.augment.letterbox import Letterbox, Stretch
from onelook.config import to_plain
from onelook.ops.nms import Nms
from shared import SHARED

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FRAMES: dict[str, Any] = {  # of the four families
    "yolox": Letterbox(),
    "yolov4": Stretch("linear_aligned"),
    "yolov4-csp": Letterbox(128, "centre", rounding="whole", interpolation="linear_aligned"),
    "yolov7": Letterbox(anchor="centre", rounding="round"),
    "damo-yolo": Stretch(),
}
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_shared = pytest.mark.skipif(SHARED is None, reason="the reference with trained weights is not there")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real image without loss: decoders of JPEG differ by a grey level."""
    assert SHARED is not None
    path = tmp_path_factory.mktemp("photo") / "dog.png"
    assert cv2.imwrite(str(path), cv2.imread(str(SHARED / "reference" / "yolox" / "dog.jpg")))
    return path


def exported(target: str, path: Path, **options: Any) -> Path:
    assert SHARED is not None
    weights = SHARED / "reference" / "yolox" / "yolox_nano.onnx"
    return onelook.export("yolox-nano", target, weights=weights, out=path, **options).path  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    return exported("onnx", tmp_path_factory.mktemp("onnx") / "nano.onnx")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("programs")
    given = shlex.split(os.environ.get("ONELOOK_EXAMPLES_CMAKE", ""))
    made = subprocess.run(["cmake", "-B", folder, EXAMPLES, *given], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"CMake finds no compiler or no OpenCV: {made.stderr[-300:]}")
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder


def lines_of(programs: Path, name: str, model: Path, *images: Path) -> list[dict[str, Any]]:
    program = programs / name
    if not program.is_file():
        pytest.skip(f"{name} was not built: CMake does not find its library (ONELOOK_EXAMPLES_CMAKE)")
    done = subprocess.run([program, model, *images], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def with_frame(file: Path, frame: Any, path: Path) -> Path:
    """The same network with another description: how images are resized, and a family's NMS."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(file))
    entry = next(one for one in model.metadata_props if one.key == "onelook")
    several = Nms(multi_label=True, limit=300, pool=30000, kind="diou", clip=True)
    changed = {"frame": to_plain(frame), "multi_label": True, "detecting": to_plain(several)}
    entry.value = json.dumps(json.loads(entry.value) | changed)
    onnx.save(model, str(path))
    return path


def expected_of(file: Path, photo: Path) -> dict[str, Any]:
    return onelook.load(file).detect(photo).to_dict()


def assert_same(found: dict[str, Any], expected: dict[str, Any], pixels: float = 0.5) -> None:
    """Every detection has its like in the other list; but those at the threshold itself may be in one only."""
    assert (found["width"], found["height"]) == (expected["width"], expected["height"])
    assert len(expected["detections"]) >= 3  # the image has a dog, a bicycle and a car
    for first, second in ((found, expected), (expected, found)):
        for one in first["detections"]:
            if one["score"] < 0.26:
                continue
            alike = [other for other in second["detections"] if other["label"] == one["label"]]
            near = [other for other in alike if np.abs(np.subtract(other["box"], one["box"])).max() <= pixels]
            assert any(abs(other["score"] - one["score"]) <= 0.005 for other in near), (one, alike)
            assert near[0]["name"] == one["name"]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("family", FRAMES)
@pytest.mark.parametrize("program", ["detect_onnxruntime", "detect_opencv"])
def test_programs_of_onnx_files(program: str, family: str, onnx_file: Path, photo: Path, programs: Path) -> None:
    file = onnx_file
    if family != "yolox":
        file = with_frame(onnx_file, FRAMES[family], onnx_file.with_name(f"{family}.onnx"))
    found = lines_of(programs, program, file, photo, photo)
    assert len(found) == 2
    assert_same(found[0], expected_of(file, photo))
    assert found[0] == found[1]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"nms": True}, {"dynamic": True}, {"batch": 2}, {"half": True}], ids=str)
def test_onnxruntime_program_runs_every_form(options: Any, photo: Path, programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    file = exported("onnx", tmp_path / "model.onnx", **options)
    assert_same(lines_of(programs, "detect_onnxruntime", file, photo)[0], expected_of(file, photo))


@needs_shared
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_program_of_ncnn_files(photo: Path, programs: Path, tmp_path: Path) -> None:
    for package in ("ncnn", "pnnx"):
        pytest.importorskip(package)
    file = exported("ncnn", tmp_path / "nano.param")
    assert_same(lines_of(programs, "detect_ncnn", file, photo)[0], expected_of(file, photo))


@needs_shared
@pytest.mark.slow
def test_programs_say_what_is_wrong(programs: Path, photo: Path, onnx_file: Path, tmp_path: Path) -> None:
    program = programs / "detect_onnxruntime"
    if not program.is_file():
        pytest.skip("detect_onnxruntime was not built")
    text = tmp_path / "text.png"
    text.write_text("no image")
    for arguments, word in (((onnx_file, text), "not an image"), ((tmp_path / "no.onnx", photo), "cannot be read")):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and word in done.stderr


class _Site(SimpleHTTPRequestHandler):
    """Serves a folder; the page that watches the example reports to /result."""

    def do_GET(self) -> None:
        if self.path.startswith("/result?"):
            self.server.results.append(unquote(self.path[8:]))  # type: ignore[attr-defined]
            self.server.reported.set()  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


WATCHER = """<!doctype html><iframe id="page" src="index.html?image=dog.png"></iframe><script>
const watch = setInterval(() => {
  const inside = document.getElementById("page").contentDocument;
  const state = inside?.body?.dataset.state;
  if (state !== "done" && state !== "error") return;
  clearInterval(watch);
  const said = inside.getElementById(state === "error" ? "status" : "json").textContent;
  fetch("result?" + encodeURIComponent(said));
}, 50);
</script>"""


@pytest.fixture
def site(tmp_path: Path, onnx_file: Path, photo: Path) -> Iterator[ThreadingHTTPServer]:
    library = os.environ.get("ONELOOK_ORT_WEB")
    if library is None or CHROMIUM is None:
        pytest.skip("ONELOOK_ORT_WEB does not name the folder of onnxruntime-web, or Chromium is missing")
    for file in (*(EXAMPLES / "web").iterdir(), photo):
        shutil.copy(file, tmp_path)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(Path(library) / name, tmp_path)
    shutil.copy(onnx_file, tmp_path / "model.onnx")
    (tmp_path / "watcher.html").write_text(WATCHER)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(tmp_path)))
    server.results, server.reported = [], threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@needs_shared
@pytest.mark.slow
def test_page_in_a_browser(site: Any, tmp_path: Path, onnx_file: Path, photo: Path) -> None:
    address = f"http://127.0.0.1:{site.server_address[1]}/watcher.html"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([*command, profile, address], **quiet)  # type: ignore[call-overload]
    try:
        assert site.reported.wait(120), "the page did not finish"
    finally:
        browser.terminate()
        browser.wait(30)
    assert_same(json.loads(site.results[0]), expected_of(onnx_file, photo))


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_page_prepares_images_as_python_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size, cases, inputs = (64, 96), [], []
    for number, (sides, frame) in enumerate((s, f) for s in ((97, 131), (50, 40), (64, 96)) for f in FRAMES.values()):
        image = rng.integers(0, 256, (*sides, 3), np.uint8)
        np.dstack([image, np.full(sides, 255, np.uint8)]).tofile(tmp_path / f"{number}.raw")
        cases.append({"width": sides[1], "height": sides[0], "frame": to_plain(frame)})
        inputs.append(frame(image, size))
    script = f"""
import {{place, toInput}} from {json.dumps(str(EXAMPLES / "web" / "onelook.js"))};
import fs from "fs";
const placed = {json.dumps(cases)}.map(({{width, height, frame}}, i) => {{
  const image = {{data: new Uint8ClampedArray(fs.readFileSync(`${{i}}.raw`)), width, height}};
  const description = {{size: {list(size)}, frame, batch: null}};
  const found = place(description, image);
  fs.writeFileSync(`${{i}}.out`, Buffer.from(toInput(description, image, found).buffer));
  return found;
}});
console.log(JSON.stringify(placed));
"""
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for number, (placed, (pixels, transform)) in enumerate(zip(json.loads(done.stdout), inputs)):
        sides = (placed["scaleX"], placed["scaleY"], placed["left"], placed["top"])
        assert sides == pytest.approx((transform.scale_x, transform.scale_y, transform.left, transform.top), rel=1e-12)
        found = np.fromfile(tmp_path / f"{number}.out", np.float32).reshape(3, *size).transpose(1, 2, 0)
        assert np.abs(found - pixels).max() <= 1  # OpenCV's own versions differ by one grey level
        assert (found != pixels).mean() < 0.02


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize(
    "nms", [Nms(), Nms(multi_label=True, kind="diou", limit=20), Nms(agnostic=True, pool=60)], ids=str
)
def test_page_suppresses_as_python_does(nms: Nms, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    corner, sides = rng.uniform(0, 60, (300, 2)), rng.uniform(5, 40, (300, 2))
    boxes = np.hstack([corner, corner + sides]).astype(np.float32)
    scores = rng.uniform(0, 1, (300, 3)).astype(np.float32)
    boxes[7] = np.inf
    script = f"""
import {{suppress, suppressionOf}} from {json.dumps(str(EXAMPLES / "web" / "onelook.js"))};
const chosen = suppressionOf({json.dumps({"detecting": to_plain(nms), "architecture": {}, "multi_label": False})});
const boxes = new Float32Array({re.sub("inf", "Infinity", str(boxes.ravel().tolist()), flags=re.I)});
const found = suppress(boxes, new Float32Array({scores.ravel().tolist()}), 300, chosen);
console.log(JSON.stringify(found.map(({{box, score, label}}) => [...box, score, label])));
"""
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept, best, labels = nms(boxes, scores)
    np.testing.assert_array_equal(np.array(json.loads(done.stdout)), np.column_stack([kept, best, labels]))


def test_examples_are_explained() -> None:
    for folder in ("onnxruntime", "ncnn", "opencv", "web"):
        text = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
        assert "onelook export" in text and len(text.splitlines()) < 40
