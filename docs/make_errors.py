"""Writes docs/errors.md, the errors of a user with cause and remedy: python docs/make_errors.py

Every mistake of the page is made, in a folder of its own, and what is said stands on the page as it was said.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"

WEIGHTS = "runs/first/best.safetensors"  # of a detector that was not trained

NOTES = ("The index of the data is kept", "Computing with")  # depend on the machine

INTRODUCTION = """# Errors and remedies

Made by `python docs/make_errors.py`, which makes each mistake and writes down what is said; a test compares both.

A user's mistake is one message: what is wrong, with file, line, key or id, and below it what to do. It has no
traceback; `--debug` shows that. The exit code is 2 where the command line or a setting is wrong, and 1 where the work
failed. In Python, the same message is an `onelook.UserError` with the fields `message` and `remedy`; its subclasses
and all functions are on the page [Python](api.md).

On this page `shapes/` is a small COCO data set, `photo.jpg` an image, and `runs/first` the folder of a training. Long
messages are cut with "...".
"""


def nothing() -> None:
    """For mistakes that need no files of their own."""


@dataclass(frozen=True)
class Mistake:
    """A wrong command, and why it is wrong.

    prepare: makes the files that the command needs, in the current folder.
    """

    title: str
    command: str
    cause: str
    prepare: Callable[[], None] = nothing


def write(place: str, text: str | bytes) -> Callable[[], None]:
    """Makes a function that writes one file."""

    def prepare() -> None:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return prepare


def edit_annotations(change: Callable[[dict], None]) -> Callable[[], None]:
    """Makes a function that changes the training annotations of shapes/."""

    def prepare() -> None:
        path = Path("shapes/annotations/instances_train.json")
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return prepare


def pixels_in_yolo() -> None:
    for split in ("train", "val"):
        shutil.copytree(f"shapes/{split}", f"yolo/images/{split}")
        for path in Path(f"yolo/images/{split}").iterdir():
            write(f"yolo/labels/{split}/{path.stem}.txt", "0 40 40 20 20\n")()
    write("yolo/data.yaml", "train: images/train\nval: images/val\nnames: [ball]\n")()


def no_area(content: dict) -> None:
    content["annotations"][0] |= {"bbox": [10, 10, 0, 5], "segmentation": []}


def unknown_class(content: dict) -> None:
    content["annotations"][0]["category_id"] = 77


SECTIONS: dict[str, tuple[Mistake, ...]] = {
    "Models and weights": (
        Mistake(
            "The name of a model is unknown",
            "onelook detect photo.jpg --model yolox-smal",
            "A misspelt name. `onelook models` lists all names.",
        ),
        Mistake(
            "A model has no weights",
            "onelook detect photo.jpg --model yolox-nano",
            "The package contains no weights, and fetches none. Download the official file once and name it, or "
            "give the "
            "folder of a training as the model.",
        ),
        Mistake(
            "The weights are an address",
            "onelook detect photo.jpg --model https://example.org/yolox_s.pth",
            "Weights are read from files.",
        ),
        Mistake(
            "The weights file does not exist",
            "onelook detect photo.jpg --model yolox-nano --weights yolox_nano.pth",
            "The path is wrong, or the file was not downloaded.",
        ),
        Mistake(
            "The downloaded file is a web page",
            "onelook detect photo.jpg --model yolox-nano --weights yolox_nano.pth",
            "The address led to a page about the file, not to the file, as with a link to GitHub's view of it.",
            write("yolox_nano.pth", "<!DOCTYPE html><html><body>404</body></html>"),
        ),
        Mistake(
            "The file is none that holds weights",
            "onelook detect photo.jpg --model yolox-nano --weights notes.txt",
            "What a file is, is found by its content; its name does not count.",
            write("notes.txt", "the weights are on the other disk\n"),
        ),
        Mistake(
            "A run is not found",
            "onelook val shapes --model runs/fisrt",
            "A misspelt folder.",
        ),
        Mistake(
            "A run has no weights yet",
            "onelook val shapes --model runs/stopped",
            "Weights are written at the end of an epoch; this training was stopped before.",
            write("runs/stopped/recipe.yaml", ""),
        ),
        Mistake(
            "The weights are another model's",
            "onelook detect photo.jpg --model yolox-s --weights runs/first/best.safetensors",
            "The file says what it is of. Leave `--model` out of it: the file or the run's folder alone is a model.",
        ),
        Mistake(
            "An exported file is damaged",
            "onelook detect photo.jpg --model model.onnx",
            "A download or a copy that was interrupted.",
            write("model.onnx", b"\x08\x08\x12\x07broken"),
        ),
    ),
    "Images and other sources": (
        Mistake("A source does not exist", "onelook detect foto.jpg --model yolox-nano", "The path is wrong."),
        Mistake(
            "No file is an image",
            "onelook detect notes --model yolox-nano",
            "The folder was found, and no file in it has a suffix of images or videos.",
            write("notes/readme.txt", "nothing to see\n"),
        ),
        Mistake(
            "A run's folder holds results already",
            "onelook detect photo.jpg --model runs/first --out found",
            "Results are never replaced silently.",
            write("found/detections.jsonl", ""),
        ),
    ),
    "Data sets": (
        Mistake("The data set does not exist", "onelook check shape", "The path is wrong."),
        Mistake(
            "No format is recognised",
            "onelook check photos",
            "The folder has images and no annotations, or their layout is none of those of [Data sets](data.md).",
            write("photos/a.txt", "nothing\n"),
        ),
        Mistake(
            "An annotation file is no JSON",
            "onelook check shapes",
            "A file that was cut off or edited by hand.",
            write("shapes/annotations/instances_train.json", '{"images": [\n  {"id": 1,,'),
        ),
        Mistake(
            "An annotation has an unknown class",
            "onelook check shapes",
            "`category_id` is none of the ids in `categories`.",
            edit_annotations(unknown_class),
        ),
        Mistake(
            "An image file is missing",
            "onelook check shapes",
            "The annotations name a file that is not in the folder of its split.",
            lambda: Path("shapes/train/000000.jpg").unlink(),
        ),
        Mistake(
            "An image cannot be decoded",
            "onelook check shapes",
            "A file that was cut off, or that is no image.",
            lambda: Path("shapes/train/000000.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more"),
        ),
        Mistake(
            "Boxes of YOLO text are in pixels",
            "onelook check yolo",
            "YOLO text has centres and sizes as parts of the image, from 0 to 1.",
            pixels_in_yolo,
        ),
        Mistake(
            "A box has no area",
            "onelook check shapes",
            "Width or height is 0, or the box lies outside of its image. It is no object; the training leaves it out.",
            edit_annotations(no_area),
        ),
        Mistake(
            "A format is written into a folder that is there",
            "onelook convert shapes --to yolo --out runs",
            "A data set is written into a new folder, so that it never mixes with another.",
        ),
        Mistake(
            "A detection is of an image that the annotations lack",
            "onelook score shapes/annotations/instances_val.json found.json",
            "Results and annotations are of different data sets or splits.",
            write("found.json", '[{"image_id": 900, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'),
        ),
        Mistake(
            "A split does not exist",
            "onelook val shapes --model runs/first --split tset",
            "A misspelt split.",
        ),
    ),
    "Settings of a training": (
        Mistake(
            "A setting does not exist",
            "onelook train shapes --model yolox-nano loss.assigner.radus=2.0",
            "A misspelt setting. [All settings](settings_reference.md) lists them.",
        ),
        Mistake(
            "A setting has another type",
            "onelook train shapes --model yolox-nano epochs=ten",
            "Values are checked against the type of their field.",
        ),
        Mistake(
            "A setting is out of range",
            "onelook train shapes --model yolox-nano ema.decay=1.5",
            "Values are checked when the recipe is made, not in the first epoch that uses them.",
        ),
        Mistake(
            "A part does not exist",
            "onelook train shapes --model yolox-nano loss.assigner=SimOtta",
            "A misspelt class name.",
        ),
        Mistake(
            "An option is taken for a setting",
            "onelook train shapes --model yolox-nano batch=8",
            "Options begin with two dashes; settings are fields of the recipe.",
        ),
        Mistake(
            "A recipe file is no recipe",
            "onelook train shapes --recipe mine.yaml",
            "Recipe files are those that a training writes, `recipe.yaml` in its folder.",
            write("mine.yaml", "lr: 0.01\nepochs: 50\n"),
        ),
        Mistake(
            "The size does not fit the network",
            "onelook train shapes --model yolox-nano --size 100",
            "Sides of the input are multiples of the coarsest stride.",
        ),
    ),
    "The command line": (
        Mistake("A command does not exist", "onelook detekt photo.jpg", "A misspelt command."),
        Mistake("An option does not exist", "onelook train shapes --model yolox-nano --epoch 3", "A misspelt option."),
        Mistake(
            "An option has the wrong type",
            "onelook detect photo.jpg --model yolox-nano --confidence high",
            "The option takes a number.",
        ),
        Mistake(
            "A choice does not exist",
            "onelook export --model runs/first --to tflite",
            "The targets are those of [Deployment](deployment.md); TensorFlow Lite's successor is called LiteRT.",
        ),
        Mistake("An argument is missing", "onelook detect photo.jpg", "The command needs to know the model."),
    ),
}

OPTIONAL = """
## A package is not installed

