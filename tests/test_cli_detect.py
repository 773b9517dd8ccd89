"""`onelook detect`: what it finds to read, what it writes, and what it says about damaged files."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onelook.cli.app import run
from onelook.errors import ConfigError, ImageError, UserError
from onelook.predict.sources import find_sources
from onelook.predict.writers import parse_formats
from onnx_models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def write_image(path: Path, value: int = 255, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def video(path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), codec: str = "mp4v") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (size[1], size[0]))
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(rng.integers(200, 256, (*size, 3), dtype=np.uint8))
    writer.release()
    return path


def detect(*arguments: object) -> int:
    return run(["detect", *map(str, arguments)])


# --- what is written -------------------------------------------------------------------------------------------------


def test_every_format_is_written_whole(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "000000000139.png")
    write_image(tmp_path / "in" / "b.jpg")
    write_image(tmp_path / "in" / "deep" / "b.png", 0)
    out = tmp_path / "out"
    assert detect(tmp_path / "in", "--model", model, "--out", out, "--format", "json,images,coco,yolo,csv,video") == 0
    entries = json.loads((out / "detections.json").read_text())
    assert [Path(entry["source"]).name for entry in entries] == ["000000000139.png", "b.jpg", "b.png"]
    first = entries[0]
    assert list(first) == ["source", "frame", "width", "height", "detections"]
    assert (first["frame"], first["width"], first["height"]) == (None, 64, 48)
    assert list(first["detections"][0]) == ["box", "score", "label", "name"]
    assert [one["name"] for one in first["detections"]] == ["cat", "dog"] and entries[2]["detections"] == []
    results = json.loads((out / "coco.json").read_text())
    assert {entry["image_id"] for entry in results} == {139, 1}
    images = json.loads((out / "coco_images.json").read_text())["images"]
    assert [image["id"] for image in images] == [139, 1, 2]
    rows = list(csv.DictReader((out / "detections.csv").read_text().splitlines()))
    assert len(rows) == 4 and rows[0]["name"] == "cat" and float(rows[0]["score"]) > 0.7
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert [name for name in written if name.startswith(("images", "labels"))] == [
        *("images/000000000139.jpg", "images/b.jpg", "images/deep/b.jpg"),
        *("labels/000000000139.txt", "labels/b.txt", "labels/deep/b.txt"),
    ]
    label, *box = map(float, (out / "labels" / "b.txt").read_text().split("\n")[0].split())
    assert label == 0 and box == pytest.approx([12 / 64, 12 / 48, 16 / 64, 16 / 48, box[-1]], abs=1e-5)
    assert (out / "labels" / "deep" / "b.txt").read_text() == "" and (out / "classes.txt").read_text() == "cat\ndog\n"
    assert not [name for name in written if ".part" in name]


def test_a_video_has_frame_numbers_and_becomes_a_video(model: Path, tmp_path: Path) -> None:
    source, out = video(tmp_path / "clip.mp4"), tmp_path / "out"
    assert detect(source, "--model", model, "--out", out, "--format", "json,video") == 0
    entries = json.loads((out / "detections.json").read_text())
    assert [entry["frame"] for entry in entries] == list(range(12))
    capture = cv2.VideoCapture(str(out / "videos" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert detect(source, "--model", model, "--out", tmp_path / "b", "--format", "images,yolo", "--batch", 5) == 0
    assert len(list((tmp_path / "b" / "images" / "clip").glob("*.jpg"))) == 12


def test_equal_names_do_not_overwrite_each_other(model: Path, tmp_path: Path) -> None:
    given = [write_image(tmp_path / folder / name) for folder, name in [("a", "x.png"), ("b", "x.png"), ("b", "X.jpg")]]
    assert detect(*given, "--model", model, "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_json_on_standard_output_is_the_summary(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png")
    assert detect(tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", "--json", "-") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["detections"], summary["per_class"]) == (1, 2, {"cat": 1, "dog": 1})


def test_scores_are_printed_for_one_image_and_for_several(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_image(tmp_path / "a.png"), write_image(tmp_path / "b.png")
    assert detect(first, "--model", model, "--out", tmp_path / "one", "--format", "json") == 0
    lines = capsys.readouterr().out.splitlines()
    (entry,) = json.loads((tmp_path / "one" / "detections.json").read_text())
    assert lines[0].split()[:3] == ["class", "score", "box"]
    for line, found in zip(lines[1:3], entry["detections"], strict=True):
        box = ", ".join(f"{side:.0f}" for side in found["box"])
        assert " ".join(line.split()) == f"{found['name']} {found['score']:.2f} {box}"
    assert detect(first, second, "--model", model, "--out", tmp_path / "two", "--format", "json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("best score") and lines[1].split()[-1] == f"{entry['detections'][0]['score']:.2f}"


def test_without_out_a_new_folder_is_made_each_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.png")
    assert [detect("a.png", "--model", model) for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["detect", "detect-2"]


# --- damage ----------------------------------------------------------------------------------------------------------


def hostile(folder: Path) -> int:
    """Fills a folder with files that are no images; how many."""
    good = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8))[1].tobytes()
    png = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    bomb = png[:16] + (70_000).to_bytes(4, "big") * 2 + png[24:]
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"I am a text\n" * 9,
        "cut.jpg": good[: len(good) // 2],
        "zeros.png": bytes(1000),
        "bomb.png": bomb,
        "noise.webp": np.random.default_rng(1).bytes(5000),
        "empty.mp4": b"",
        "text.mp4": b"#EXTM3U\n/etc/passwd\n",
        "noise.avi": np.random.default_rng(2).bytes(5000),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return len(contents)


def test_damaged_files_in_a_folder_are_reported_and_left_out(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = hostile(tmp_path / "in")
    write_image(tmp_path / "in" / "good.png")
    assert detect(tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--json", tmp_path / "r.json") == 1
    shown = capfd.readouterr()
    assert f"{count} sources could not be read" in shown.out and "Traceback" not in shown.err
    assert shown.err == ""  # no library speaks for itself
    failures = json.loads((tmp_path / "r.json").read_text())["failures"]
    assert len(failures) == count and all(failure["remedy"] for failure in failures)
    assert all(Path(failure["source"]).name in failure["message"] for failure in failures)
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(entry["source"]).name for entry in entries] == ["good.png"]


def test_a_damaged_file_alone_is_an_error_and_leaves_no_result(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile(tmp_path / "in")
    for path in sorted((tmp_path / "in").iterdir()):
        assert detect(path, "--model", model, "--out", tmp_path / "out") == 1
        lines = capfd.readouterr().err.strip().splitlines()
        assert lines[0].startswith("error: ") and path.name in lines[0] and len(lines) == 2, lines
    assert not (tmp_path / "out").exists()


def test_a_folder_of_nothing_but_damage_is_one_error(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = hostile(tmp_path / "in")
    assert detect(tmp_path / "in", "--model", model, "--out", tmp_path / "out") == 1
    assert f"None of the {count} sources" in capfd.readouterr().err


def test_a_truncated_video_keeps_its_readable_frames(model: Path, tmp_path: Path) -> None:
    content = video(tmp_path / "a.avi", 30, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    assert detect(tmp_path / "cut.avi", "--model", model, "--out", tmp_path / "out", "--json", tmp_path / "r") == 1
    (failure,) = json.loads((tmp_path / "r").read_text())["failures"]
    assert "truncated" in failure["message"] and "of about 30 frames" in failure["message"]
    assert 5 < len(json.loads((tmp_path / "out" / "detections.json").read_text())) < 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jpg"], "does not exist"),
        (["9"], "Camera 9"),
        (["9"], "no other program"),
        (["http://localhost:1/x.mp4"], "the address"),
        (["*.none"], "No file matches"),
        (["."], "no images and no videos"),
        ([], "source"),
        (["a.png", "--format", "jsn"], "Did you mean 'json'"),
        (["a.png", "--format", ","], "format"),
        (["a.png", "--batch", "0"], "batch"),
        (["a.png", "--confidence", "7"], "confidence"),
        (["a.png", "--device", "cuda:9"], "device"),
        (["a.png", "--half"], "precision is built in"),
        (["a.png", "--out", "file/out"], "cannot be written"),
    ],
)
@pytest.mark.usefixtures("empty_folder")
def test_wrong_use_is_one_message(
    model: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    if "a.png" in arguments:
        write_image(Path("a.png"))
        Path("file").touch()
    assert detect(*arguments, "--model", model) in (1, 2)
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error and error.startswith("error: ")


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_long_or_no_text_are_written(model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    longest, no_text = "x" * 246 + ".png", os.fsdecode(b"bad\xff.png")
    for name in (longest, no_text, "plain.png"):
        write_image(photos / "plain.png")
        (photos / "plain.png").rename(photos / name)
    formats = ["--format", "json,images,coco,yolo,csv"]
    assert detect(str(photos), "--model", model, "--out", str(out), *formats) == 0
    found = [Path(entry["source"]).name for entry in json.loads((out / "detections.json").read_text())]
    assert sorted(found) == sorted(["plain.png", longest, no_text])
    assert (out / "images" / f"{'x' * 246}.jpg").is_file() and (out / "labels" / f"{'x' * 246}.txt").is_file()


ENDLESS = """
import signal, sys
import numpy as np
from onelook.predict import video

