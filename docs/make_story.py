"""Writes docs/story.md and story.jpg, from labelled images to a served detector: make story WEIGHTS=yolox_nano.onnx

Needs the official ONNX file of YOLOX-Nano, and takes some minutes: every command of the page is run, and what it
prints stands on the page, shortened, with its time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "story.md"
IMAGE = ROOT / "docs" / "story.jpg"
PORT = 8000  # on the page; a free one is taken
FIRST_LINES, LAST_LINES = 12, 7  # of an output; what is between is left out
DATA = "onelook demo --data-only shapes --images 240 --size 160 --seed 7"
WEIGHTS = "yolox_nano.onnx"
TRAIN = (
    f"onelook train mine --model yolox-nano --weights {WEIGHTS} --size 160 --batch 8 --epochs 8 "
    "--out runs/shapes multiscale=none"
)

INTRODUCTION = """# From labelled images to production

One piece of work with every command, what it printed and how long it took: labelled images come in a zip file, and in
the end a watched server answers requests. So that you can repeat it, the images are drawn: `{data}` makes them, with
three kinds of objects. Those to train on were zipped with their annotations, and a few others, of later, without.
With photographs it is the same, only larger.

Made by `make story` on {date}, with Onelook {version}, PyTorch {torch} and {cores} cores of an {processor} without a
GPU, which other programs used at the same time. Your times and the last digits of your figures will differ.
"""


@dataclass(frozen=True)
class Step:
    """A part of the page: a title, a text, and commands that are run in the folder of the story.

    after: a text below them.
    """

    title: str
    text: str
    commands: tuple[str, ...]
    after: str = ""


STEPS = (
    Step(
        "What came",
        "A zip file of images with COCO annotations. `check` lists every problem by file and line before any time "
        "is spent on it, and says "
        "how many objects of which size there are.",
        ("python -m zipfile -e shapes.zip .", "onelook check shapes"),
        "No errors. Another format, such as YOLO text or LabelMe, would have been found by its content just the "
        "same: [Data sets](data.md).",
    ),
    Step(
        "Train, validation and test",
        "The images are not divided. The division keeps near-duplicates and the frames of one sequence on one "
        "side; the images stay where they "
        "are ([Dividing a data set](data_split.md)).",
        ("onelook split shapes --val 0.2 --test 0.1 --out mine",),
    ),
    Step(
        "Looking at it",
        "One page, without a server, with all boxes, filters and charts ([Seeing a data set](view.md)).",
        ("onelook view mine --out mine.html",),
    ),
    Step(
        "Training",
        "Official weights, downloaded once, know what objects look like: a few epochs are enough for new classes. "
        "`onelook models yolox-nano` prints "
        "where they are; here it is the authors' ONNX file. The recipe is the published one, but with one input "
        "size, that of the images. A wrong name of a "
        "setting would be an error before the first epoch. `first_batch.jpg` in the run's folder shows the images "
        "with their boxes as the network "
        "gets them: look at it.",
        (TRAIN,),
        "Ctrl-C would stop it, and `--resume` go on. `report.html` in the folder has the curves "
        "([Training](training.md)).",
    ),
    Step(
        "Is it good?",
        "On the test images, which neither the training nor the choice of its best epoch has seen. The report "
        "shows thresholds, kinds of error "
        "and the worst images.",
        ("onelook val mine --model runs/shapes --split test --report test.html",),
    ),
    Step(
        "What it sees",
        "Images that came later:",
        ("onelook detect shapes/new --model runs/shapes --out found --format json,images",),
        "![Detections in four of the new images](story.jpg)\n\n*Four of these images, enlarged.*",
    ),
    Step(
        "One file for production",
        "The exported file runs without PyTorch. It is written only after its outputs agree with those of the "
        "weights, and evaluated as they were "
        "([Deployment](deployment.md)).",
        (
            "onelook export --model runs/shapes --to onnx --nms --out shapes.onnx",
            "onelook val mine --model shapes.onnx --split test",
            "onelook bench model shapes.onnx --threads 1",
        ),
    ),
)

SERVING = """
## Serving and watching

`onelook serve shapes.onnx --port 8000` answers over HTTP until SIGTERM or Ctrl-C ([Serving](serving.md)). A request:

{request}

Prometheus reads `/metrics`; [alert rules](../docker/alerts.yml) and manifests for containers are in the repository.
After ten requests:

{metrics}

On SIGTERM it finished what was in work and ended with exit code {code}.

## How long it took

