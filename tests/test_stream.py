"""`onelook stream` and `detect --track` from the command line to their files, with small exported files."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onelook
from data_sets import put
from onelook.cli.app import run
from onelook.data import open_dataset
from onelook.data.synthetic_video import CLIPS, write_clips
from onelook.errors import UserError
from onelook.report.streaming import chart_points
from onelook.reporter import SilentReporter
from onelook.streaming import sequences_of
from onelook.streaming.sequences import numbers_in
from shared import SHARED, reference

pytest.importorskip("onnx")
from onnx_models import BOXES, describe, write_model

FRAMES = 12


@pytest.fixture(autouse=True, scope="module")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def write_frames(root: Path, *, named: bool = True) -> Path:
    """Two videos of 64 x 64 pixels with a cat and a dog that stand still, where the small model finds them."""
    images, annotations = [], []
    for sid in range(2):
        for fid in range(FRAMES):
            file = f"video-{sid}/{fid}.png"
            (root / "val" / file).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "val" / file), np.full((64, 64, 3), 200, np.uint8))
            image_id = len(images) + 1
            place = {"sid": sid, "fid": fid} if named else {}
            images.append({"id": image_id, "file_name": file, "height": 64, "width": 64, **place})
            for label, (x1, y1, x2, y2) in enumerate(BOXES[0].tolist()):
                entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
                annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(("cat", "dog"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    put(root / "annotations/instances_val.json", json.dumps(content))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, a.onnx and b.onnx."""
    root = tmp_path_factory.mktemp("stream")
    write_frames(root / "data")
    for name in ("a", "b"):
        write_model(root / f"{name}.onnx")
    return root


def test_run_times_of_names_that_a_file_name_cannot_hold_have_files_of_their_own():
    from onelook.api.stream import _file_name

    names = ["nano 416", "nano_416", "nano/416", "n" * 90, "n" * 91]
    assert len({_file_name(name) for name in names}) == len(names)
    assert _file_name("nano_416") == "nano_416.json" and "/" not in _file_name("nano/416")


def run_times(path: Path, *samples: float) -> Path:
    path.write_text(json.dumps(list(samples)))
    return path


@pytest.mark.parametrize(("seconds", "missed"), [(0.02, 1), (0.04, 2), (0.1, 3)])
def test_the_first_frames_of_every_video_are_missed(place: Path, tmp_path: Path, seconds: float, missed: int) -> None:
    """What stands still is found as well late as at once: only the frames before the first output are lost."""
    given = run_times(tmp_path / "times.json", seconds)
    result = onelook.stream(
        place / "a.onnx", place / "data", run_times=given, forecast="none", reporter=SilentReporter()
    )
    (model,) = result.models
    assert model.offline["AP"] == pytest.approx(1.0)
    # An output of 0.1 s is there at frame 3 exactly: equality counts.
    assert model.missed == 2 * missed and result.sequences == 2
    recall = 1 - missed / FRAMES
    assert model.streaming["AR100"] == pytest.approx(recall)
    points = np.linspace(0, 1, 101)
    assert model.streaming["AP"] == pytest.approx((points <= recall + 1e-9).mean(), abs=0.011)


