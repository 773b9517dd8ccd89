"""The demo, end to end at its smallest: every stage runs and every file that it names exists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest

from browser import needs_browser, open_browser
from onelook.cli.app import main
from onelook.data import open_dataset
from onelook.data.synthetic import NAMES
from onelook.data.synthetic_video import demo_clip, write_clips
from onelook.errors import UserError
from onelook.ops.numpy_iou import pairwise_iou
from onelook.report.clip import check_webm, clip_figure, write_webm
from onelook.report.html import document


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_demo_trains_detects_exports_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the training and started again, it makes the rest and does not train twice."""
    out, told = tmp_path / "demo", tmp_path / "demo.json"
    small = ("--epochs", "1", "--images", "16", "--size", "64")

    def interrupted(*given: object, **settings: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onelook.api.export.export", interrupted)
        assert run("demo", "--out", str(out), *small) == 130
    before = (out / "run" / "state.pt").read_bytes()
    assert not (out / "detector.onnx").exists()
    assert run("demo", "--out", str(out), *small, "--json", str(told)) == 0
    assert (out / "detector.onnx").exists() and (out / "run" / "state.pt").read_bytes() == before
    result = json.loads(told.read_text())
    assert set(result["seconds"]) == {"draw the data", "train", "detect", "export", "validate"}
    assert all(Path(path).exists() for path in result["paths"].values())
    assert result["stats"]["AP"] == pytest.approx(result["exported_stats"]["AP"], abs=1e-3)
    found = json.loads((out / "detections" / "detections.json").read_text())
    assert len(found) == 6
    page = (out / "run" / "report.html").read_text(encoding="utf-8")
    assert "yolox-nano on data" in page and "optimizer.lr_per_image" in page
    assert {"recipe.yaml", "metrics.csv", "best.safetensors", "last.safetensors", "state.pt", "train.log"} <= {
        path.name for path in (out / "run").iterdir()
    }
    assert run("demo", "--out", str(out), *small) == 1  # a finished demo is not overwritten


def test_a_training_that_is_stopped_tells_that_the_demo_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onelook.training.run as training_run

    told: list[str] = []

    def stopped(self: training_run.Run, *given: object, **settings: Any) -> NoReturn:
        told.append(settings["resume_command"])
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run.Run, "__init__", stopped)
    small = ("--epochs", "1", "--images", "16", "--size", "64")
    assert run("demo", "--out", str(tmp_path / "demo"), *small) == 130
    assert told == ["the same demo again, which makes the rest too"]


def test_the_data_set_alone_is_one_that_every_command_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, told = tmp_path / "scenes", tmp_path / "data.json"
    asked = ("--data-only", str(folder), "--images", "4", "--size", "64", "--difficulty", "0.9", "--classes", "5")
    assert run("demo", *asked, "--json", str(told)) == 0
    assert json.loads(told.read_text())["images"] == {"train": 4, "val": 1, "new": 6}
    assert "4 train, 1 val, 6 new images" in capsys.readouterr().out
    opened = open_dataset(folder, "train")
    assert len(opened) == 4 and len(opened.names) == 5
    assert json.loads((folder / "synthetic.json").read_text())["scenes"]["difficulty"] == 0.9
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["scenes"]  # no training was begun


