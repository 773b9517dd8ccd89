"""Tests of the interface of workers, and of detections in Parquet shards in one process; those on Ray are in
`test_ray.py`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Thread

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onelook
import waiting_call
from onelook.cli.app import run
from onelook.cluster.place import Place, parse_place
from onelook.cluster.retrying import MOST_ATTEMPTS, run_all
from onelook.cluster.shards import _numbers, _ranges
from onelook.cluster.sources import image_source, list_images
from onelook.cluster.workers import InProcess, LocalProcesses, WorkerLostError
from onelook.errors import ImageError, UsageError, UserError
from onelook.reporter import SilentReporter
from onnx_models import write_model

SHARD = 4


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (None, Place()),
        ("local", Place()),
        ("ray", Place("")),
        ("ray://head", Place("ray://head:10001")),
        ("ray://head:6000,workers=8", Place("ray://head:6000", 8)),
        ("ray,cpus=2,gpus=0.5", Place("", None, 2.0, 0.5)),
    ],
)
def test_a_place_is_read_from_text(text: str | None, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rays", "no place"),
        ("ray://", "no place"),
        ("local,workers=2", "no settings"),
        ("ray,worker=2", "Did you mean 'workers'"),
        ("ray,workers=two", "not a number"),
        ("ray,workers=1.5", "cannot be used"),
        ("ray,cpus=0", "cannot be used"),
    ],
)
def test_a_place_that_cannot_be_used_is_an_error_of_usage(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_place(text)


class LossyCall:
    process = None

    def __init__(self, function, arguments, lost: bool) -> None:
        self.function, self.arguments, self.lost, self.ended = function, arguments, lost, False

    def done(self) -> bool:
        return self.ended

    def result(self):
        if self.lost:
            raise WorkerLostError("killed")
        return self.function(*self.arguments)

    def interrupt(self) -> None:
        self.ended = True


class LossyWorkers(InProcess):
    """Several calls at once, which end in any order; some lose their worker."""

    count = 3

    def __init__(self, seed: int, losses: float) -> None:
        self.rng, self.losses, self.most = Random(seed), losses, 0
        self.submitted: list[LossyCall] = []

    def submit(self, function, *arguments, log=None):
        self.submitted.append(LossyCall(function, arguments, self.rng.random() < self.losses))
        return self.submitted[-1]

    def wait(self, calls, seconds: float) -> None:
        self.most = max(self.most, len(calls))
        self.rng.choice(calls).ended = True


@given(st.integers(0, 40), st.integers(0, 9))
def test_every_task_ends_once_although_workers_are_lost(count: int, seed: int) -> None:
    workers, found = LossyWorkers(seed, 0.1), {}

    def begin(number: int, value: int) -> LossyCall:
        return workers.submit(pow, value, 2)

    failed = run_all(workers, iter(enumerate(range(count))), begin, found.__setitem__)
    assert found == {number: number**2 for number in range(count) if number not in failed}
    assert workers.most <= 3 and len(workers.submitted) >= count


def test_a_task_whose_worker_is_always_lost_fails_and_the_others_end() -> None:
    workers, found = LossyWorkers(0, 0.0), []

    def begin(number: int, value: int):
        call = workers.submit(abs, value)
        call.lost = number == 1
        return call

    failed = run_all(workers, iter(enumerate((5, 6, 7))), begin, lambda number, value: found.append(value))
    assert sorted(found) == [5, 7] and "its worker was lost" in failed[1]
    assert len(workers.submitted) == 2 + MOST_ATTEMPTS


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [UserError("a wrong file"), ValueError("a defect"), KeyboardInterrupt()])
def test_an_error_interrupts_the_other_calls(error: BaseException) -> None:
    workers = LossyWorkers(0, 0.0)
    with pytest.raises(type(error)):
        run_all(workers, iter([(0, 1), (1, 2)]), lambda *_: workers.submit(fail, error), lambda *_: None)
    assert len(workers.submitted) == 2 and sum(call.done() for call in workers.submitted) == 2


def test_a_process_has_an_exit_code_and_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with LocalProcesses() as workers:
        ended = workers.submit(waiting_call.main, "3", log=tmp_path / "log")
        waiting = workers.submit(waiting_call.main, "wait")
        assert ended.result() == 3 and (tmp_path / "log").read_text() == "began\n" and not waiting.done()
        waiting.interrupt()
        assert waiting.result() == -signal.SIGTERM and waiting.process


@given(st.sets(st.integers(0, 60)))
def test_numbers_are_kept_as_ranges(numbers: set[int]) -> None:
    assert _numbers(_ranges(numbers)) == numbers


# --- images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, a damaged one among them, and a video, in a folder with a subfolder."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (folder / "b").mkdir()
    for number in range(10):
        name = f"b/{number}.png" if number > 6 else f"{number}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (40 + number, 60, 3), np.uint8))
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    (folder / "clip.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small.onnx")


def names_of(paths: list[str]) -> list[str]:
    return [os.path.basename(path) for path in paths]


EXPECTED = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "clip.mp4", "7.png", "8.png", "9.png"]


def test_relative_names_are_the_same_images_for_a_worker_in_another_folder(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    for name in ("b/*.png", "b", "b/7.png"):
        assert [path for path in list_images([name]) if path.endswith("7.png")] == [f"{images}/b/7.png"]


def test_images_of_a_folder_a_pattern_and_a_list_are_found(images: Path, tmp_path: Path) -> None:
    assert names_of(list(list_images([str(images)]))) == EXPECTED
    assert names_of(list(list_images([str(images / "b" / "*.png"), f"file://{images}/1.png"]))) == [
        *EXPECTED[-3:],
        "1.png",
    ]
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two\n{images}/2.png\n\ns3://bucket/a.png\nbeside.png\n")
    assert list(list_images([str(listed)])) == [f"{images}/2.png", "s3://bucket/a.png", f"{tmp_path}/beside.png"]
    assert not list(itertools.islice(list_images([str(images)], leave_out=str(images / "b")), 8, None))


@pytest.mark.parametrize("name", ["missing", "*.gif", "empty"])
def test_a_name_that_stands_for_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"does not exist|no images"):
        list(list_images([str(tmp_path / name)]))


def test_videos_and_raw_files_are_sources_with_an_error() -> None:
    assert "is a video" in str(image_source("s3://bucket/a.mp4").error)
    assert "not read" in str(image_source("s3://bucket/a.nef").error)
    assert image_source("s3://bucket/a.jpg").error is None


def detect(model: Path, sources: object, out: object, **settings: object) -> onelook.ShardsResult:
    settings = {"on": "local", "shard_size": SHARD, "threads": 1, "reporter": SilentReporter(), **settings}
    return onelook.detect_shards(model, sources, out, **settings)


def rows_of(folder: Path) -> list[dict]:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(folder / "detections").to_pylist()


def test_shards_hold_what_detect_finds_and_errors_are_rows(images: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = detect(model, images, tmp_path)
    rows = rows_of(tmp_path)
    assert names_of([row["source"] for row in rows]) == EXPECTED
    assert (result.images, result.errors, result.shards, result.exit_code) == (11, 2, 3, 0)
    loaded = onelook.load(model, threads=1)
    for row in rows:
        if row["error"] is not None:
            assert names_of([row["source"]])[0] in ("3.png", "clip.mp4") and row["boxes"] is None
            continue
        found = loaded.detect(row["source"])
        assert row["boxes"] == found.boxes.tolist() and row["scores"] == found.scores.tolist()
        assert row["labels"] == found.labels.tolist() and row["classes"] == found.names
        assert (row["height"], row["width"]) == found.size and row["model"].startswith("sha256:")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["complete"] and summary["detections"] == result.detections == sum(
        len(r["scores"] or ()) for r in rows
    )


def test_the_same_call_makes_only_what_is_missing(images: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    detect(model, images, tmp_path)
    before = rows_of(tmp_path)
    shards = sorted((tmp_path / "detections").iterdir())
    times = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    result = detect(model, images, tmp_path)
    assert (result.images, result.new_images) == (11, SHARD) and rows_of(tmp_path) == before
    assert [shards[0].stat().st_mtime_ns, shards[2].stat().st_mtime_ns] == times[::2]
    (tmp_path / "summary.json").write_text("damaged")
    assert detect(model, images, tmp_path).to_dict() | {"seconds": 0} == result.to_dict() | {
        "seconds": 0,
        "new_images": 0,
    }


def test_other_settings_and_other_models_are_refused(images: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    detect(model, images, tmp_path)
    with pytest.raises(UserError, match=r"holds other work: postprocessing, iou was 0\.45, now 0\.5\."):
        detect(model, images, tmp_path, iou=0.5)
    other = write_model(tmp_path / "other.onnx", batch=2)
    with pytest.raises(UserError, match="holds other work: model was sha256"):
        detect(other, images, tmp_path)


def test_sources_and_results_may_be_in_an_object_store(images: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(f"{images}/", "/photos/", recursive=True)
    result = detect(model, "memory://photos", "memory://found")
    detect(model, images, tmp_path)
    assert (result.images, result.errors) == (11, 2)
    for shard in sorted(path.name for path in (tmp_path / "detections").iterdir()):
        (tmp_path / shard).write_bytes(store.cat_file(f"/found/detections/{shard}"))
        parquet = pytest.importorskip("pyarrow.parquet")
        ours, local = parquet.read_table(tmp_path / shard), parquet.read_table(tmp_path / "detections" / shard)
        assert ours.drop_columns(["source", "error"]).equals(local.drop_columns(["source", "error"]))
    assert detect(model, "memory://photos", "memory://found").new_images == 0


class QuietHandler(SimpleHTTPRequestHandler):
    """Writes no line for a request."""

    def log_message(self, *_: object) -> None:
        """Nothing is written."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_images_are_fetched_from_a_web_server(images: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("aiohttp")
    with serving(images) as address:
        (tmp_path / "list.txt").write_text(f"{address}/1.png\n{address}/missing.png\n{address}/b/8.png\n")
        result = detect(model, tmp_path / "list.txt", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert result.errors == 1 and "does not exist" in rows[1]["error"]
    assert rows[2]["boxes"] == onelook.load(model, threads=1).detect(images / "b" / "8.png").boxes.tolist()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "Give --out"),
        (("--out", "x", "--format", "csv"), "--format cannot be used with --on"),
        (("--out", "x", "--track", "bytetrack"), "--track cannot be used with --on"),
        (("--out", "x", "--shard-size", "0"), "shard_size is 0"),
    ],
)
def test_what_shards_cannot_do_is_said(flags: tuple[str, ...], said: str, model: Path, capsys) -> None:
    assert run(["detect", "photos", "--model", str(model), "--on", "local", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_command() -> None:
    """Also where Ray is installed: an import of it fails in this process."""
    code = (
        "import sys; sys.modules['ray'] = None; import onelook.cluster.ray_workers as r, contextlib as c\n"
        "from onelook.errors import UserError\n"
        "try: r.connect(r.Place(''), c.ExitStack(), None)\n"
        "except UserError as error: print(error)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
    )
    assert b"needs the package 'ray'" in ended.stdout and b"[scale]" in ended.stdout