def test_the_command_measures_writes_and_continues(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["stream", str(place / "data"), "--models", f"{place / 'a.onnx'},{place / 'b.onnx'}"]
    command += ["--runs", "4", "--threads", "1", "--out", str(out)]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "Highest sAP" in shown.out and "sAP75" in shown.out and "kalman" in shown.out
    first, *others = shown.out[shown.out.index("wrote ") + 6 :].strip().split(", ")
    assert first == str(out / "streaming.json") and others[2:] == ["run_times/a.json", "run_times/b.json"]
    assert all((out / name).is_file() for name in others)
    rows = list(csv.DictReader((out / "streaming.csv").read_text().splitlines()))
    assert [(row["name"], row["forecast"]) for row in rows] == [(n, f) for n in "ab" for f in ("none", "kalman")]
    content = json.loads((out / "streaming.json").read_text())
    assert content["models"][0]["streaming"]["sAP"] == pytest.approx(float(rows[0]["sAP"]))
    assert cv2.imread(str(out / "streaming.png")).shape == (760, 1240, 3)
    saved = json.loads((out / "run_times/a.json").read_text())
    assert len(saved["samples"]) == 4 and min(saved["samples"]) > 0
    measured = (out / "measured.json").read_text()
    assert run(command) == 0  # nothing is measured or detected anew
    assert "evaluated before" in capsys.readouterr().err and (out / "measured.json").read_text() == measured
    again = [*command[:-1], str(tmp_path / "again"), "--run-times", str(out / "run_times")]
    assert run(again) == 0
    assert (tmp_path / "again/run_times/a.json").read_text() == (out / "run_times/a.json").read_text()


def test_a_slower_machine_has_later_outputs(place: Path, tmp_path: Path) -> None:
    given = run_times(tmp_path / "times.json", 0.02)
    shared: dict[str, Any] = {"run_times": given, "forecast": "none", "reporter": SilentReporter()}
    half = onelook.stream(place / "a.onnx", place / "data", speed=0.5, **shared).models[0]
    assert half.milliseconds["mean"] == pytest.approx(40) and half.missed == 4
    every = onelook.stream(place / "a.onnx", place / "data", speed=0.1, devices=0, **shared).models[0]
    assert every.processed == 2 * FRAMES and every.missed == 2 * 6


def test_the_chart_has_each_model_and_its_offline_ap(place: Path, tmp_path: Path) -> None:
    given = run_times(tmp_path / "times.json", 0.02)
    result = onelook.stream(place / "a.onnx", place / "data", run_times=given, reporter=SilentReporter())
    assert [(point.name, point.hollow) for point in chart_points(result)] == [
        ("a", False),
        ("a, offline AP", True),
        ("a, kalman", False),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--forecast", "kalmann"], "Did you mean 'kalman'"),
        (["--devices", "2", "--dynamic"], "one device"),
        (["--eta", "-2"], "eta is -2"),
        (["--fps", "0"], "fps is 0"),
        (["--sizes", "320"], "exported for 64 x 64"),
        (["--runtime", "torch"], "exported for 64 x 64"),
        (["--runtime", "openvin"], "Did you mean 'openvino'"),
        (["--sizes", "a"], "sizes 'a'"),
        (["--run-times", "no.json"], "do not exist"),
    ],
)
def test_mistakes_have_messages(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = ["stream", str(place / "data"), "--model", str(place / "a.onnx"), "--out", str(tmp_path / "out")]
    assert run([*command, "--runs", "1", *options]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_model_is_a_mistake(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stream", str(place / "data")]) == 2
    assert "No model" in capsys.readouterr().err


def test_weights_are_tried_in_every_size_and_runtime(place: Path, tmp_path: Path) -> None:
    """Exported once; the same call uses the files again."""
    model = onelook.build("yolox-nano", classes=2)
    weights = onelook.save_weights(model, tmp_path / "nano.safetensors")
    given = run_times(tmp_path / "times.json", 0.02)
    shared: dict[str, Any] = {"run_times": given, "forecast": "none", "reporter": SilentReporter()}
    shared |= {"sizes": [64, 96], "runtime": "torch,onnx", "out": tmp_path / "out"}
    result = onelook.stream(weights, place / "data", **shared)
    assert [one.name for one in result.models] == ["nano 64 torch", "nano 64 onnx", "nano 96 torch", "nano 96 onnx"]
    assert [one.size for one in result.models] == [(64, 64), (64, 64), (96, 96), (96, 96)]
    for torch_one, onnx_one in zip(result.models[::2], result.models[1::2]):
        assert onnx_one.runtime != torch_one.runtime
        assert onnx_one.offline["AP"] == pytest.approx(torch_one.offline["AP"], abs=0.05)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/exported").glob("*.onnx")}
    assert len(files) == 2
    onelook.stream(weights, place / "data", **shared)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/exported").glob("*.onnx")} == files
    with pytest.raises(UserError, match="folder"):
        onelook.stream(weights, place / "data", **{**shared, "out": None})


@pytest.mark.parametrize(("runtime", "library"), [("openvino", "openvino"), ("ncnn", "pnnx")])
def test_weights_are_exported_for_other_runtimes(place: Path, tmp_path: Path, runtime: str, library: str) -> None:
    pytest.importorskip(runtime)
    pytest.importorskip(library)
    weights = onelook.save_weights(onelook.build("yolox-nano", classes=2), tmp_path / "nano.safetensors")
    given = run_times(tmp_path / "times.json", 0.02)
    out = tmp_path / "out"
    shared: dict[str, Any] = {"run_times": given, "forecast": "none", "reporter": SilentReporter()}
    result = onelook.stream(weights, place / "data", sizes=[64], runtime=runtime, out=out, **shared)
    assert [runtime in one.runtime.lower() for one in result.models] == [True]
    (file,) = [path for path in (out / "exported").iterdir() if path.suffix in (".xml", ".param")]
    again = onelook.stream(file, place / "data", sizes=[64], runtime=runtime, out=tmp_path / "again", **shared)
    assert again.models[0].offline == result.models[0].offline


# --- sequences -------------------------------------------------------------------------------------------------------


def test_without_numbers_of_sequences_the_folders_are_the_videos(tmp_path: Path) -> None:
    dataset = open_dataset(write_frames(tmp_path / "data", named=False), split="val", reporter=SilentReporter())
    videos = sequences_of(dataset)
    assert [video.name for video in videos] == ["video-0", "video-1"]
    names = [dataset.file_name(int(row)) for row in videos[1].rows]
    assert names == [f"video-1/{fid}.png" for fid in range(FRAMES)], "frame 2 comes before frame 10"


def test_names_are_ordered_by_their_numbers() -> None:
    assert sorted(["f10.png", "f9.png", "f.png"], key=numbers_in) == ["f9.png", "f10.png", "f.png"]


def write_argoverse(root: Path) -> Path:
    """The golden's annotations with small images, in the layout of Argoverse-HD."""
    assert SHARED is not None
    content = json.loads((reference("yolox") / "streaming.json").read_text())["annotations"]
    put(root / "Argoverse-HD/annotations/val.json", json.dumps(content))
    for image in content["images"]:
        image_file = root / "Argoverse-1.1/tracking" / content["seq_dirs"][image["sid"]] / image["name"]
        image_file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image_file), np.zeros((12, 19, 3), np.uint8))
    return root / "Argoverse-HD"


@pytest.mark.skipif(SHARED is None, reason="needs the reference material (ONELOOK_SHARED)")
def test_argoverse_hd_is_read_as_it_is(tmp_path: Path) -> None:
    dataset = open_dataset(write_argoverse(tmp_path), split="val", reporter=SilentReporter())
    assert dataset.names == (
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "bus",
        "truck",
        "traffic light",
        "stop sign",
    )
    assert [len(video) for video in sequences_of(dataset)] == [20, 15] and sum(dataset.num_objects) == 174
    assert dataset.file_name(0) == "val/seq-a/ring_front_center/0000.jpg" and dataset.image(0).shape == (12, 19, 3)
    assert dataset.image_extra(21)["fid"] == 1


@pytest.mark.skipif(SHARED is None, reason="needs the reference material (ONELOOK_SHARED)")
def test_a_sequence_without_a_folder_is_an_error(tmp_path: Path) -> None:
    root = write_argoverse(tmp_path)
    file = root / "annotations/val.json"
    content = json.loads(file.read_text())
    content["seq_dirs"] = content["seq_dirs"][:1]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"val\.json: images\[20\] has 'sid' 1"):
        open_dataset(root, split="val", reporter=SilentReporter())