The base installation is small, and parts of the work need packages that it has not. The message names the package and
the command that installs it from where this installation came. These are the packages, by the name of their import,
and the extra that brings them:

"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    with prepared_folder() as base:
        for section, mistakes in SECTIONS.items():
            parts.append(f"\n## {section}\n")
            parts += [entry(mistake, base) for mistake in mistakes]
    return "".join([*parts, OPTIONAL, optional_packages()])


def entry(mistake: Mistake, base: Path) -> str:
    """A mistake as a section of the page; ValueError where it was none."""
    code, said = make(mistake, base)
    if code == 0 and "warning [" not in said:
        raise ValueError(f"no error: {mistake.command}")
    return f"\n### {mistake.title}\n\n```shell-session\n$ {mistake.command}\n{said}\n```\n\n{mistake.cause}\n"


@contextlib.contextmanager
def prepared_folder() -> Iterator[Path]:
    """A temporary folder with what the commands use."""
    import onelook
    from onelook.api.demo import draw_data

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        draw_data(base / "shapes", images=8, size=96)
        shutil.copy(base / "shapes" / "new" / "000000.jpg", base / "photo.jpg")
        (base / "runs" / "first").mkdir(parents=True)
        onelook.save_weights(onelook.build("yolox-nano", classes=("ball", "fish", "flower")), base / WEIGHTS)
        yield base


