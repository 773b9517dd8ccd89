"""Every model in every format, with and without NMS inside, in a fixed batch and in any: what is written, and how near.

    python benchmarks/forms.py --out forms.json --width 0.125

Each file is exported and verified as `onelook export` does it. An export to OpenVINO writes and verifies the ONNX file
of the same form first, so that one row shows both. Weights are made up so that rounding is not amplified. What is done
is in the file of `--out`, with a Markdown table beside it: the same command goes on where another was interrupted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from command import run_benchmark
from onelook.api.roadmap import scaled
from onelook.config import change
from onelook.errors import MissingDependencyError, UsageError, UserError
from onelook.exporting.target import ExportOptions
from onelook.exporting.targets import TARGETS
from onelook.exporting.verify import verification_images
from onelook.files import write_text
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.variants import VARIANTS
from onelook.networks.yolov7.architecture import Yolov7
from onelook.ops.nms import Nms
from onelook.recipes import default_recipe

if TYPE_CHECKING:
    from rich.console import Console

_FEATURES = 0.1  # root mean square
FORMATS = ("openvino", "ncnn", "torch")
NAMES = {"openvino": "ONNX and OpenVINO", "onnx": "ONNX", "ncnn": "ncnn", "torch": "PyTorch", "litert": "LiteRT"}
FORMS = {
    "batch of 1": ExportOptions(),
    "any batch": ExportOptions(dynamic=True),
    "NMS, batch of 1": ExportOptions(nms=Nms(0.25, 0.45)),
    "NMS, any batch": ExportOptions(nms=Nms(0.25, 0.45), dynamic=True),
}


@dataclass(frozen=True)
class Row:
    """One file, or why there is none.

    box: pixels, of rows with at least half of the best score.  score: largest difference.  best_score: of PyTorch.
    refused: by the format, before anything is loaded.  failed: by the converter or the verification.
    """

    model: str
    target: str
    form: str
    box: float = 0.0
    score: float = 0.0
    best_score: float = 0.0
    refused: str = ""
    failed: str = ""


@dataclass
class Table:
    """All rows so far. setting: what they depend on."""

    setting: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where an export failed."""
        return int(any(row.failed for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        return {"setting": self.setting, "rows": [asdict(row) for row in self.rows]}

    def show(self, console: Console) -> None:
        console.print(self.markdown(), markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """A line a model: how many of the forms that the format has were written, and the largest differences."""
        formats = list(dict.fromkeys(row.target for row in self.rows))
        lines = [", ".join(f"{name} {value}" for name, value in self.setting.items()), ""]
        lines += ["| model | " + " | ".join(NAMES[name] for name in formats) + " |", "|---" * (len(formats) + 1) + "|"]
        for model in dict.fromkeys(row.model for row in self.rows):
            cells = [
                self._cell([row for row in self.rows if (row.model, row.target) == (model, name)]) for name in formats
            ]
            lines.append(f"| `{model}` | {' | '.join(cells)} |")
        reasons = {(NAMES[row.target], row.form): row.refused for row in self.rows if row.refused}
        lines += ["", "| format | form | refused with |", "|---|---|---|"] if reasons else []
        lines += [f"| {name} | {form} | {_line(reason)} |" for (name, form), reason in reasons.items()]
        failures = [
            f"{row.model}, {NAMES[row.target]}, {row.form}: {_line(row.failed)}" for row in self.rows if row.failed
        ]
        return "\n".join([*lines, "", *failures]).rstrip() + "\n"

    @staticmethod
    def _cell(rows: Sequence[Row]) -> str:
        held = [row for row in rows if not row.refused]
        written = [row for row in held if not row.failed]
        if not written:
            return f"0 of {len(held)}" if held else ""
        box, score = max(row.box for row in written), max(row.score for row in written)
        return f"{len(written)} of {len(held)}: {box:.1g} px, {score:.1g}"

    def save(self, out: Path) -> None:
        write_text(out, json.dumps(self.to_dict(), indent=2) + "\n")
        write_text(out.with_suffix(".md"), self.markdown())


def forms(
    *models: str,
    out: Path,
    to: list[str] | None = None,
    form: list[str] | None = None,
    size: int = 128,
    width: float = 1.0,
) -> Table:
    """Exports models to formats in all forms.

    Args:
        models: Names; all models without.
        out: The JSON file of all rows; a Markdown table is written beside it. Rows that are there stay.
        to: Formats.
        form: "batch of 1", "any batch", "NMS, batch of 1", "NMS, any batch"; all without.
        size: Side of the input in pixels.
        width: Factor on the numbers of channels.
    """
    torch.set_num_threads(1)
    setting = {"input": size, "width": width, "PyTorch": torch.__version__}
    table = _opened(out, setting)
    for name, known, given in (("--to", TARGETS, to or []), ("--form", FORMS, form or []), ("model", VARIANTS, models)):
        if unknown := next((one for one in given if one not in known), None):
            raise UsageError(f"{name} has '{unknown}'.", f"Give some of: {', '.join(known)}.")
    done = {(row.model, row.target, row.form) for row in table.rows}
    for model in models or tuple(VARIANTS):
        asked = [(target, one) for target in to or FORMATS for one in form or FORMS]
        wanted = [(target, one) for target, one in asked if (model, target, one) not in done]
        if not wanted:
            continue
        detector = spread(model, (size, size), width)
        for row in _rows(model, detector, wanted):
            table.rows.append(row)
            table.save(out)
            print(row.model, row.target, row.form, row.refused or row.failed or f"{row.box:.2g} px {row.score:.2g}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return table


def _opened(out: Path, setting: dict[str, Any]) -> Table:
    """The table of the file, or a new one; UsageError where it is of another setting."""
    if not out.is_file():
        return Table(setting)
    known = json.loads(out.read_text(encoding="utf-8"))
    if known["setting"] != setting:
        raise UsageError(f"'{out}' was made with {known['setting']}, not {setting}.", "Give another file with --out.")
    return Table(setting, [Row(**row) for row in known["rows"]])


def spread(model: str, size: tuple[int, int], width: float) -> Detector:
    """A freshly initialised model that does not amplify rounding, and whose predictions differ from place to place.

    Batch norms give all features together a root mean square of 0.1, where activations are nearly linear: what a layer
    does to a small difference, it does to the features. Predictions have a standard deviation of 1.
    """
    torch.manual_seed(0)
    recipe = default_recipe(model)
    factor = "width_multiple" if isinstance(recipe.model, Yolov7) else "width"
    detector = build(change(scaled(recipe, {factor: width}).model, {"size": size})).eval()

    def normalise(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.fill_(float(inputs[0].square().mean()) / _FEATURES**2)

    def enlarge(convolution: nn.Module, _: tuple[torch.Tensor, ...], predictions: torch.Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        convolution.weight /= predictions.std().clamp(min=1e-12)

    hooks = [one.register_forward_pre_hook(normalise) for one in detector.modules() if isinstance(one, nn.BatchNorm2d)]
    hooks += [
        one.register_forward_hook(enlarge)
        for one in detector.modules()
        if isinstance(one, nn.Conv2d) and one.bias is not None
    ]
    with torch.no_grad():
        detector(torch.from_numpy(verification_images(size)))
    for hook in hooks:
        hook.remove()
    return detector


def _rows(model: str, detector: Detector, wanted: Sequence[tuple[str, str]]) -> Iterator[Row]:
    architecture = detector.architecture
    assert architecture is not None
    for name, form in wanted:
        target, options = TARGETS[name], FORMS[form]
        try:
            target.check(options)
        except UsageError as error:
            yield Row(model, name, form, refused=str(error))
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                agreement = target.write(detector, Path(folder) / f"model{target.suffix}", options).agreement
            except MissingDependencyError:  # the row can be made once the package is there
                raise
            except UserError as error:
                yield Row(model, name, form, failed=str(error))
                continue
        yield Row(model, name, form, agreement.confident_box, agreement.score, agreement.best_score)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return run_benchmark(forms, arguments)
    except KeyboardInterrupt:
        print("Interrupted: the rows so far are in the file of --out, and the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
