"""`onelook detect --live` and `Predictor.live`: the whole command, on files and cameras.

How many frames are dropped depends on the machine, and is not compared.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

import onelook
from onelook.cli.app import run
from onelook.errors import UsageError, UserError
from onelook.predict import live, live_capture
from onelook.predict.predictor import Predictor
from onelook.reporter import Progress
from onnx_models import write_model
from simulated_cameras import Clock
from test_video import served


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


def clip(path: Path, count: int = 12) -> Path:
    """A bright video of 30 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for _ in range(count):
        writer.write(np.full((48, 64, 3), 230, np.uint8))
    writer.release()
    return path


def detect(*arguments: object) -> int:
    return run(["detect", *map(str, arguments)])


def test_a_file_is_detected_live_with_a_log(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, result = tmp_path / "out", tmp_path / "result.json"
    source = clip(tmp_path / "a.mp4")
    arguments = ("--model", model, "--live", "--track", "bytetrack", "--out", out, "--json", result, "--threads", 1)
    assert detect(source, *arguments) == 0
    summary = json.loads(result.read_text())
    live_part = summary["live"]
    assert live_part["captured"] == live_part["processed"] + live_part["dropped"] == 12
    assert summary["frames"] == live_part["processed"] > 0
    assert list(live_part["latency_ms"]) == ["p50", "p90", "p99", "p100"]
    names = ["detections.jsonl", "detections.json", "videos/a.mp4", "live.jsonl"]
    assert summary["written"] == [str(out / name) for name in names]
    lines = [json.loads(line) for line in (out / "live.jsonl").read_text().splitlines()]
    entries = json.loads((out / "detections.json").read_text())
    assert [line["frame"] for line in lines[:-1]] == [entry["frame"] for entry in entries]
    assert lines[-1]["event"] == "summary" and lines[-1]["dropped"] == sum(line["dropped"] for line in lines[:-1])
    assert all(0 < line["latency_ms"] <= live_part["latency_ms"]["p100"] + 0.1 for line in lines[:-1])
    assert len(entries[-1]["detections"]) == 2 and "track" in entries[-1]["detections"][0]
    assert "Frames: 12 captured" in capsys.readouterr().out


def test_a_detector_of_python_yields_live_results(model: Path, tmp_path: Path) -> None:
    detector = onelook.load(model, threads=1)
    found = list(detector.live(clip(tmp_path / "a.mp4"), tracker="bytetrack", keep_images=True))
    assert found[-1].processed == 11 and all(one.latency > 0 for one in found)
    last = found[-1].detections
    assert last.tracks is not None and sorted(last.tracks.tolist()) == [1, 2]
    assert last.image is not None and last.image.shape == (48, 64, 3) and last.frame == 11


def test_settings_that_would_change_nothing_are_wrong_use_in_python_too(model: Path, tmp_path: Path) -> None:
    detector = onelook.load(model, threads=1)
    for wrong, word in (({"forecast": "linear"}, "'forecast'"), ({"overlap": 0.5}, "'overlap'")):
        with pytest.raises(UsageError, match=word):
            next(detector.live(clip(tmp_path / "a.mp4"), **wrong))


def test_large_frames_are_cut_in_real_time_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = Predictor.detect_tiles
    monkeypatch.setattr(Predictor, "detect_tiles", lambda *given: sizes.append(given[1].shape) or whole(*given))
    source = clip(tmp_path / "a.mp4")
    assert detect(source, "--model", model, "--live", "--tile", 32, "--format", "json", "--out", tmp_path / "out") == 0
    assert sizes and set(sizes) == {(48, 64, 3)}
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(entries) == len(sizes) and all(entry["detections"] for entry in entries)
    seen = len(sizes)
    assert [*onelook.load(model, threads=1).live(source, tile=32)] and len(sizes) > seen


class DeadCamera:
    """Three frames, and then an end; opened again, no more."""

    opened = 0

    def __init__(self) -> None:
        DeadCamera.opened += 1
        self.left = 3 if DeadCamera.opened == 1 else 0

    def isOpened(self) -> bool:  # noqa: N802
        return self.left > 0

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None: ...

    def read(self) -> tuple[bool, np.ndarray]:
        return self.grab(), self.retrieve()[1]

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((48, 64, 3), 230, np.uint8)


def test_a_camera_that_does_not_come_back_ends_with_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    DeadCamera.opened = 0
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: DeadCamera())
    monkeypatch.setattr(live, "SystemClock", Clock)  # of the waits; the camera has that of this machine
    out, result = tmp_path / "out", tmp_path / "result.json"
    arguments = ("--model", model, "--live", "--reconnect", 5, "--format", "json", "--out", out, "--json", result)
    assert detect("0", *arguments) == 1
    summary = json.loads(result.read_text())
    assert "Camera 0 did not come back in 5 s" in summary["failures"][0]["message"] and DeadCamera.opened == 3
    assert 1 <= len(json.loads((out / "detections.json").read_text())) <= 3
    events = [json.loads(line)["event"] for line in (out / "live.jsonl").read_text().splitlines()]
    assert events[-5:] == ["lost", "waiting", "waiting", "ended", "summary"]
    assert "warning: Camera 0 ended after 3 frames" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be opened"):  # it was never there
        next(onelook.load(model, threads=1).live(0))


def test_a_camera_that_is_not_there_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    DeadCamera.opened = 1
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: DeadCamera())
    assert detect("0", "--model", model, "--live", "--out", tmp_path / "out") == 1
    assert "Camera 0 cannot be opened" in capsys.readouterr().err and not (tmp_path / "out").exists()