class Camera:
    isOpened = lambda self: True
    get = lambda self, _: 0.0
    release = lambda self: None
    read = lambda self: (True, np.full((16, 16, 3), 230, np.uint8))

video.cv2.VideoCapture = lambda *_: Camera()
# A job in the background of a shell inherits an ignored SIGINT, and would hand it on.
signal.signal(signal.SIGINT, signal.default_int_handler)
from onelook.cli.app import main
main(sys.argv[1:])
"""
"""The command line where every camera gives frames without end."""


def test_ctrl_c_keeps_what_was_done(model: Path, tmp_path: Path) -> None:
    """Ctrl-C, sent once detections are in the unfinished file, ends an endless source and leaves a whole file."""
    arguments = ["detect", "0", "--model", str(model), "--out", str(tmp_path / "out"), "--format", "json,csv"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ENDLESS, *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    while process.poll() is None and not any(path.stat().st_size for path in tmp_path.glob("out/.detections.json*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 130 and "Traceback" not in error, error
    assert "Interrupted" in out
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) > 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


# --- finding ---------------------------------------------------------------------------------------------------------


def test_sources_are_found_in_order(tmp_path: Path) -> None:
    for name in ["b.jpg", "a.PNG", "sub/c.webp", "sub/.hidden.jpg", ".h/x.jpg", "note.txt.bak", "out/d.jpg", "v.mp4"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_sources([str(tmp_path)], leave_out=tmp_path / "out")
    assert [(source.kind, source.name) for source in found] == [
        *(("image", "a"), ("image", "b"), ("video", "v"), ("image", "sub/c")),
    ]
    assert len(find_sources([str(tmp_path / "**" / "*.jpg")])) == 2
    (tmp_path / "list.txt").write_text("# two files\nb.jpg\n\n sub/c.webp \n")
    listed = find_sources([str(tmp_path / "list.txt")])
    assert [Path(source.path).name for source in listed] == ["b.jpg", "c.webp"]
    assert [source.kind for source in find_sources(["rtsp://camera/1", "0"])] == ["live", "live"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\0", "UTF-8"),
        (b"# nothing\n", "no files"),
        (b"a\n" + b"x" * 9999, "Line 2"),
        (b"http://a/b.jpg", "stream"),
    ],
)
def test_a_list_that_is_none_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    (source,) = find_sources([str(tmp_path / "list.txt")])
    assert source.error is not None and words in source.error.message


def test_formats_are_parsed_from_text() -> None:
    assert parse_formats(" json, CSV,json") == ("json", "csv")
    with pytest.raises(ConfigError, match="pdf"):
        parse_formats("json,pdf")
    with pytest.raises(ImageError, match="No source"):
        find_sources([])


def test_a_typo_is_answered_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "photo.png")
    assert detect(tmp_path / "foto.png", "--model", tmp_path / "no.onnx") == 1
    assert "foto.png' does not exist. Did you mean 'photo.png'?" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--confidence=2", "--iou=-1", "--size=0", "--batch=0", "--format=jsn", "--format="])
def test_a_value_out_of_range_is_wrong_usage(
    model: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png")
    assert detect(tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", wrong) == 2
    assert detect("--model", model) == 2
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onelook import files
    from onelook.predict.writers.files import GrowingFile

    def on_a_full_disk(path: Path, mode: str, **more: Any) -> Any:
        return open(path if "x" in mode else "/dev/full", mode, **more)

    monkeypatch.setattr(files, "open", on_a_full_disk, raising=False)
    for end, error in ((GrowingFile.discard, None), (GrowingFile.close, UserError)):
        growing = GrowingFile(tmp_path / "detections.json")
        growing.write("x")
        with pytest.raises(error, match=r"(?i)no space left") if error else contextlib.nullcontext():
            end(growing)
        assert not list(tmp_path.iterdir())


def test_settings_of_videos_are_named_where_all_sources_are_images(model: Path, tmp_path: Path) -> None:
    image, told = write_image(tmp_path / "a.png"), tmp_path / "told.json"
    base = (image, "--model", model, "--out", tmp_path / "out", "--overwrite", "--json", told)
    for options, word in (
        (("--start", "5"), "'start'"),
        (("--every", "3"), "'every'"),
        (("--format", "video"), "video"),
    ):
        assert detect(*base, *options) == 0
        (note,) = json.loads(told.read_text())["notes"]
        assert word in note and "no source is one" in note
    assert detect(*base) == 0
    assert json.loads(told.read_text())["notes"] == []