| step | seconds |
|---|--:|
{times}
"""
REQUEST = "curl -s --data-binary @shapes/new/000002.jpg http://127.0.0.1:8000/v1/detect?threshold=0.5"
METRICS = "curl -s http://127.0.0.1:8000/metrics"
WATCHED = re.compile(r"onelook_(requests_total|queue_images|model_ready|stage_seconds_(sum|count))\b(?!.*decode)")


def page(folder: Path) -> str:
    """Runs the whole story in a folder that has the weights; returns the page, and leaves story.jpg there."""
    make_zip(folder)
    parts, times = [introduction()], []
    for step in STEPS:
        parts.append(f"\n## {step.title}\n\n{step.text}\n")
        began = time.monotonic()
        parts += [f"\n{run(command, folder)}\n" for command in step.commands]
        times.append((step.title, time.monotonic() - began))
        parts.append(f"\n{step.after}\n" if step.after else "")
    draw(folder)
    parts.append(serve(folder, times))
    return "".join(parts)


def make_zip(folder: Path) -> None:
    """The zip file that the story begins with: the images to train on with their annotations, and images of later."""
    output_of(DATA, folder)
    shutil.rmtree(folder / "shapes" / "val")
    for split in ("val", "new"):
        (folder / "shapes" / "annotations" / f"instances_{split}.json").unlink()
    shutil.make_archive(str(folder / "shapes"), "zip", folder, "shapes")
    shutil.rmtree(folder / "shapes")


def introduction() -> str:
    import torch

    from onelook.devices import processor_name
    from onelook.version import __version__

    return INTRODUCTION.format(
        data=DATA,
        date=datetime.date.today().isoformat(),
        version=__version__,
        torch=torch.__version__.partition("+")[0],
        cores=os.cpu_count(),
        processor=processor_name(),
    )


def run(command: str, folder: Path) -> str:
    """Runs a command and returns it as a block of the page, with its output."""
    return block(command, output_of(command, folder))


def output_of(command: str, folder: Path) -> str:
    """Runs a command of Onelook or Python; its output as it is written to a file, SystemExit where it fails."""
    arguments = shlex.split(command.removeprefix("python -m "))
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"error: {command}\n{done.stdout}")
    return done.stdout.replace(f"{os.path.realpath(folder)}/", "").replace(f"{folder}/", "")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "110", "NO_COLOR": "1"}


def block(command: str, output: str) -> str:
    """A command with its output, of which long ones lose their middle."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if len(lines) > FIRST_LINES + LAST_LINES + 1:
        lines = [*lines[:FIRST_LINES], "...", *lines[-LAST_LINES:]]
    return "\n".join(["```console", f"$ {command}", *lines, "```"])


def draw(folder: Path) -> None:
    """Four of the images with detections, side by side, as story.jpg."""
    import cv2
    import numpy as np

    paths = sorted((folder / "found" / "images").rglob("*.jpg"))[:4]
    images = [cv2.resize(cv2.imread(str(path)), (400, 400), interpolation=cv2.INTER_CUBIC) for path in paths]
    cv2.imwrite(str(folder / IMAGE.name), np.hstack(images), [cv2.IMWRITE_JPEG_QUALITY, 88])


def serve(folder: Path, times: list[tuple[str, float]]) -> str:
    """Serves the exported file, sends requests, reads the metrics, ends the server."""
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "onelook", "serve", "shapes.onnx", "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
        try:
            wait_until_ready(port)
            answers = [curl(REQUEST, port, folder) for _ in range(10)]
            metrics = [line for line in curl(METRICS, port, folder).splitlines() if WATCHED.match(line)]
        finally:
            server.terminate()
            code = server.wait(60)
    times.append(("Serving and watching", time.monotonic() - began))
    rows = "\n".join(f"| {title} | {seconds:.0f} |" for title, seconds in times)
    request, watched = block(REQUEST, answers[0]), block(f"{METRICS} | grep onelook_", "\n".join(metrics))
    return SERVING.format(request=request, metrics=watched, code=code, times=rows)


def wait_until_ready(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("error: the server was not ready within two minutes")


def has_curl() -> bool:
    return shutil.which("curl") is not None


def curl(command: str, port: int, folder: Path) -> str:
    arguments = shlex.split(command.replace(f":{PORT}/", f":{port}/"))
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help=f"{WEIGHTS} of the authors' release")
    weights = parser.parse_args(arguments).weights
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(weights, Path(folder) / WEIGHTS)
        text = page(Path(folder))
        PAGE.write_text(text, encoding="utf-8")
        shutil.copyfile(Path(folder) / IMAGE.name, IMAGE)
    print(f"wrote {PAGE.relative_to(ROOT)}, {IMAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main(sys.argv[1:])
