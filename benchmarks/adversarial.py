"""Self-adversarial training: what an attack of each strength does to images and to a network of each family.

    python benchmarks/adversarial.py runs/adversarial [--epochs 30] [--only yolox-nano]

Draws the demo's images and trains a small network of each family on them (a training that is done is not made again).
Then it attacks the validation images at the rate of `Adversarial` and several limits, and prints how much pixels
change, and what is left of the networks' scores at the objects: the mean over objects of the highest score of a prior
whose box overlaps the object by half, and the part of the objects that is found with a score above 0.25. The images,
one for each network with a column for each limit, are written beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import onelook
from onelook.api.demo import BATCH, CLASSES, SHORT
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.draw import write_image
from onelook.losses.adversarial import no_object_loss
from onelook.networks.detector import Detector, Scalable
from onelook.ops.iou import pairwise_iou
from onelook.training.adversarial import Adversarial, adversarial_images

FEW_STEPS = ("ema.decay=0.995", "ema.warmup=100", "multiscale=none", "augment.mosaic=0.1")
# One of each family, narrow enough to train in minutes, with settings for few steps from scratch: no long warm-up, an
# average with a short memory, and images near their own scale.
NETWORKS: dict[str, tuple[str, ...]] = {
    "yolox-nano": SHORT,
    "yolov7-tiny": ("model.width_multiple=0.5", "optimizer.lr_per_image=0.003", *FEW_STEPS),
    "yolov4-tiny": (
        "optimizer.lr_per_image=0.000375",
        "schedule=CosineRestarts(warmup_epochs=1,warmup_power=2)",
        "model.norm_momentum=0.05",
        "augment.jitter=0.2",
        "loss.assigner.iou_threshold=0.213",
        "loss.terms.box.weight=1",
    ),
    "damo-yolo-ns": ("optimizer.lr_per_image=0.002", *FEW_STEPS),
}
SCALE = {"damo-yolo-ns": {"depth": 0.33, "width": 0.25}}
LIMITS = (2.0, 4.0, 8.0, 16.0, None)
SIZE, FOUND = 160, 0.25


def trained(name: str, folder: Path, data: Path, epochs: int) -> Detector:
    """The network's weights of the last epoch, trained where they are not there yet."""
    out = folder / name
    recipe = onelook.override(onelook.recipe(name), *NETWORKS[name])
    if name in SCALE and isinstance(recipe.model, Scalable):
        recipe = onelook.change(recipe, {"model": recipe.model.scaled(**SCALE[name])})
    if not (out / "last.safetensors").is_file():
        onelook.train(recipe, data, epochs=epochs, size=SIZE, batch=BATCH, out=out, device="cpu", workers=0)
    detector = onelook.build(recipe.model, onelook.open_dataset(data).names)
    onelook.load_weights(detector, out / "last.safetensors")
    return detector.eval()


def at_objects(detector: Detector, images: Tensor, boxes: list[Tensor]) -> tuple[float, float]:
    """(mean of the objects' highest scores, part of the objects with one above `FOUND`)."""
    with torch.no_grad():
        predictions = detector(images)
    scores, best = predictions.scores().amax(-1), []
    for row, objects in enumerate(boxes):
        overlaps = pairwise_iou(objects, predictions.boxes[row]) >= 0.5
        best += (scores[row] * overlaps).amax(-1).tolist()
    return float(np.mean(best)), float(np.mean(np.array(best) > FOUND))


def measure(name: str, detector: Detector, images: Tensor, boxes: list[Tensor], folder: Path) -> None:
    """Prints a line for each limit, and writes the images side by side."""
    shown = [images[:3]]
    score, found = at_objects(detector, images, boxes)
    print(f"{name:>13}  as they are               score {score:.3f}, found {found:.2f}")
    for limit in LIMITS:
        attacked = adversarial_images(detector, images, no_object_loss, Adversarial().rate, limit=limit)
        change = (attacked - images).abs()
        score, found = at_objects(detector, attacked, boxes)
        text = "no limit" if limit is None else f"limit {limit:g}"
        print(f"{name:>13}  {text:>8}: change {change.mean():6.2f} score {score:.3f}, found {found:.2f}")
        shown.append(attacked[:3])
    rows = [torch.cat([one[row] for one in shown], 2) for row in range(3)]
    side_by_side = torch.cat(rows, 1).permute(1, 2, 0).round().byte().numpy()
    write_image(folder / f"{name}.png", np.ascontiguousarray(side_by_side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    options = parser.parse_args()
    data = options.folder / "data"
    if not data.is_dir():
        scenes = Scenes(size=(SIZE, SIZE), classes=CLASSES, difficulty=0.2)
        write_synthetic(data, scenes, {"train": 240, "val": 24})
    dataset = onelook.open_dataset(data, split="val")
    torch.manual_seed(0)
    for name in options.only or NETWORKS:
        detector = trained(name, options.folder, data, options.epochs)
        samples = [dataset.sample(row) for row in range(len(dataset))]
        images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1).float() for sample in samples])
        boxes = [torch.from_numpy(sample.boxes) for sample in samples]
        measure(name, detector, images, boxes, options.folder)


if __name__ == "__main__":
    main()
