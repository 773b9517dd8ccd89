"""Writes docs/parity.md, what of each model was compared with the authors' code: python docs/make_parity.py

The official numbers are in tests/official_models.csv, which tests/test_docs_parity.py compares with the reference.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
OFFICIAL = ROOT / "tests" / "official_models.csv"

# How near a count of GFLOPs is to the official one: as many digits as that has.
GFLOPS_DIGITS = 1e-4

INTRODUCTION = """# Parity with the official models

Made by `python docs/make_parity.py`, which counts every network anew; tests compare the page, and the official
numbers, which were taken from the authors' code.

**Parameters** of the training form and of the deployed one, and **GFLOPs** of the deployed convolutions at the
model's own size: "equal" is to the last parameter and to all digits of the official count. **Tensors**: how many the
official checkpoint of the model has; each has one name here, and the shapes are equal. **Outputs**:

- **golden**: an image through both networks with the same weights; boxes, scores and features differ by no more than
  the rounding of the authors' own float32.
- **graph**: the network is run by a second program from the official list of its layers with the same weights, and
  both agree. YOLOX and DAMO-YOLO have no such list; their models without golden outputs are compared by names, shapes
  and counts, and are values of the same dataclass as those with.

**AP published** is the authors' figure on COCO (val2017; YOLOv4: test-dev), for orientation: **it was not measured
here**, because that takes the weights and the data set of each.
"""

OUTPUTS = {("YOLOv4", "no"): "graph", ("YOLOv7", "no"): "graph", ("YOLOv4", "yes"): "golden, graph"}
OUTPUTS |= {("YOLOv7", "yes"): "golden, graph", ("YOLOX", "yes"): "golden", ("DAMO-YOLO", "yes"): "golden"}

# What is compared once a family: (what, where it stands, the tests).
FAMILY = """
## What is compared once for a family

| family | compared with the authors' code | tests |
|---|---|---|
| YOLOX | assignment of every prior, identical; all losses and their gradients, with and without L1 | \
`test_golden_losses.py` |
| YOLOX | official checkpoints of all seven models, and the official ONNX file, load with the same values | \
`test_weights_load.py` |
| YOLOv4 | pairs and ignored priors, identical; gradients of objectness and classes. Gradients of boxes with \
Darknet's own rule (`DarknetBoxGradient`) | `test_yolov4_losses.py` |
| YOLOv4 | Darknet's `.weights`: read with the golden output, written back the same byte for byte | \
`test_weights_darknet.py` |
| YOLOv7 | assignment of every prior, identical; all losses and their gradients, auxiliary heads included | \
`test_yolov7_losses.py` |
| YOLOv7 | checkpoints in the training, deployed and fused form load into both forms here with the same answers | \
`test_yolov7_weights.py` |
| DAMO-YOLO | assignment, identical; all losses and their gradients | `test_golden_align_ota.py` |
| DAMO-YOLO | distillation: losses, gradients and schedule of the weight | `test_distill.py` |
| DAMO-YOLO | checkpoints, those of before v0.3.0 included, load and are recognised | `test_damo_weights.py` |

## Average precision

| model | data | authors' code | here | difference allowed by the test |
|---|---|--:|--:|--:|
| `yolox-nano`, official weights, 416 pixels | 103 photographs of COCO, 900 objects | 0.3202 | 0.3202 | 0.002 |

`onelook val` was compared on these images with official weights: each of the twelve COCO numbers, and AP by class;
`onelook score` gives pycocotools' numbers for the same detections. Weights of the other models were not at hand where
the tests were written: that their AP is the published one is expected of equal networks, preprocessing and
suppression, but has not been measured. What trainings from scratch reach on small data is in
[benchmarks.md](benchmarks.md); no model was trained on the whole of COCO.
"""


def page() -> str:
    """The whole page."""
    import onelook

    official = read_official()
    rows = [row_of(model, official[model.variant.name]) for model in onelook.models()]
    head = "| model | parameters | deployed | GFLOPs | tensors | outputs | AP published |"
    equal = sum(row.count(", equal |") == 3 for row in rows)
    said = f"\nOf {len(rows)} models, {equal} are equal in all three counts.\n"
    return "\n".join([INTRODUCTION + said, head, "|---|--:|--:|--:|--:|---|--:|", *rows]) + "\n" + FAMILY


def read_official() -> dict[str, dict[str, str]]:
    """The official numbers by model."""
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def row_of(model: object, official: dict[str, str]) -> str:
    """One model beside its official numbers."""
    from onelook.api.models import ModelInfo

    assert isinstance(model, ModelInfo)
    variant = model.variant
    counts = (
        same(model.parameters, int(official["parameters"])),
        same(model.deploy_parameters, int(official["deploy_parameters"])),
        same(model.gflops, float(official["gflops"]), GFLOPS_DIGITS),
    )
    outputs = OUTPUTS.get((variant.family, official["outputs"]), "by counts")
    published = f"{variant.published.ap:.1f}" if variant.published else "-"
    return f"| `{variant.name}` | {' | '.join(counts)} | {official['tensors']} | {outputs} | {published} |"


def same(ours: float, theirs: float, digits: float = 0) -> str:
    """The official number, and whether ours is the same."""
    text = f"{theirs:,}" if isinstance(theirs, int) else f"{theirs:.2f}"
    if abs(ours - theirs) <= digits:
        return f"{text}, equal"
    return f"{text}, here {ours:,}" if isinstance(theirs, int) else f"{text}, here {ours:.4f}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
