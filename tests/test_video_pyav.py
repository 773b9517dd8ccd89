"""The sound of videos, and videos that OpenCV does not read: with PyAV, and what is said without it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from onelook.cli.app import run
from onelook.predict import capture
from onelook.predict.container import has_sound
from onelook.predict.sources import Source
from onelook.predict.writers import sound
from onnx_models import write_model

RATE = 48_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


def clip(path: Path, codec: str = "aac", *, seconds: int = 3, video: str = "mpeg4") -> Path:
    """A video of 10 frames a second; its sound is silent but in the second second, where it is a tone of 440 Hz."""
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(path), "w") as output:
        frames = output.add_stream(video, rate=10)
        frames.width, frames.height, frames.pix_fmt = 64, 48, "yuv420p"
        audio = output.add_stream(codec, rate=RATE, layout="mono") if codec else None
        for number in range(10 * seconds):
            image = np.full((48, 64, 3), 150 + number, np.uint8)
            image[:24, :24] = (255, 0, 0)
            output.mux(frames.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(frames.encode(None))
        if audio is not None:
            time = np.arange(RATE * seconds) / RATE
            wave = np.where((time >= 1) & (time < 2), 20_000 * np.sin(2 * np.pi * 440 * time), 0).astype(np.int16)
            for start in range(0, len(wave), 960):
                block = av.AudioFrame.from_ndarray(wave[None, start : start + 960], format="s16", layout="mono")
                block.sample_rate, block.pts = RATE, start
                output.mux(audio.encode(block))
            output.mux(audio.encode(None))
    return path


def loudness(path: Path) -> tuple[np.ndarray, float]:
    """(mean absolute value of each tenth of a second, seconds of video) of a file."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        (video,), (audio,) = file.streams.video, file.streams.audio
        tenths = np.zeros(100)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in file.decode(audio):
            for block in resampler.resample(frame):
                place = round(block.time * 10)
                tenths[place] = max(tenths[place], float(np.abs(block.to_ndarray()).mean()))
        return tenths, float(video.duration * video.time_base)


def detect(model: Path, source: Path, out: Path, *more: str) -> dict:
    result = out.with_suffix(".result")
    arguments = ["--model", model, "--out", out, "--format", "json,video", "--json", result, *more]
    assert run(["detect", *map(str, [source, *arguments])]) == 0
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "aac"),  # copied
        ("a.mkv", "libopus"),
        ("a.avi", "pcm_s16le"),  # becomes AAC
        ("a.mov", "aac"),
    ],
)
def test_the_sound_is_kept_at_its_place(name: str, codec: str, model: Path, tmp_path: Path) -> None:
    result = detect(model, clip(tmp_path / name, codec), tmp_path / "out")
    assert (result["frames"], result["notes"]) == (30, [])
    tenths, seconds = loudness(tmp_path / "out" / "videos" / "a.mp4")
    assert seconds == pytest.approx(3.0, abs=0.11)
    assert tenths[12:19].min() > 0.05 and tenths[:9].max() < 0.01 > tenths[22:].max()
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 1


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_a_part_has_the_sound_of_the_part(codec: str, model: Path, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", codec)
    result = detect(model, source, tmp_path / "out", "--start", "0:00:01.5", "--end", "2.5", "--every", "2")
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry["frame"] for entry in entries] == [15, 17, 19, 21, 23] and result["notes"] == []
    tenths, seconds = loudness(tmp_path / "out" / "videos" / "a.mp4")
    assert seconds == pytest.approx(0.9, abs=0.11)
    assert tenths[1:4].min() > 0.05 and tenths[7:].max() < 0.01


