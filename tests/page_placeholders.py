"""Small placeholders for what the reader of a page has: data sets, photographs, videos, weights, trained runs.

`Shelf.provide(name, page)` makes what a path of the documentation names, in the current folder, by its name and its
suffix. What is expensive is made once in the shelf's own folder, and linked from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import onelook
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.data.synthetic_video import Clip, Moving, write_clips
from onelook.networks.detector import Detector
from onelook.networks.variants import VARIANTS, variant
from onelook.weights.darknet import write_darknet
from test_damo_weights import official as official_names
from test_damo_weights import write as write_damo_yolo
from test_yolov7_weights import official_state as yolov7_state
from test_yolov7_weights import pickled as write_yolov7

CLASSES = ("person", "car", "dog", "truck", "bus", "traffic light")
TREES = ("Tree", "Dead", "Alive")
SIDE = 64  # pixels of an image
SPLITS = {"train": 12, "val": 10, "test": 10}  # `compare` needs ten images, `split` some of each class
UNDIVIDED = {"train": 24}
NEW = 4  # images without annotations
CONV_29 = 19_789_716  # bytes of the published yolov4-tiny.conv.29, which ends after its backbone
DAMO_YOLO_FILES = {
    "damoyolo_tinynasL20_T_420": "damo-yolo-t",
    "damoyolo_tinynasL25_S_460": "damo-yolo-s",
    "damoyolo_nano_small": "damo-yolo-ns",
}


class Shelf:
    """Placeholders of several pages. folder: where they are made once.  once: commands that need no second run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.once: set[tuple[str, ...]] = set()

    def provide(self, name: str, names: Sequence[str] = CLASSES, *, undivided: bool = False) -> None:
        """Makes the file or folder of this name, relative to the current folder, where a placeholder for it is known.

        names, undivided: classes of a data set, and whether it has one split. What is there already stays, but for a
        placeholder of a data set with other classes or splits.
        """
        names_of_places = [name, *map(str, Path(name).parents[:-1])]  # the folder of what is in it
        known = ((place, make) for place in names_of_places for one, make in PLACEHOLDERS if re.fullmatch(one, place))
        place, make = next(known, (name, None))
        target = Path(place)
        if len(target.parts) > 1 and target.parts[0] == "data":
            self.provide("data", names, undivided=undivided)  # before there is something else in it
        if make is labelled_images:
            mark = target / "annotations" / f"{'-'.join(names)}-{undivided}.mark"
            if mark.is_file() or (target.exists() and not any(target.glob("annotations/*.mark"))):
                return
            shutil.rmtree(target, ignore_errors=True)
            link(self.data(names, undivided=undivided), target)
            mark.touch()
        elif make is not None and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            make(self, target)

    def kept(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file or folder of the shelf, which is made when it is first needed."""
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
        return path

    def data(self, names: Sequence[str] = CLASSES, *, undivided: bool = False) -> Path:
        """A COCO data set of drawn images with these classes."""
        name = f"data-{'-'.join(names)}-{undivided}".replace(" ", "_")
        return self.kept(name, lambda path: draw(path, names, UNDIVIDED if undivided else SPLITS))

    def weights(self, model: str) -> Path:
        """Weights of a built-in model for COCO's classes, in Onelook's own format."""
        return self.kept(f"{model}.safetensors", lambda path: onelook.save_weights(random_detector(model), path))

    def exported(self) -> Path:
        """An ONNX file of YOLOX-Nano with an input of 64 pixels, whatever network its name on the page says."""
        weights = self.weights("yolox-nano")
        return self.kept("nano.onnx", lambda path: onelook.export(weights, "onnx", size=SIDE, out=path))

    def run(self) -> Path:
        """The folder of a training of one epoch, of YOLOX-Nano."""

        def make(path: Path) -> None:
            weights = self.weights("yolox-nano")
            options: dict[str, Any] = {"epochs": 1, "size": SIDE, "batch": 4, "workers": 0, "device": "cpu"}
            onelook.train("yolox-nano", self.data(), weights=weights, out=path, **options)

        return self.kept("run", make)


def random_detector(model: str) -> Detector:
    """A built-in model with random weights; that of YOLOX finds something everywhere."""
    torch.manual_seed(0)
    made = onelook.build(model)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("classes.bias", "objectness.bias")):
                parameter.fill_(0.5)
    return made


def link(source: Path, target: Path) -> None:
    """A file or folder under another name, without a copy of its content."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def draw(folder: Path, names: Sequence[str], splits: dict[str, int]) -> None:
    """Writes drawn images with these classes, which follow one another in turn."""
    write_synthetic(folder, Scenes((SIDE, SIDE), objects=(2, 4), extent=(0.2, 0.5), empty=0.0), {**splits, "new": NEW})
    (folder / "annotations" / "instances_new.json").unlink()
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = 1 + number % len(names)
        path.write_text(json.dumps(content))


def labelled_images(shelf: Shelf, target: Path) -> None:
    """A data set with train, val and test."""
    link(shelf.data(), target)


def pascal_voc(shelf: Shelf, target: Path) -> None:
    """The data set of a page as Pascal VOC, in one folder: XML files beside their images."""
    made = target.with_name(f"{target.name}-made")
    onelook.convert(shelf.data(TREES, undivided=True), to="voc", out=made)
    target.mkdir(parents=True)
    for path in made.rglob("*"):
        if path.suffix in (".xml", ".jpg"):
            shutil.copyfile(path, target / path.name)
    shutil.rmtree(made)


def csv_files(shelf: Shelf, target: Path) -> None:
    """The same as a CSV file and its images, with one image more, of which nothing is known."""
    made = target.with_name(f"{target.name}-made")
    onelook.convert(shelf.data(TREES, undivided=True), to="csv", out=made)
    shutil.move(made, target)
    photograph(shelf, target / "SOAP_031.png")


def csv_file(shelf: Shelf, target: Path) -> None:
    """One CSV file, with its images beside it."""
    target.write_text("filename,width,height,class,xmin,ymin,xmax,ymax\nphoto.jpg,96,64,dog,8,12,24,36\n")
    photograph(shelf, target.with_name("photo.jpg"))


def coco_file(shelf: Shelf, target: Path) -> None:
    """A COCO JSON file that is named itself, beside the folder of its images."""
    source = shelf.data(("car", "person", "bus"), undivided=True)
    shutil.copytree(source / "train", target.parent / "images", copy_function=os.link)
    content = json.loads((source / "annotations" / "instances_train.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    target.write_text(json.dumps(content))


def class_folders(shelf: Shelf, target: Path) -> None:
    """A folder of images for each of two classes, divided in train and val."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("dark", "light")):
            (target / split / name).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 128, (SIDE, SIDE, 3), np.uint8) + np.uint8(label * 120)
                cv2.imwrite(str(target / split / name / f"{number}.png"), image)


def shards(shelf: Shelf, target: Path) -> None:
    """A data set in tar files."""
    onelook.convert(shelf.data(), to="shards", out=target)


def parquet_file(shelf: Shelf, target: Path) -> None:
    """A Parquet file, or one that begins as such a file where none can be written."""
    target.write_bytes(b"PAR1")
    if find_spec("pyarrow") is not None:
        made = onelook.convert(shelf.data(), to="parquet", out=target.with_name("parquet-made")).out
        shutil.copyfile(next(Path(made).rglob("train-*.parquet")), target)


def photograph(shelf: Shelf, target: Path) -> None:
    """An image, in the format of its name."""
    image = Scenes((64, 96))("new", 0).image
    cv2.imwrite(str(target), cv2.resize(image, (900, 700)) if target.name.startswith("aerial") else image)


def photographs(shelf: Shelf, target: Path) -> None:
    """A folder of four images."""
    target.mkdir()
    for number in range(4):
        cv2.imwrite(str(target / f"{number}.jpg"), Scenes((64, 96))("new", number).image)


def clips(shelf: Shelf, target: Path) -> None:
    """Two drawn videos of half a second with COCO's classes, as a data set, as videos and as tracks."""
    path = ((0, 20.0, 30.0), (14, 100.0, 60.0))
    made = {name: Clip((Moving(kind, 30, path),), 15, size=(96, 128)) for name, kind in (("a", "ball"), ("b", "fish"))}

    def make(folder: Path) -> None:
        write_clips(folder, made)
        file = folder / "annotations" / "instances_val.json"
        file.write_text(file.read_text().replace('"ball"', '"person"').replace('"fish"', '"car"'))

    link(shelf.kept("clips", make), target)


def argoverse(shelf: Shelf, target: Path) -> None:
    """The same in the layout of Argoverse-HD, with its images in the folder beside it."""
    made = target.with_name("argoverse-made")
    clips(shelf, made)
    content = json.loads((made / "annotations" / "instances_val.json").read_text())
    content["seq_dirs"] = sorted(path.name for path in (made / "val").iterdir())
    for image in content["images"]:
        image["name"] = Path(image.pop("file_name")).name
    shutil.move(made / "val", target.parent / "Argoverse-1.1" / "tracking")
    shutil.rmtree(made)
    (target / "annotations").mkdir(parents=True)
    (target / "annotations" / "val.json").write_text(json.dumps(content))


def video(shelf: Shelf, target: Path) -> None:
    """One video of half a second, which stands for a longer one."""
    clips_folder = target.with_name(f"{target.stem}-clips")
    clips(shelf, clips_folder)
    shutil.move(clips_folder / "videos" / "a.mp4", target)
    shutil.rmtree(clips_folder)


def long_video(target: Path) -> None:
    """A video of two minutes and few frames."""
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 1, (64, 48))
    for _ in range(125):
        writer.write(np.full((48, 64, 3), 230, np.uint8))
    writer.release()


def trained_run(shelf: Shelf, target: Path) -> None:
    """The folder of a training: the last one of the page, or one of the shelf."""
    own = sorted(Path("runs").glob("*/best.safetensors"), key=lambda path: path.stat().st_mtime)
    link(own[-1].parent if own else shelf.run(), target)


def own_weights(shelf: Shelf, target: Path) -> None:
    """The best weights of a training."""
    link(shelf.run() / "best.safetensors", target)


def exported_file(shelf: Shelf, target: Path) -> None:
    """An exported ONNX file; it is also what the weights of YOLOX-Nano are published as."""
    link(shelf.exported(), target)


def ncnn_file(shelf: Shelf, target: Path) -> None:
    """The same for ncnn, where it can be made."""
    if find_spec("pnnx") is not None:
        onelook.export(shelf.weights("yolox-nano"), "ncnn", size=SIDE, out=target)


def published(shelf: Shelf, target: Path) -> None:
    """A file of random weights as the authors of its model publish it, by its name: .pth, .pt or .weights."""
    name = target.stem.replace("_", "-")
    name = DAMO_YOLO_FILES.get(target.stem, name)
    assert name in VARIANTS, f"no model has weights called {target.name}"
    link(shelf.kept(target.name, lambda path: write_published(name, path)), target)


def write_published(name: str, path: Path) -> None:
    """Writes random weights of a built-in model in the format of its authors."""
    detector, family = random_detector(name), variant(name).family
    if family == "YOLOX":
        torch.save({"start_epoch": 300, "model": official_names(detector), "optimizer": None}, path)
    elif family == "DAMO-YOLO":
        write_damo_yolo(path, official_names(detector))
    elif family == "YOLOv4":
        write_darknet(detector, path)
    else:
        classes = list(detector.class_names)
        act = nn.LeakyReLU(0.1) if "tiny" in name else nn.SiLU()
        write_yolov7(yolov7_state(detector), path, activation=act, names=classes, yaml={"nc": len(classes)})


def first_layers(shelf: Shelf, target: Path) -> None:
    """The backbone of YOLOv4-tiny, as Darknet publishes it."""
    whole = shelf.kept("yolov4-tiny.weights", lambda path: write_published("yolov4-tiny", path))
    target.write_bytes(whole.read_bytes()[:CONV_29])


def results(shelf: Shelf, target: Path) -> None:
    """A COCO results file for the split `test` of the labelled images: half of the objects, as they are annotated."""
    content = json.loads((shelf.data() / "annotations" / "instances_test.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{**{key: one[key] for key in keys}, "score": 0.9} for one in content["annotations"][::2]]
    target.write_text(json.dumps(found))


def annotations(shelf: Shelf, target: Path) -> None:
    """The COCO annotations that belong to `results`."""
    shutil.copyfile(shelf.data() / "annotations" / "instances_test.json", target)


def list_of_images(shelf: Shelf, target: Path) -> None:
    """A text file of one image a line."""
    photograph(shelf, target.with_name("listed.jpg"))
    target.write_text("listed.jpg\n")


def searched_model(shelf: Shelf, target: Path) -> None:
    """The model that an earlier command of the page has searched for."""
    shutil.copyfile(Path("runs/pocket-search") / target.name, target)


def tracks(shelf: Shelf, target: Path) -> None:
    """A folder of MOT text."""
    made = target.with_name(f"{target.name}-made")
    clips(shelf, made)
    shutil.move(made / "tracks", target)
    shutil.rmtree(made)


# What a name on a page is, the first that fits.
PLACEHOLDERS: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"deepforest/data", csv_files),
    (r"trees", pascal_voc),
    (r"clips|data/argoverse", clips),
    (r"Argoverse-HD", argoverse),
    (r"TRUTH|TRACKS", tracks),
    (r"images|classes|crops", class_folders),
    (r"data/coco-shards|coco-shards", shards),
    (r"data|data/coco|coco|coco_mini|bccd|first|undivided|aerial|shapes|demo|scenes", labelled_images),
    (r"second/annotations\.json", coco_file),
    (r"labels\.csv", csv_file),
    (r"train\.parquet", parquet_file),
    (r"photos", photographs),
    (r".*\.(jpg|tif|png)", photograph),
    (r".*\.mp4", video),
    (r"runs/[\w-]+(/[\w-]+/seed-\d+)?|first/run", trained_run),
    (r".*\.onnx", exported_file),
    (r".*\.ncnn\.param", ncnn_file),
    (r".*\.safetensors", own_weights),
    (r".*\.(pth|pt|weights)", published),
    (r"yolov4-tiny\.conv\.29", first_layers),
    (r"truth\.json", annotations),
    (r"found\.json", results),
    (r"images\.txt", list_of_images),
    (r"pocket\.yaml", searched_model),
)