def make(mistake: Mistake, base: Path) -> tuple[int, str]:
    """Runs a wrong command in a copy of the prepared folder: its exit code, and what it said."""
    from onelook.cli.app import run

    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, working_in(folder), plain_terminal():
        shutil.copytree(base, ".", ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        os.link(base / WEIGHTS, WEIGHTS)
        mistake.prepare()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = run(shlex.split(mistake.command)[1:])
        return code, readable(output.getvalue(), folder)


@contextlib.contextmanager
def working_in(folder: str) -> Iterator[None]:
    """Changes the current folder, as `contextlib.chdir` of Python 3.11."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def plain_terminal() -> Iterator[None]:
    """A terminal of a fixed width without colours, so that the page is equal on every machine."""
    wanted = {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def readable(text: str, folder: str) -> str:
    """What was said without the temporary folder and what is no part of the error; long lines are cut."""
    text = text.replace(f"{os.path.realpath(folder)}/", "").replace(f"{folder}/", "")
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith(NOTES)]
    found = [line for line in lines if line.startswith(("error [", "warning [", "  ... and"))]
    if found:  # of `check`, without the table of the data set
        lines = [*found, lines[-1]]
    return "\n".join(line if len(line) < 330 else f"{line[:300].rpartition(' ')[0]} ..." for line in lines).strip("\n")


def optional_packages() -> str:
    from onelook.errors import EXTRAS

    by_extra: dict[str, list[str]] = {}
    for package, extra in EXTRAS.items():
        if extra:
            by_extra.setdefault(extra, []).append(package)
    rows = [
        f"| {', '.join(f'`{one}`' for one in names)} | `pip install '.[{extra}]'` |"
        for extra, names in by_extra.items()
    ]
    return "\n".join(["| packages | in the folder of the source |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