class InterruptAfter(onelook.SilentReporter):
    """Presses Ctrl-C at the second result."""

    @contextmanager
    def progress(self, title: str, *, every: float | None = None) -> Iterator[Progress]:
        def show(done: float, total: float, detail: str = "") -> None:
            assert "latency" in detail and "frames dropped" in detail and total == 0
            if done == 2:
                raise KeyboardInterrupt

        yield show


def test_ctrl_c_ends_it_and_keeps_what_was_done(model: Path, tmp_path: Path) -> None:
    result = onelook.detect(model, clip(tmp_path / "a.mp4", 300), live=True, out=tmp_path / "out",
                            reporter=InterruptAfter(), threads=1)  # fmt: skip
    assert (result.exit_code, result.frames, result.interrupted) == (130, 2, True)
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 2
    assert (tmp_path / "out" / "videos" / "a.mp4").stat().st_size > 0
    lines = (tmp_path / "out" / "live.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["result", "result", "summary"]


@pytest.mark.slow
@pytest.mark.parametrize("stalls", [False, True])
def test_a_stream_over_the_network_is_opened_again(
    stalls: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An HTTP stream that ends, or stalls, after each 300 frames."""
    for module in (live, live_capture):
        monkeypatch.setattr(module, "LIVE_STALL_SECONDS", 1.5)
    content, out, result = clip(tmp_path / "a.ts", 300).read_bytes(), tmp_path / "out", tmp_path / "result.json"
    arguments = ("--model", model, "--live", "--end", 15, "--format", "json", "--out", out, "--json", result)
    with served(content, stalls=threading.Event() if stalls else None) as address:
        assert detect(address, *arguments) == 0
    summary = json.loads(result.read_text())
    assert summary["live"]["reconnects"] >= 1 and summary["failures"] == []
    frames = [entry["frame"] for entry in json.loads((out / "detections.json").read_text())]
    assert frames == sorted(set(frames)) and frames[-1] >= 300
    said = capsys.readouterr().err
    assert "is back after" in said and ("has given no frame" if stalls else "ended after") in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mp4", "--live", "--every", "2"], "'every' and 'live'"),
        (["a.mp4", "--live", "--batch", "4"], "'batch' is 4"),
        (["a.mp4", "--live", "--reconnect=-1"], "'reconnect' is -1"),
        (["a.mp4", "--live", "--reconnect", "nan"], "'reconnect' is nan"),
        (["a.mp4", "--live", "--forecast", "oracle"], "forecast"),
        (["a.mp4", "--live", "--forecast", "linear"], "'forecast' is for tracked objects"),
        (["a.mp4", "a.mp4", "--live"], "2 sources were given"),
        (["a.png", "--live"], "a.png' is an image"),
        (["a.mp4", "--show"], "'show' is for sources in real time"),
        (["a.mp4", "--forecast", "none"], "'forecast' is for sources in real time"),
        (["a.mp4", "--start", "1:70"], "'start' is '1:70'"),
        (["a.mp4", "--end", "soon"], "'end' is 'soon'"),
        (["a.mp4", "--end", "0"], "'end' is 0"),
        (["a.mp4", "--every", "0"], "'every' is 0"),
    ],
)
def test_wrong_use_names_the_option(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    clip(tmp_path / "a.mp4", 1)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    given = [tmp_path / text if text.startswith("a.") else text for text in arguments]
    assert detect(*given, "--model", model, "--out", tmp_path / "out") == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_a_display_the_window_is_a_warning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tkinter = pytest.importorskip("tkinter")

    def none(**_: object) -> None:
        raise tkinter.TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setattr(tkinter, "Tk", none)
    source = clip(tmp_path / "a.mp4", 3)
    assert detect(source, "--model", model, "--live", "--show", "--format", "json", "--out", tmp_path / "out") == 0
    assert "warning: No window is shown: no display name" in capsys.readouterr().err


def test_closing_the_window_ends_the_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tkinter = pytest.importorskip("tkinter")
    shown, handlers = list[bytes](), {}

    class Root:
        def __init__(self, **_: object) -> None: ...
        def title(self, _: str) -> None: ...
        def bind(self, key: str, handler: Callable[[object], None]) -> None:
            handlers[key] = handler

        def protocol(self, *_: object) -> None: ...
        def winfo_screenheight(self) -> int:
            return 100

        def winfo_screenwidth(self) -> int:
            return 1000

        def update(self) -> None:
            handlers["q"](None)

        def destroy(self) -> None:
            handlers.clear()

    class Label:
        def __init__(self, *_: object, **__: object) -> None: ...
        def pack(self) -> None: ...
        def configure(self, image: bytes) -> None:
            shown.append(image)

    monkeypatch.setattr(tkinter, "Tk", Root)
    monkeypatch.setattr(tkinter, "Label", Label)
    monkeypatch.setattr(tkinter, "PhotoImage", lambda data, format: data)
    result = onelook.detect(model, clip(tmp_path / "a.mp4", 300), live=True, show=True, formats="json",
                            out=tmp_path / "out", reporter=onelook.SilentReporter())  # fmt: skip
    assert result.frames == len(shown) == 1 and result.exit_code == 0 and handlers == {}
    width, height = map(int, shown[0].split(b" ", 3)[1:3])
    assert height == 90 and shown[0].startswith(b"P6 ") and len(shown[0]) > 3 * width * height
