"""Videos, cameras and streams: how long they are, how they end, and how long what is written lasts."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from onelook.cli.app import run
from onelook.errors import UsageError
from onelook.predict import capture, video
from onelook.predict.sources import Excerpt, PreparedImage, Source, Video
from onelook.predict.writers.files import Output
from onelook.predict.writers.videos import Videos
from onelook.types import Detections
from onnx_models import write_model

CASE = Path(__file__).parent / "cases" / "vfr_video_called_damaged" / "vfr.webm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


def detect(model: Path, source: object, out: Path, formats: str = "json,video") -> tuple[int, dict]:
    code = run(["detect", str(source), "--model", str(model), "--out", str(out), "--format", formats,
                "--json", str(out.with_suffix(".result"))])  # fmt: skip
    result = out.with_suffix(".result")
    return code, json.loads(result.read_text()) if result.is_file() else {}


def length_of(path: Path) -> tuple[float, int]:
    """(seconds, frames) of a video with an even rate, by its frames."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count / capture.get(cv2.CAP_PROP_FPS), count


def clip(path: Path, count: int = 30, codec: str = "mp4v") -> Path:
    """A video of 10 frames a second, whose top left corner is red."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(count):
        image = rng.integers(200, 256, (48, 64, 3), dtype=np.uint8)
        image[:24, :24] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


def test_frames_at_uneven_times_are_no_damage(model: Path, tmp_path: Path) -> None:
    code, result = detect(model, CASE, tmp_path / "out")
    assert (code, result["frames"], result["failures"], result["notes"]) == (0, 52, [], [])
    seconds, _ = length_of(tmp_path / "out" / "videos" / "vfr.mp4")
    assert seconds == pytest.approx(7.87, abs=0.04)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.ts", "a.mov", "a.webm"])
def test_an_even_video_is_written_frame_by_frame(name: str, model: Path, tmp_path: Path) -> None:
    source = clip(tmp_path / name, codec={".webm": "VP80", ".avi": "MJPG"}.get(Path(name).suffix, "mp4v"))
    code, result = detect(model, source, tmp_path / "out")
    assert (code, result["frames"], result["failures"]) == (0, 30, [])
    assert length_of(tmp_path / "out" / "videos" / "a.mp4") == (pytest.approx(3, abs=0.11), pytest.approx(30, abs=1))


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_file_that_ends_before_its_container_is_truncated(
    name: str, part: float, model: Path, tmp_path: Path
) -> None:
    source = clip(tmp_path / name, codec={".webm": "VP80", ".avi": "MJPG"}.get(Path(name).suffix, "mp4v"))
    content = source.read_bytes()
    source.write_bytes(content[: int(part * len(content))])
    code, result = detect(model, source, tmp_path / "out", "json")
    assert code == 1 and "truncated" in result["failures"][0]["message"]
    assert 5 < result["frames"] < 31


def test_a_number_of_frames_that_is_only_estimated_is_a_note(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capture, "_describe", lambda _: Video(10.0, 300, 48, 64))
    code, result = detect(model, clip(tmp_path / "a.mp4"), tmp_path / "out", "json")
    assert (code, result["frames"], result["failures"]) == (0, 30, [])
    assert "30 frames; its container made one expect about 300" in result["notes"][0]
    assert "note: " in capsys.readouterr().out


def test_batches_keep_the_order_and_the_times_of_frames(model: Path, tmp_path: Path) -> None:
    """Of a video of uneven times, of which every second frame is used."""
    found, lengths = [], []
    for batch in (1, 5):
        out = tmp_path / str(batch)
        arguments = ["--model", model, "--out", out, "--format", "json,video", "--every", 2, "--start", "0:00:00.5"]
        assert run(["detect", *map(str, [CASE, *arguments, "--batch", batch])]) == 0
        entries = json.loads((out / "detections.json").read_text())
        assert [entry["frame"] for entry in entries] == list(range(entries[0]["frame"], 52, 2))
        found.append([(entry["frame"], [one["label"] for one in entry["detections"]]) for entry in entries])
        lengths.append(length_of(out / "videos" / "vfr.mp4"))
    assert found[0] == found[1] and lengths[0] == lengths[1]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("1:30", 90.0), ("0:01:30.5", 90.5), ("100:00:00", 360_000.0), ("2.", 2.0)]
)
def test_times_are_seconds_or_hours_minutes_seconds(text: str, seconds: float) -> None:
    assert Excerpt.of(1, text, None).start == seconds == Excerpt.of(1, 0.0, text).end


@pytest.mark.parametrize("text", ["", "1:60", "1:2:3:4", "-1", "1e3", "nan", "٣", "1:2.5:3", "inf"])
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="'start' is"):
        Excerpt.of(1, text, None)


MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("degrees", MATRICES)
def test_a_rotated_video_is_upright_and_as_long(degrees: int, model: Path, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4")
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 44  # of the matrix, in version 0
    a, b, c, d = MATRICES[degrees]
    for step, value in ((0, a), (4, b), (12, c), (16, d)):
        content[place + step : place + step + 4] = (value << 16 & 0xFFFFFFFF).to_bytes(4, "big")
    source.write_bytes(content)
    assert detect(model, source, tmp_path / "out")[0] == 0
    written = tmp_path / "out" / "videos" / "a.mp4"
    assert length_of(written)[1] == 30
    image = cv2.VideoCapture(str(written)).read()[1]
    small = cv2.resize(image, (64, 48) if degrees == 180 else (48, 64))
    corner = np.rot90(small, degrees // 90)[10, 10]  # turned back
    assert image.shape[0] > image.shape[1] or degrees == 180
    assert corner[2] > 180 and corner[0] < 80


@pytest.mark.parametrize(
    ("times", "count"),
    [
        ([0, 0.1, 0.2, 0.3], 4),
        ([0, 0.1, 1.0, 1.1], 12),  # a pause
        ([0, 0.01, 0.02, 1.0], 11),  # three frames in one place
        ([5.0, 5.1, 5.2], 3),  # times that begin late
        ([0, 0.1, 9000.0, 9000.1], 4),  # an error in the times
        ([0, 0.149, 0.251, 0.349, 0.451, 0.549], 6),
    ],
)
def test_a_written_video_lasts_as_long_as_its_times(times: list[float], count: int, tmp_path: Path) -> None:
    writer = Videos(Output(tmp_path))
    source, image = Source("video", "a.mkv", "a"), np.full((48, 64, 3), 90, np.uint8)
    for number, seconds in enumerate(times):
        item = PreparedImage(image, None, source, number, Video(10, 0, 48, 64), image, seconds)  # type: ignore[arg-type]
        writer.add(item, Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)))
    writer.close()
    assert length_of(tmp_path / "videos" / "a.mp4")[1] == count


def test_times_that_do_not_rise_are_replaced_by_the_rate() -> None:
    class Times:
        def __init__(self) -> None:
            self.times = iter([0.0, 0.0, 0.0, 0.7, 0.6])

        def seconds(self) -> float:
            return next(self.times)

    times, source = capture.FrameTimes(10.0), Times()
    found = [times.of(source) for _ in range(5)]  # type: ignore[arg-type]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.7, 0.8])


# --- cameras and streams ---------------------------------------------------------------------------------------------


@contextmanager
def served(content: bytes, *, stalls: threading.Event | None = None, length: bool = False) -> Iterator[str]:
    """The address of an HTTP server that sends these bytes and then closes the connection.

    stalls: it sends nothing more instead; the event is set where the reader has waited until the server gave up.
    """
    server = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            size = f"Content-Length: {len(content)}\r\n" if length else ""
            connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n{size}\r\n".encode() + content)
            if stalls is not None and not done.wait(120):
                stalls.set()

    def accept() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/live.ts"
    finally:
        done.set()
        server.close()


def test_a_stream_that_ends_says_so(model: Path, tmp_path: Path) -> None:
    with served(clip(tmp_path / "a.ts").read_bytes()) as address:
        code, result = detect(model, address, tmp_path / "out", "json")
    assert code == 1 and "ended after 30 frames" in result["failures"][0]["message"]
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 30


def test_a_stream_that_stalls_says_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader ends by itself, before the server does, and keeps the frames that it was sent."""
    for module in (capture, video):
        monkeypatch.setattr(module, "STALL_SECONDS", 2.0)
    gave_up = threading.Event()
    with served(clip(tmp_path / "a.ts", 300).read_bytes(), stalls=gave_up) as address:
        code, result = detect(model, address, tmp_path / "out", "json")
        assert not gave_up.is_set()
    assert code == 1 and "has given no frame for" in result["failures"][0]["message"]
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == result["frames"] > 0


def test_a_camera_whose_driver_never_answers_has_stalled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Camera:
        count = 0

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, _: int) -> float:
            return 0.0

        def release(self) -> None: ...

        def read(self) -> tuple[bool, np.ndarray]:
            self.count += 1
            if self.count > 3:
                released.wait(30)
                return False, np.zeros((1, 1, 3), np.uint8)
            return True, np.full((48, 64, 3), 200, np.uint8)

    monkeypatch.setattr(video.cv2, "VideoCapture", lambda *_: Camera())
    monkeypatch.setattr(capture, "STALL_SECONDS", 0.3)
    code, result = detect(model, "0", tmp_path / "out", "json")
    released.set()
    assert code == 1 and result["frames"] == 3
    assert "Camera 0 has given no frame" in result["failures"][0]["message"]


def test_a_file_at_an_address_ends_without_an_error(model: Path, tmp_path: Path) -> None:
    shutil.copy(clip(tmp_path / "b.avi", codec="MJPG"), tmp_path / "c.avi")
    with served((tmp_path / "c.avi").read_bytes(), length=True) as address:
        code, result = detect(model, address, tmp_path / "out", "json")
    assert (code, result["frames"], result["failures"]) == (0, 30, [])