# --- tracking --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "data", {"apart": CLIPS["apart"]})


def test_drawn_clips_are_a_data_set_videos_and_tracks(clips: Path) -> None:
    dataset = open_dataset(clips, split="val", reporter=SilentReporter())
    assert len(dataset) == 90 and sum(dataset.num_objects) == 360 and dataset.names == ("ball",)
    assert len((clips / "tracks/apart.txt").read_text().splitlines()) == 360
    with pytest.raises(UserError, match="something else"):
        write_clips(clips)


def test_truth_scored_against_itself_is_perfect(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(clips / "tracks"), str(clips / "tracks"), "--tracks"]) == 0
    assert capsys.readouterr().out.split()[-9:-4] == ["1.000"] * 5
    assert onelook.score_tracks(clips / "tracks/apart.txt", clips / "tracks/apart.txt").metrics["HOTA"] == 1.0
    with pytest.raises(UserError, match="folder"):
        onelook.score_tracks(clips / "tracks", clips / "tracks/apart.txt")
    with pytest.raises(UserError, match="'nowhere' does not exist"):  # not: "is a folder, and the other is not"
        onelook.score_tracks("nowhere", clips / "tracks")
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        onelook.score_tracks(clips / "tracks", "nowhere")


def write_video(path: Path) -> Path:
    """Ten bright frames of 64 x 64 pixels, in which the small model finds a cat and a dog."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 64))
    for _ in range(10):
        writer.write(np.full((64, 64, 3), 250, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort"])
def test_detect_writes_tracks_in_every_format(place: Path, tmp_path: Path, tracker: str) -> None:
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}.mp4")
    sources = [str(tmp_path / "one.mp4"), str(tmp_path / "two.mp4")]
    options = ["--model", str(place / "a.onnx"), "--track", tracker, "--format", "json,csv,mot,video"]
    out = tmp_path / "out"
    assert run(["detect", *sources, *options, "--out", str(out)]) == 0
    entries = json.loads((out / "detections.json").read_text())
    assert len(entries) == 20
    kinds = {(found["track"], found["name"]) for entry in entries for found in entry["detections"]}
    assert len(kinds) == 2 and {track for track, _ in kinds} == {1, 2}, "identities begin anew in the second video"
    rows = list(csv.DictReader((out / "detections.csv").read_text().splitlines()))
    assert len(rows) == 40 and {row["track"] for row in rows} == {"1", "2"}
    lines = (out / "tracks/two.txt").read_text().splitlines()
    assert len(lines) == 20 and lines[0].split(",")[0] == "1" and lines[-1].split(",")[0] == "10"
    assert (out / "videos/one.mp4").stat().st_size > 0
    shutil.rmtree(out)
    assert run(["detect", sources[0], "--model", str(place / "a.onnx"), "--format", "csv", "--out", str(out)]) == 0
    assert "track" not in (out / "detections.csv").read_text().splitlines()[0]


def test_images_are_not_tracked_and_keep_their_least_score(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), np.full((64, 64, 3), 250, np.uint8))
    image, video = str(tmp_path / "still.png"), str(write_video(tmp_path / "one.mp4"))
    options = ["--model", str(place / "a.onnx"), "--track", "bytetrack", "--format", "json", "--confidence", "0.99"]
    for sources in ([image], [image, video]):
        assert run(["detect", *sources, *options, "--out", str(tmp_path / f"out{len(sources)}")]) == 0
        shown = capsys.readouterr()
        assert ("Nothing was tracked" in shown.out + shown.err) == (len(sources) == 1)
        entries = json.loads((tmp_path / f"out{len(sources)}" / "detections.json").read_text())
        assert not entries[0]["detections"]
    low = ["--confidence", "0.01", "--out", str(tmp_path / "all")]
    assert run(["detect", image, *options[:-2], *low]) == 0
    found = json.loads((tmp_path / "all/detections.json").read_text())[0]["detections"]
    assert found and all(0.1 < one["score"] < 0.99 for one in found), "the model is no test of the least score"


def test_mot_text_needs_a_tracker(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "one.mp4")
    assert run(["detect", str(video), "--model", str(place / "a.onnx"), "--format", "mot"]) == 2
    assert "--track" in capsys.readouterr().err


def test_a_detector_tracks_a_video(place: Path, tmp_path: Path) -> None:
    detector = onelook.load(place / "a.onnx")
    video = write_video(tmp_path / "one.mp4")
    frames = list(detector.track(video, tracker="ocsort"))
    assert [frame.frame for frame in frames] == list(range(10))
    assert all(frame.tracks is not None and sorted(frame.tracks.tolist()) == [1, 2] for frame in frames)
    assert describe()["names"] == ["cat", "dog"] and set(frames[0].names) == {"cat", "dog"}
    strict = list(detector.track(video, tracker=onelook.ByteTrack(high=0.85)))
    assert all(frame.names == ["cat"] for frame in strict), "the dog has score 0.78, which starts no track"


# --- excerpts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (["--every", "3"], [0, 3, 6, 9]),
        (["--start", "0.4"], [4, 5, 6, 7, 8, 9]),
        (["--end", "0.3"], [0, 1, 2]),
        (["--every", "2", "--start", "0.3", "--end", "0.8"], [3, 5, 7]),
        (["--start", "0.85"], [9]),
    ],
)
def test_excerpts_keep_the_numbers_of_the_frames(
    place: Path, tmp_path: Path, options: list[str], frames: list[int]
) -> None:
    video, out = write_video(tmp_path / "one.mp4"), tmp_path / "out"
    command = ["detect", str(video), "--model", str(place / "a.onnx"), "--format", "json,video", "--out", str(out)]
    assert run([*command, *options]) == 0
    assert [entry["frame"] for entry in json.loads((out / "detections.json").read_text())] == frames
    capture = cv2.VideoCapture(str(out / "videos/one.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == frames[-1] - frames[0] + 1, "skipped frames are shown longer"
    capture.release()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "0"], "'every' is 0"),
        (["--start", "-1"], "'start' is '-1'"),
        (["--start", "2", "--end", "1"], "'end' is 1 and 'start' is 2"),
        (["--start", "5"], "before the start of 5 s"),
        (["--start", "0.35", "--end", "0.38"], "no frame from 0.35 s up to 0.38 s"),
    ],
)
def test_excerpts_that_hold_no_frame_are_mistakes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    video = write_video(tmp_path / "one.mp4")
    assert run(["detect", str(video), "--model", str(place / "a.onnx"), "--out", str(tmp_path / "o"), *options]) > 0
    assert message in " ".join(capsys.readouterr().err.split())
