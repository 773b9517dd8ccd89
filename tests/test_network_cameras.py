"""`onelook detect --live` on cameras in the network, which are real ones but for their lens: RTSP and HTTP MJPEG."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

import onelook
from network_cameras import RATE, NetworkCamera, number_of
from onelook.cli.app import run
from onelook.predict import live, live_capture
from onelook.predict.sources import find_sources, without_password
from onelook.tracking.mot import read_mot
from onnx_models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


def camera(kind: str, login: tuple[str, str] | None = None) -> NetworkCamera:
    if kind == "h264":
        pytest.importorskip("av", reason="needs the extra video")
    return NetworkCamera(kind, login)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@camera.local/x", "rtsp://me:***@camera.local/x"),
        ("RTSP://me:s:e@cret@10.0.0.1:554/x?a=b@c", "RTSP://me:***@10.0.0.1:554/x?a=b@c"),
        ("http://:secret@host", "http://:***@host"),
        ("rtsp://me:with/slash@host/x", "rtsp://me:***@host/x"),
        ("rtsp://me@host/x", "rtsp://me@host/x"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("a:b@c.mp4", "a:b@c.mp4"),
    ],
)
def test_the_password_of_an_address_is_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown
    if "://" in address:
        (source,) = find_sources([address])
        assert source.path == shown and source.address == address and "secret" not in repr(source)
    (mistyped,) = find_sources(["rstp://me:secret@camera.local/x"])
    assert "secret" not in f"{mistyped} {mistyped.error}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mjpeg", "h264", "http"])
def test_a_slow_network_gets_the_newest_frame_and_no_queue_grows(kind: str, model: Path) -> None:
    """The age of a frame is counted in frames that the camera had sent; a queue would hold most of them."""
    ages, shown, waited = list[int](), list[int](), 0.3
    with camera(kind) as source:
        for result in onelook.load(model, threads=1).live(source.address, keep_images=True):
            assert result.detections.image is not None
            shown.append(number_of(result.detections.image))
            ages.append(source.sent - shown[-1])
            if len(shown) == 20:
                break
            time.sleep(waited)
    assert shown == sorted(set(shown))
    later = shown[3:]  # what came while the source was opened was in its buffers
    assert later[-1] - later[0] > 0.5 * waited * RATE * (len(later) - 1), "most frames are dropped"
    queued = (later[-1] - later[0]) - (len(later) - 1)
    assert max(ages[3:]) < queued / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mjpeg", "h264", "http"])
def test_a_camera_that_is_switched_off_and_on_is_used_again(
    kind: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, summary = tmp_path / "out", tmp_path / "result.json"
    with camera(kind, None if kind == "http" else ("me", "secret")) as source:
        off, on = threading.Timer(5, source.stop), threading.Timer(9, source.start)
        off.start()
        on.start()
        settings = ("--track", "bytetrack", "--end", "16", "--format", "json,csv,coco,mot,video", "--threads", "1")
        written = ("--out", str(out), "--json", str(summary))
        code = run(["detect", source.address, "--model", str(model), "--live", *settings, *written])
        off.join()
        on.join()
        assert code == 0 and source.connections == 2
        assert source.refused == (0 if kind == "http" else 2), "a password is sent where it is asked for"
    result = json.loads(summary.read_text())
    assert result["live"]["reconnects"] == 1 and result["failures"] == []
    said = capfd.readouterr()
    for words in ("ended after", "is opened again in 1 s", "is opened again in 2 s", "is back after"):
        assert words in said.err
    events = [json.loads(line) for line in (out / "live.jsonl").read_text().splitlines()]
    assert {event["event"] for event in events} == {"result", "lost", "waiting", "back", "summary"}
    numbers = [event["frame"] for event in events if event["event"] == "result"]
    assert numbers == sorted(numbers) and len(numbers) == result["frames"] and len(set(numbers)) > 10
    tracks = read_mot(out / "tracks" / "stream.txt")  # an error where a frame has an identity twice
    assert set(tracks.frames - 1) <= set(numbers)
    assert (out / "videos" / "stream.mp4").stat().st_size > 0
    texts = [path.read_text(errors="replace") for path in (*out.rglob("*"), summary) if path.is_file()]
    assert not any("secret" in text for text in (said.out, said.err, *texts))


@pytest.mark.slow
def test_a_camera_that_keeps_its_connection_but_sends_nothing_is_opened_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (live, live_capture):
        monkeypatch.setattr(module, "LIVE_STALL_SECONDS", 1.5)
    said, before = list[str](), 0

    class Warnings(onelook.SilentReporter):
        def warning(self, text: str) -> None:
            said.append(text)
            source.freeze.clear()

    with camera("mjpeg") as source:
        for result in onelook.load(model, threads=1).live(source.address, keep_images=True, reporter=Warnings()):
            assert result.detections.image is not None
            if number_of(result.detections.image) > RATE and not before:
                before = source.sent
                source.freeze.set()
            if said and number_of(result.detections.image) > before + RATE:
                break
        assert source.connections == 2
    assert "has given no frame for" in said[0] and "is back after" in said[-1]


@pytest.mark.slow
def test_a_camera_that_is_not_there_or_refuses_a_password_is_an_error_without_the_password(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with camera("mjpeg", ("me", "right")) as source:
        wrong = source.address.replace("right", "secret")
        for live_flag in ([], ["--live"]):
            assert run(["detect", wrong, "--model", str(model), "--out", str(tmp_path / "out"), *live_flag]) == 1
    assert run(["detect", wrong, "--model", str(model), "--live", "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr()
    assert said.err.count("cannot be opened") == 3 and "secret" not in said.out + said.err
    assert "me:***@127.0.0.1" in said.err
