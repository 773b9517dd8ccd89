"""What the fuzz run reads: for every reader valid files, and the calls that a command makes with them."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

import data_sets as make
import encoded_images
import onelook
import onnx_models
import parquet_files
from format_examples import PAGES, examples
from hostile_torch import torch_bytes
from onelook.augment.letterbox import Letterbox
from onelook.config import override, to_plain, write_yaml
from onelook.data import open_dataset, splits
from onelook.data.check import check
from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.images import decode_image
from onelook.data.sizes import image_sizes
from onelook.errors import UserError
from onelook.evaluation.annotations import read_ground_truth
from onelook.evaluation.results import read_results
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.model_file import ModelFile, write_model_file
from onelook.networks.variants import variant
from onelook.networks.yolov4.architecture import TINY
from onelook.networks.yolox.architecture import Yolox
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.sources import find_sources
from onelook.predict.video import read_video
from onelook.recipes import default_recipe, read_recipe
from onelook.reporter import SilentReporter
from onelook.streaming.run_times import RunTimes
from onelook.tracking.mot import read_mot
from onelook.weights import load_weights, read_checkpoint, restore, save_weights
from onelook.weights.darknet import write_darknet

MOST_FRAMES = 64


@dataclass(frozen=True)
class Target:
    """Files of one kind.

    files: by their names, valid.  damaged: names of those that are mutated.  read: reads them in a folder; raises
    UserError, or what is a finding.
    """

    files: Mapping[str, bytes]
    damaged: tuple[str, ...]
    read: Callable[[Path], object]


def files_of(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that a function writes into a folder, by name."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def read_data(root: Path) -> None:
    """What `check` and a training do with a data set."""
    with suppress(UserError):
        check(root, reporter=SilentReporter())
    for split in splits(root):
        with suppress(UserError):
            dataset = open_dataset(root, split, reporter=SilentReporter())
            dataset.coco_ground_truth()
            for i in range(min(len(dataset), 4)):
                with suppress(UserError):
                    dataset.sample(i)


def flat_yolo(root: Path) -> None:
    """Labels beside their images, the classes in `classes.txt`."""
    for name in ("a", "b"):
        make.put(root / f"{name}.png", make.png())
        make.put(root / f"{name}.txt", "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.1 0.1\n")
    make.put(root / "classes.txt", "cat\ndog\n")


def flat_voc(root: Path) -> None:
    """XML files beside their images."""
    make.put(root / "a.png", make.png())
    make.put(root / "a.xml", make.voc_xml(make.voc_object() + make.voc_object("cat")))


def listed_yolo(root: Path) -> None:
    """Lists of images, as exports for Darknet have them."""
    make.yolo(root)
    make.put(root / "data.yaml", "names: [cat, dog]\nval: val.txt\n")
    make.put(root / "val.txt", "images/val/a.png\nimages/val/c.png\n")


def class_folders(root: Path) -> None:
    """Two classes of three images each."""
    for number, name in enumerate(("train/cat/1", "train/cat/2", "train/dog/1", "val/cat/1", "val/dog/1")):
        make.put(root / f"{name}.png", make.png(grey=number))


def data_targets() -> Iterator[tuple[str, Target]]:
    """The formats of data sets: their annotations and lists."""
    kinds: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
        "COCO": (make.coco, (".json",)),
        "YOLO rows": (make.yolo, (".txt",)),
        "YOLO description": (make.yolo, (".yaml",)),
        "YOLO lists": (listed_yolo, ("val.txt", ".yaml")),
        "YOLO beside images": (flat_yolo, (".txt",)),
        "VOC": (make.voc, (".xml", ".txt")),
        "VOC beside images": (flat_voc, (".xml",)),
        "class folders": (class_folders, (".png",)),
        "edited": (edited, (".yaml", "val.txt")),
    }
    if find_spec("pyarrow") is not None:
        rows = parquet_files.ROWS
        kinds["Parquet"] = (
            lambda root: parquet_files.write(root / "val.parquet", rows, row_group_size=2),
            (".parquet",),
        )
    for name, (write, endings) in kinds.items():
        files = files_of(write)
        damaged = tuple(file for file in files if file.endswith(endings))
        yield name, Target(files, damaged, read_edited if name == "edited" else read_data)
    for page in PAGES:
        for number, example in enumerate(examples(page)):
            files = {name: text.encode() if isinstance(text, str) else text for name, text in example.items()}
            damaged = tuple(file for file in files if not file.endswith(".png"))
            yield f"{page} {number}", Target(files, damaged, read_data)


def edited(root: Path) -> None:
    """A YAML file that joins two data sets, and a list of images."""
    make.coco(root / "coco")
    make.voc(root / "voc")
    make.put(root / "val.txt", "coco/val/a.png\nvoc/JPEGImages/b.png\n")
    make.put(root / "edit.yaml", "from: [coco, voc]\nrename: {cat: feline}\nskip_bad: true\nsplit:\n  val: val.txt\n")


def read_edited(root: Path) -> None:
    """Opens the data set of the YAML file."""
    read_data(root / "edit.yaml")


def read_image_file(path: Path) -> None:
    """Header, size and pixels."""
    with suppress(DamagedHeaderError):
        read_header(path.read_bytes())
    image_sizes([str(path)], lambda done, of: None)
    decode_image(path, limit=10_000_000)


def image_targets() -> Iterator[tuple[str, Target]]:
    """Every format of images, and every kind of some."""
    plain = Image.fromarray(encoded_images.PLAIN)
    files = {word: content for word, (content, *_) in encoded_images.KINDS.items()}
    for kind in ("GIF", "AVIF", "JPEG2000"):
        files[kind] = encoded_images.encoded(plain, kind)
    files["turned JPEG"] = encoded_images.encoded(plain, "JPEG", exif=encoded_images.exif(6))
    files["turned WebP"] = encoded_images.encoded(plain, "WEBP", exif=encoded_images.exif(5))
    for word, content in files.items():
        yield f"image: {word}", Target({"image": content}, ("image",), lambda folder: read_image_file(folder / "image"))


def read_frames(path: Path) -> None:
    """The first frames of a video."""
    for source in find_sources([str(path)]):
        for number, framed in enumerate(read_video(source, Letterbox(), (64, 64), True)):
            if number == MOST_FRAMES or not hasattr(framed, "pixels"):
                break


def video_targets() -> Iterator[tuple[str, Target]]:
    """A few containers, and the screen recording of the cases."""
    for name, codec in (("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")):

        def write(folder: Path, name: str = name, codec: str = codec) -> None:
            code = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(folder / name), code, 10.0, (64, 48))
            for grey in range(12):
                writer.write(np.full((48, 64, 3), 20 * grey, np.uint8))
            writer.release()

        files = files_of(write)
        yield f"video: {name}", Target(files, (name,), lambda folder, name=name: read_frames(folder / name))
    content = (Path(__file__).parent / "cases/vfr_video_called_damaged/vfr.webm").read_bytes()
    yield "video: a.webm", Target({"a.webm": content}, ("a.webm",), lambda folder: read_frames(folder / "a.webm"))


def small_detector() -> Detector:
    """The smallest network of a family."""
    torch.manual_seed(0)
    return build(Yolox(depth=0.33, width=0.0625, num_classes=2, size=(64, 64)))


def read_weights(path: Path) -> None:
    """What `--weights` and `--model` do with a file."""
    with suppress(UserError):
        read_checkpoint(path)
    with suppress(UserError):
        load_weights(small_detector(), path)
    restore(path)


class _Hostile:
    """Runs something when Python's own unpickler reads it."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').system('true')",)