@pytest.mark.parametrize("wrong", [("--difficulty", "2"), ("--size", "16"), ("--classes", "99"), ("--images", "0")])
def test_images_that_cannot_be_drawn_are_wrong_usage(
    wrong: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--data-only", str(tmp_path / "scenes"), *wrong) == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "scenes").exists()


# --- the demo of a video ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--video"]])
def test_a_wrong_model_is_told_before_anything_is_drawn(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert run("demo", *options, "--model", "yolox-q", "--out", str(out)) == 1
    assert "no model 'yolox-q'" in capsys.readouterr().err and not out.exists()


def test_the_clip_of_the_demo_has_objects_that_cross_and_are_hidden() -> None:
    clip = demo_clip(("ball", "fish"))
    quick = [replace(one, path=tuple((frame // 5, x, y) for frame, x, y in one.path)) for one in clip.objects]
    frames = list(replace(clip, objects=tuple(quick), frames=clip.frames // 5)())
    assert all(frame.identities.tolist() == [1, 2, 3, 4, 5] for frame in frames)
    visible = np.array([frame.visible for frame in frames])
    hidden = visible < 0.05
    assert hidden[:, :2].any(0).all() and not hidden[:, 2:].any()
    assert (visible[[0, -1], :2] > 0.95).all()  # seen before and after
    crossing = [pairwise_iou(frame.boxes[2:3], frame.boxes[3:4])[0, 0] for frame in frames]
    assert max(crossing) > 0.2 and crossing[0] == crossing[-1] == 0
    assert {NAMES[label] for label in frames[0].labels} == {"ball", "fish"}


def test_a_video_for_browsers_has_the_frames_of_its_source(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for number in range(7):
        writer.write(np.full((48, 64, 3), 30 * number, np.uint8))
    writer.release()
    check_webm()
    made = write_webm(tmp_path / "a.mp4", tmp_path / "a.webm")
    assert made.read_bytes()[:4] == b"\x1aE\xdf\xa3" and b"webm" in made.read_bytes()[:64]
    capture = cv2.VideoCapture(str(made), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20)
    shown = []
    while (read := capture.read())[0]:
        shown.append(float(read[1].mean()))
    np.testing.assert_allclose(shown, 30 * np.arange(7), atol=12)
    with pytest.raises(UserError, match="nowhere"):
        write_webm(tmp_path / "nowhere.mp4", tmp_path / "b.webm")
    assert not (tmp_path / "b.webm").exists()


def test_without_a_writer_of_browser_videos_the_demo_stops_before_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onelook.report.clip._CODEC", "none")
    assert run("demo", "--video", "--out", str(tmp_path / "demo")) == 1
    assert "WebM" in capsys.readouterr().err and not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_of_a_video_tracks_streams_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while it tracks and started again, it does not train or draw twice; its page plays in a browser."""
    out, told = tmp_path / "demo", tmp_path / "demo.json"
    small = ("--video", "--out", str(out), "--epochs", "1", "--images", "16", "--size", "64")

    def interrupted(*given: object, **settings: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onelook.api.demo_video.detect", interrupted)
        assert run("demo", *small) == 130
    kept = [out / "run" / "state.pt", out / "clips" / "videos" / "demo.mp4"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept]
    assert run("demo", *small, "--json", str(told)) == 0
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept] == before
    result = json.loads(told.read_text())
    assert set(result["seconds"]) == {"draw", "train", "track", "measure streaming AP"}
    assert all(Path(path).exists() for path in result["paths"].values())
    assert result["tracks"]["all"]["objects"] > 1000 and len(result["streaming"]["models"]) == 2
    slower = result["slower"]["models"][0]["milliseconds"]["mean"]
    assert slower >= result["streaming"]["models"][0]["milliseconds"]["mean"] * 0.999
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:video/webm;base64,") == 1 and "http" not in page.split("<svg")[0]
    assert run("demo", *small) == 1  # a finished demo is not overwritten


@pytest.mark.slow
@needs_browser
def test_the_page_plays_its_video(tmp_path: Path) -> None:
    clip = replace(demo_clip(), frames=45)
    folder = write_clips(tmp_path / "clips", {"demo": clip})
    video = write_webm(folder / "videos" / "demo.mp4", tmp_path / "clip.webm")
    (tmp_path / "page.html").write_text(document("A clip", clip_figure(video, "moving objects")), encoding="utf-8")
    with open_browser() as browser:
        tab = browser.tab()
        tab.open((tmp_path / "page.html").as_uri())
        tab.wait("document.querySelector('video').currentTime > 0.3")
        assert tab.evaluate("[document.querySelector('video').videoWidth, document.querySelector('video').error]") == [
            480,
            None,
        ]
        assert tab.problems() == []