def test_a_silent_video_stays_silent_without_a_note(model: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    assert detect(model, clip(tmp_path / "a.mp4", ""), tmp_path / "out")["notes"] == []
    with av.open(str(tmp_path / "out" / "videos" / "a.mp4")) as file:
        assert not file.streams.audio


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
@pytest.mark.parametrize("codec", ["mp2", ""])
def test_containers_say_whether_they_have_sound(name: str, codec: str, tmp_path: Path) -> None:
    expected = None if name == "a.ts" else bool(codec)
    assert has_sound(str(clip(tmp_path / name, codec, seconds=1))) is expected


def silent_clip(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(5):
        writer.write(np.full((48, 64, 3), 200, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("found", "words"), [(True, "The sound of '"), (None, "if '"), (False, "")], ids=["sound", "unknown", "silent"]
)
def test_without_pyav_a_note_says_that_sound_is_lost(
    found: bool | None, words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound, "find_spec", lambda _: None)
    monkeypatch.setattr(sound, "has_sound", lambda _: found)
    notes = detect(model, silent_clip(tmp_path / "a.mp4"), tmp_path / "out")["notes"]
    assert len(notes) == bool(words) and all(words in note and "PyAV" in note for note in notes)


def test_containers_without_sound_are_known_without_pyav(tmp_path: Path) -> None:
    assert has_sound(str(silent_clip(tmp_path / "a.mp4"))) is has_sound(str(silent_clip(tmp_path / "a.mkv"))) is False
    assert has_sound(str(tmp_path / "none.mp4")) is None


# --- what OpenCV does not read ---------------------------------------------------------------------------------------


def test_pyav_gives_the_frames_and_times_that_opencv_gives(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", "")
    by_opencv = capture.open_capture(Source("video", str(source), "a"))
    by_pyav = capture.AvCapture(str(source))
    assert isinstance(by_opencv, capture.OpenCvCapture) and by_opencv.video == by_pyav.video
    for _ in range(30):
        first, second = by_opencv.read(), by_pyav.read()
        assert first is not None and second is not None and first.shape == second.shape
        assert np.abs(first.astype(int) - second).mean() < 3
        assert by_opencv.seconds() == pytest.approx(by_pyav.seconds(), abs=1e-3)
    assert by_opencv.read() is by_pyav.read() is None


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pyav_turns_a_rotated_video_as_opencv_does(degrees: int, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", "")
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 44  # of the matrix, in version 0
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    for step, value in ((0, a), (4, b), (12, c), (16, d)):
        content[place + step : place + step + 4] = (value << 16 & 0xFFFFFFFF).to_bytes(4, "big")
    source.write_bytes(content)
    first = capture.open_capture(Source("video", str(source), "a")).read()
    second = capture.AvCapture(str(source)).read()
    assert first is not None and second is not None and first.shape == second.shape
    assert np.abs(first.astype(int) - second).mean() < 3


def test_what_opencv_cannot_open_is_read_by_pyav_and_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clip(tmp_path / "a.mkv")
    monkeypatch.setattr(capture, "_open_cv", lambda *_: None)
    result = detect(model, source, tmp_path / "out")
    assert result["frames"] == 30 and "is read by PyAV" in result["notes"][0]


def test_without_pyav_the_error_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_open_cv", lambda *_: None)
    monkeypatch.setattr(capture, "find_spec", lambda _: None)
    with pytest.raises(capture.ImageError, match="cannot be opened") as caught:
        capture.open_capture(Source("video", str(silent_clip(tmp_path / "a.mp4")), "a"))
    assert "[video]" in caught.value.remedy


class Hardware:
    """A capture that opens with hardware decoding and then gives no frame; without hardware it is an ordinary one."""

    released = 0

    def __init__(self, real: type, path: str, api: int, settings: list[int]) -> None:
        self.hardware = cv2.CAP_PROP_HW_ACCELERATION in settings
        self.real = real(path, api, [])

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def get(self, what: int) -> float:
        return 1.0 if self.hardware and what == cv2.CAP_PROP_HW_ACCELERATION else self.real.get(what)

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (False, None) if self.hardware else self.real.read()

    def release(self) -> None:
        Hardware.released += self.hardware
        self.real.release()


def test_hardware_that_gives_no_frame_is_left_for_the_processor(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = silent_clip(tmp_path / "a.mp4"), cv2.VideoCapture
    Hardware.released = 0
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: Hardware(real, *given))
    assert detect(model, source, tmp_path / "out")["frames"] == 5
    assert Hardware.released > 0