def weight_targets() -> Iterator[tuple[str, Target]]:
    """Every kind of weights file."""
    detector = small_detector()
    official = torch_bytes({"model": detector.state_dict()})
    files = {
        "a.safetensors": files_of(lambda folder: save_weights(detector, folder / "a.safetensors"))["a.safetensors"],
        "a.pth": official,
        "old.pth": torch_bytes(_use_new_zipfile_serialization=False),
        "hostile.pth": torch_bytes({"w": torch.zeros(2), "x": 1}) + pickle.dumps(_Hostile()),
        "a.onnx": files_of(lambda folder: onnx_models.write_model(folder / "a.onnx"))["a.onnx"],
        "a.weights": files_of(_write_darknet)["a.weights"],
    }
    for name, content in files.items():
        read = lambda folder, name=name: read_weights(folder / name)  # noqa: E731
        yield f"weights: {name}", Target({name: content}, (name,), read)


def _write_darknet(folder: Path) -> None:
    small = build(replace(TINY, num_classes=2, width=0.0625, size=(64, 64)))
    write_darknet(small, folder / "a.weights")


def run_exported(path: Path) -> None:
    """Opens an exported file and detects in one image."""
    runtime = OnnxRuntime(path, threads=1)
    Predictor(runtime).detect(encoded_images.PLAIN)


