"""How a test runs the commands of a page: cut short, in this process or as a server, and what each leaves behind."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from network_cameras import NetworkCamera
from onelook.cli.app import run
from page_placeholders import CLASSES, TREES, Shelf, long_video
from serve_command import serving_command

# What stands on the pages for a reader's own words and places, and numbers that are left open.
WORDS = {
    "NAME": "yolox-s",
    "NAME|FILE": "nano.onnx",
    "MODEL": "nano.onnx",
    "DATA": "data",
    "DIR": "drawn",
    "...": "nano.onnx",
    "seed=N": "seed=1",
}
NETWORK_CAMERA = "rtsp://camera.local/stream"
OUTPUTS = ("--out", "--report", "--json", "--draw", "--data-only", "--detections")
OUTPUTS += ("--suspects-coco", "--suspects-cvat", "--suspects-label-studio")
UNDIVIDED = r"^split |--val-fraction|undivided|--merge car,truck,bus=vehicle"  # what needs images without a split `val`
NAMES = ((r"persn=person", ("persn", "unclear", "car")), (r"trees|deepforest", TREES))  # what needs other classes
NO_FILES = ("--only", "--classes", "--merge", "--rename", "--drop", "--format", "--on", "--shard", "--scale")
_TRAINING = {"--epochs": "1", "--size": "64", "--batch": "4", "--workers": "0", "--device": "cpu"}
SHORT: dict[str, dict[str, str | None]] = {  # options by verb, which replace those of the page; None is for a flag
    "train": _TRAINING,
    "tune": {**_TRAINING, "--trials": "2"},
    "roadmap": {**_TRAINING, "--seeds": "1", "--rows": "1,2"},
    "search": {"--evaluations": "200", "--size": "64", "--processes": "1"},
    "demo": {"--epochs": "1", "--images": "16", "--size": "64"},
    "bench": {"--runs": "2", "--warm-up": "1", "--size": "64"},
    "compare": {"--runs": "3", "--resamples": "100", "--batch": "1", "--without-memory": None},
    "stream": {"--runs": "3", "--sizes": "64"},
    "val": {"--size": "64"},
    "detect": {"--size": "64"},
    "export": {"--size": "64"},
}
IN_USE = re.compile(r"error: '([^']+)' (?:exists already\.|holds (?:a|another) )")
EXPORTED = r"\.(onnx|xml|param)\b"


@dataclass(frozen=True)
class Unable:
    """Commands that cannot do their work here, and end with an error instead.

    pattern: finds them.  reason: why.  said: what the error says.  packages: they can where all of these are installed;
    () is never.  runs: whether they are run then; else the tests that `reason` names do it.
    """

    pattern: str
    reason: str
    said: str
    packages: tuple[str, ...] = ()
    runs: bool = True

    @property
    def is_installed(self) -> bool:
        """Whether all packages are there."""
        return bool(self.packages) and all(find_spec(name) is not None for name in self.packages)


MISSING = r"needs the package '(openvino|ncnn|pnnx|nncf)'|'yolox-nano\.xml' does not exist"
UNABLE = (
    Unable(
        r"(s3|gs)://",
        "an object store: test_object_stores.py",
        r"\b(s3fs|gcsfs|ray|pyarrow)\b",
        ("s3fs", "ray"),
        runs=False,
    ),
    Unable(
        r"--on ray", "a Ray cluster: test_ray.py, test_ray_cluster.py", "package '(ray|pyarrow)'", ("ray",), runs=False
    ),
    Unable(r"--int8", "a trained model: test_int8_openvino.py", MISSING, ("openvino", "nncf"), runs=False),
    Unable(r"openvino|\bnano\.(xml|ncnn\.param)", "exports", MISSING, ("openvino", "ncnn", "pnnx")),
    Unable(r"parquet", "Parquet files", "needs the package 'pyarrow'", ("pyarrow",)),
    Unable(r"^tune .*--budget", "TPE, of Optuna", "needs the package 'optuna'", ("optuna",)),
    Unable(
        r"^check deepforest$", "the folder above the data set, as the page tells", "There is one in its folder 'data'"
    ),
    Unable(r"^val demo ", "weights trained on the demo's images: test_demo.py", "no class in common"),
    Unable(r"^bench .*--half", "float16 is computed on a GPU", "GPU"),
)


class Camera:
    """The camera with number 0, which shows the same frame without end."""

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None: ...

    def grab(self) -> bool:
        time.sleep(1 / 30)
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((48, 64, 3), 230, np.uint8)

    def read(self) -> tuple[bool, np.ndarray]:
        return self.grab(), self.retrieve()[1]


@dataclass
class Page:
    """Runs the commands of one page, in the current folder.

    anchors: the setting that the page's last command `anchors` has printed.  unable: what could not be run.  moved:
    files and folders of the default names that several commands of the page have.
    """

    name: str
    shelf: Shelf
    anchors: str | None = None
    unable: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    def run(self, command: tuple[str, ...]) -> None:
        """Runs one command of the page; AssertionError where it does not do what the page says."""
        if all(word.startswith("--") for word in command[1:]):  # it reads nothing, and is the same on every page
            if command in self.shelf.once:
                return
            self.shelf.once.add(command)
        words = self.shortened([self.own_word(word, before) for before, word in zip(("", *command), command)])
        line = shlex.join(words)
        unable = next((one for one in UNABLE if re.search(one.pattern, line)), None)
        if unable is not None and unable.is_installed:
            if not unable.runs:
                self.unable.append(line)
                return
            unable = None
        self.make_placeholders(words)
        if (words[0] == "serve" and len(words) > 1) or "--serve" in words:
            self.ask_server(words)
            return
        code, said = self.output_of(words)
        if code == 1 and (taken := IN_USE.search(said)):  # by an alternative that stands above on the page
            shutil.move(taken[1], f"{taken[1]}-before-{len(self.moved)}")
            self.moved.append(taken[1])
            code, said = self.output_of(words)
        shown = f"{self.name}: onelook {line}\nexit code {code}\n{said}"
        assert "Traceback" not in said and "failed unexpectedly" not in said, shown
        if unable is not None:
            assert code in (1, 2) and said.count("error: ") == 1 and re.search(unable.said, said), shown
            self.unable.append(line)
        elif code == 2 and len(command) < 3:  # a sentence speaks of the command, or of an option of it
            assert re.search(r"error: .*( needs |The budget is missing|There is no model)", said), shown
        else:
            assert code == 0, shown
            for option, value in itertools.pairwise(words):
                assert option not in OUTPUTS or Path(value).exists(), f"{value} was not written\n{shown}"
        if "--start" in words:
            remove(Path("clip.mp4"))  # other commands need a short video
        if words[0] == "anchors":
            found = re.search(r"model\.anchors=\S.*?\)\)\)", said.replace("\n", " "))
            self.anchors = found[0] if found else None

    def own_word(self, word: str, before: str) -> str:
        """A word of the page with a name in place of what stands for one, and places inside of the folder."""
        if word == "FILE":
            return "yolox_s.pth" if before == "--weights" else "nano.onnx"
        if word == before == "MODEL":
            return "other.onnx"  # two models to compare
        if word.startswith("model.anchors=") and "..." in word:
            assert self.anchors is not None, "no command before it has printed anchors"
            return self.anchors
        name, sign, value = word.rpartition("=")
        if sign and value == "...":
            return f"{name}={name}.onnx"  # models to compare, which must be several
        if sign and value in WORDS:
            return f"{name}={WORDS[value]}"
        return re.sub(r"^/(?=data/|shared/)", "", WORDS.get(word, word))

    def shortened(self, words: list[str]) -> list[str]:
        """The command with options and settings that make it short."""
        line = " ".join(words)
        for option, value in limits_of(words).items():
            if option in words:
                if value is not None:
                    words[words.index(option) + 1] = value
            else:
                words += [option] if value is None else [option, value]
        if words[0] == "train":
            words += narrow(line)
        if words[0] == "detect" and (words[1:2] == ["0"] or NETWORK_CAMERA in words):
            words += ["--end", "1"]
        return [re.sub(r"^(pretraining|closing)\.epochs=\d+$", r"\1.epochs=1", word) for word in words]

    def make_placeholders(self, words: Sequence[str]) -> None:
        """What the command reads and nothing before it has made; what it writes is removed."""
        verb, before, line = words[0], "", shlex.join(words)
        undivided = re.search(UNDIVIDED, line) is not None
        names = next((names for pattern, names in NAMES if re.search(pattern, line)), CLASSES)
        goes_on = {"--resume", "--auto-resume", "--overwrite", "--shard", "--run-times"} & set(words)
        if verb == "detect" and "--out" not in words:
            shutil.rmtree("runs/detect", ignore_errors=True)  # those of alternatives that stand above on the page
        if "--start" in words:
            remove(Path("clip.mp4"))
            long_video(Path("clip.mp4"))
        for word in words[1:]:
            option, before = before, word if word.startswith("--") else ""
            if option in OUTPUTS and (verb, option) != ("view", "--detections") and not (option == "--out" and goes_on):
                remove(Path(word))
            elif option not in NO_FILES:
                for part in re.split(r"[=,]", word):
                    self.shelf.provide(part.rstrip("/"), names, undivided=undivided)

    def output_of(self, words: Sequence[str]) -> tuple[int, str]:
        """Runs a command in this process: its exit code, and what it printed."""
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            if NETWORK_CAMERA in words:
                camera = stack.enter_context(NetworkCamera())
                words = [camera.address if word == NETWORK_CAMERA else word for word in words]
            real = cv2.VideoCapture
            opened: Any = lambda place, *more: Camera() if place == 0 else real(place, *more)  # noqa: E731
            stack.enter_context(mock.patch.object(cv2, "VideoCapture", opened))
            stack.enter_context(contextlib.redirect_stdout(output))
            stack.enter_context(contextlib.redirect_stderr(output))
            code = run(list(words))
        return code, output.getvalue()

    def ask_server(self, words: Sequence[str]) -> None:
        """Starts a command that serves, asks for what a reader would, and ends it by a signal."""
        words = [word for place, word in enumerate(words) if "--port" not in words[max(place - 1, 0) : place + 1]]
        with serving_command(*words) as (address, process):
            if words[0] == "serve":
                self.shelf.provide("photo.jpg")
                data = Path("photo.jpg").read_bytes()
                with urllib.request.urlopen(f"{address}/v1/detect?threshold=0.5", data, timeout=60) as answer:
                    assert b'"detections"' in answer.read()
            else:
                with urllib.request.urlopen(f"{address}/", timeout=60) as answer:
                    assert b"<html" in answer.read()
            process.send_signal(signal.SIGTERM if words[0] == "serve" else signal.SIGINT)
            said, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 130) and "Traceback" not in said, said


def limits_of(words: Sequence[str]) -> dict[str, str | None]:
    """The options of `SHORT` that the command can have."""
    verb, line = words[0], " ".join(words)
    limits = dict(SHORT.get(verb, {}))
    left_out: set[str] = set()
    if (len(words) < 2 and verb != "demo") or (verb == "roadmap" and not re.match(r"roadmap [\w-]+ [^-]", line)):
        return {}
    if "--resume" in words:
        limits |= {"--evaluations": "300"} if verb == "search" else {}  # more than before
        left_out |= set(limits) - {"--workers", "--evaluations", "--trials"}  # all else is as it was
    if verb == "train" and "--budget" in words:
        limits["--budget"] = "20s"
        left_out.add("--epochs")
    if "--on" in words:
        left_out.add("--processes")
    if "--data-only" in words:
        left_out.add("--epochs")
    if verb == "roadmap" and "--scale" not in words:
        limits["--scale"] = "depth=0.33,width=0.125"
    is_small = "--weights" not in words and not re.search(r"--model \S+\.(pth|pt|weights)\b", line)
    if verb in ("val", "detect", "export") and (is_small or "darknet" in words):
        left_out.add("--size")  # of exported files and runs
    if verb == "bench" and re.search(EXPORTED, line):
        left_out.add("--size")
    if verb == "stream" and "--sizes" not in words:
        left_out.add("--sizes")
    return {option: value for option, value in limits.items() if option not in left_out}


def narrow(line: str) -> list[str]:
    """Settings that make a large network of a training from scratch narrow."""
    large = re.search(r"--(?:model|recipe) (yolox-s|yolox-table2|yolov4|yolov7)(?!\w|-tiny)", line)
    from_file = re.search(r"--weights (?!runs/)", line) or "--resume" in line
    if large is None or from_file or "model.width" in line:
        return []
    network = "model.network" if re.match(r"train (images|classes|crops)\b", line) else "model"
    return [f"{network}.width_multiple=0.125" if large[1] == "yolov7" else f"{network}.width=0.125"]


def remove(path: Path) -> None:
    """Removes a file or folder, where it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """A terminal of a fixed width without colours."""
    with mock.patch.dict(os.environ, {"COLUMNS": "150", "NO_COLOR": "1", "TERM": "dumb"}):
        yield