def read_scores(folder: Path) -> None:
    """What `score` reads."""
    with suppress(UserError):
        read_ground_truth(folder / "truth.json")
    truth = read_ground_truth(folder / "whole.json")
    read_results(folder / "results.json", truth)


def other_targets() -> Iterator[tuple[str, Target]]:
    """Exported files, results, recipes, and settings of the command line."""
    yield (
        "exported",
        Target(
            files_of(lambda folder: onnx_models.write_model(folder / "a.onnx")),
            ("a.onnx",),
            lambda folder: run_exported(folder / "a.onnx"),
        ),
    )
    results = [{"image_id": 3, "category_id": 90, "bbox": [1.5, 2, 10, 20], "score": 0.5}] * 3
    truth = json.dumps(make.COCO).encode()
    files = {"truth.json": truth, "whole.json": truth, "results.json": json.dumps(results).encode()}
    yield "results", Target(files, ("results.json", "truth.json"), read_scores)
    recipe = default_recipe("yolox-nano")
    files = files_of(lambda folder: write_yaml(folder / "recipe.yaml", to_plain(recipe)))
    yield "recipe", Target(files, ("recipe.yaml",), lambda folder: read_recipe(folder / "recipe.yaml"))
    lines = b"loss.assigner.radius=2.0\nepochs=3\nmultiscale=none\nmodel.width=0.25\nloss.assigner=SimOta(radius=2.5)"

    def change(folder: Path) -> None:
        for line in (folder / "changes").read_bytes().decode(errors="replace").split("\n"):
            with suppress(UserError):
                override(recipe, line)

    yield "settings", Target({"changes": lines}, ("changes",), change)
    sources = b"a.png\n# a comment\nsub/*.png\nhttp:/nowhere\n"

    def find(folder: Path) -> None:
        find_sources([str(folder / "sources.txt")])

    yield "list of sources", Target({"sources.txt": sources, "a.png": make.png()}, ("sources.txt",), find)


def run_file(path: Path) -> None:
    """Opens an exported file of any runtime and detects in one image."""
    onelook.load(path, threads=1).detect(encoded_images.PLAIN)


def runtime_targets() -> Iterator[tuple[str, Target]]:
    """Exported files of the runtimes that are installed here."""
    for target, library in (("openvino", "openvino"), ("ncnn", "pnnx"), ("torch", "torch")):
        if find_spec(target) is None or find_spec(library) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / ("a" + {"openvino": ".xml", "ncnn": ".ncnn.param", "torch": ".pt2"}[target])
            onelook.export(small_detector(), target, size=64, out=out)  # type: ignore[call-overload]
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        yield f"exported: {target}", Target(files, tuple(files), lambda folder, name=out.name: run_file(folder / name))


def time_targets() -> Iterator[tuple[str, Target]]:
    """Tracks as MOT text, run times, a data set of videos, and a model that a search has found."""
    mot = b"1,1,10,10,20,20,1,-1,-1,-1\n1,2,50,50,20,20,0.5,-1,-1,-1\n2,1,12,10,20,20,1,-1,-1,-1\n"
    yield "tracks", Target({"a.txt": mot}, ("a.txt",), lambda folder: read_mot(folder / "a.txt", annotations=True))
    times = b'{"type": "empirical", "samples": [0.02, 0.03, 1e-2, 4], "device": "cpu"}'
    yield "run times", Target({"a.json": times}, ("a.json",), lambda folder: RunTimes.read(folder / "a.json"))
    found = ModelFile("found", "damo-yolo-ns", build("damo-yolo-ns").architecture)  # type: ignore[arg-type]
    files = files_of(lambda folder: write_model_file(folder / "found.yaml", found))
    yield "model file", Target(files, ("found.yaml",), lambda folder: variant(str(folder / "found.yaml")))


def all_targets() -> dict[str, Target]:
    """Every reader by name."""
    parts = (data_targets, image_targets, video_targets, weight_targets, other_targets, runtime_targets, time_targets)
    return {name: target for part in parts for name, target in part()}
