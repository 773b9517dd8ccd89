"""Measures an exported file for its report: differences from PyTorch, AP, latency, and how it is run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata as packages
from pathlib import Path

import numpy as np
import torch

from onelook.api.alternation import alternate
from onelook.api.bench import DETECTING, describe_runtime, scene_images
from onelook.api.open import PathLike
from onelook.api.validate import open_evaluated, validate
from onelook.data import Dataset, splits
from onelook.data.split_names import usual_splits
from onelook.devices import int8_instructions, num_cores, processor_name
from onelook.errors import IN_SOURCE, UsageError, UserError, install_command
from onelook.evaluation.annotations import GroundTruth
from onelook.evaluation.runner import match_classes
from onelook.exporting.differences import (
    Differences,
    NamedImages,
    detection_differences,
    raw_differences,
    with_limit,
)
from onelook.exporting.target import ExportedFile
from onelook.exporting.verify import verification_images
from onelook.networks.detector import Detector
from onelook.ops.nms import with_thresholds
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.predict.runtimes.torch import TorchRuntime
from onelook.report.deployment import DeploymentReport, MeasuredAp, MeasuredTime, command, write_deployment
from onelook.reporter import Reporter
from onelook.threads import chosen_threads
from onelook.types import counted
from onelook.version import __version__

IMAGES = 300  # most images that AP is measured on
COMPARED = 8  # images on which outputs are compared
LONGEST = 600.0  # seconds that the AP of the network in PyTorch may take; above, it is not measured
SECONDS, LEAST_TURNS, MOST_TURNS = 20.0, 20, 200  # of a comparison of times
LEAST_CONFIDENCE = 0.05  # of compared detections: with more of them than users see
_PYTORCH = "the network in PyTorch, float32"
_EXTRAS = {"onnx": "", "torch": "train"} | {name: name for name in ("openvino", "ncnn", "litert", "tensorrt")}
_PACKAGES: tuple[str, ...] = (
    *("torch", "numpy", "opencv-python-headless", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
    *("ncnn", "pnnx", "ai-edge-litert", "litert-torch", "tensorrt"),
)


@dataclass(frozen=True)
class ReportPlan:
    """A report that is to be written. data: the images for AP, None where none are given.  given: how it was named."""

    path: Path
    data: Dataset | None
    given: str


def check_report(report: PathLike | None, *, data: object, overwrite: bool) -> None:
    """UserError for a page that cannot be written. data: of the report, which takes a report."""
    if report is None:
        if data is not None:
            raise UsageError("Data for a report are given, but no report.", "Add --report FILE.html (report=...).")
        return
    path = Path(report)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"'{path}' is not the name of an HTML page.", "Give --report a name that ends in .html.")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"'{path}' cannot be written.", "Give --report a file in a folder that exists.")
    if path.exists() and not overwrite:
        raise UserError(f"'{path}' exists already.", "Choose another --report, or replace it with --overwrite.")


def plan_report(path: Path, data: Dataset | PathLike | None, names: Sequence[str], reporter: Reporter) -> ReportPlan:
    """Opens the data of a report, before anything is exported: its validation split, or the only one.

    names: the model's classes. UserError for data without these classes.
    """
    if data is None:
        return ReportPlan(path, None, "DATA")
    if isinstance(data, Dataset):
        given, split = "DATA", "val"
    else:
        given, there = os.fspath(data), splits(os.fspath(data))
        first, second = usual_splits(there)
        split = next((name for name in (second, first) if name in there), second)
    dataset = open_evaluated(data, split, reporter)
    match_classes(names, dataset, GroundTruth.from_coco(dataset.coco_ground_truth()))
    return ReportPlan(path, dataset, given)


def write_report(
    plan: ReportPlan, detector: Detector, exported: ExportedFile, target: str, reporter: Reporter, *, measured: bool
) -> Path:
    """Measures the file and the network in PyTorch, and writes the page.

    measured: the AP of an 8-bit file was measured by the export itself, on the same data.
    """
    kind = exported_runtime(exported.path)
    assert kind is not None  # every target with a report has a runtime
    size = exported.metadata.size
    reporter.info(f"Measuring {exported.path} for the report.")
    file = kind(exported.path, threads=1)
    network = TorchRuntime(detector, "cpu" if file.device_name == "cpu" else None, size=size)
    with _torch_threads():
        torch.set_num_threads(1)
        differences = _differences(file, network, _images(plan.data, network))
        times = _times(kind, exported.path, network, reporter)
    report = exported.int8 if measured else None
    if report is not None:
        ap = [MeasuredAp(f"{file.library}, int8", {"AP": report.ap})]
        ap.append(MeasuredAp(f"{file.library}, float32", {"AP": report.ap_float}))
        validated = (
            f"Both files on {(exported.metadata.int8 or {})['judged_on']}, as measured while 8 bits were chosen."
        )
    else:
        ap, validated = _average_precision(plan.data, exported, detector, times, reporter)
    batch = file.metadata.batch or 1
    page = DeploymentReport(
        path=exported.path,
        target=target,
        metadata=asdict(exported.metadata),
        files=[(one.name, one.stat().st_size) for one in (exported.path, *exported.beside)],
        verified=f"Before the file was written, the export compared {exported.agreement}.",
        differences=differences,
        ap=ap,
        judged_on=validated,
        times=times,
        timed=f"One run of {batch} image{'s' * (batch > 1)} of made-up scenes, from resized pixels to boxes with NMS at"
        f" confidence {DETECTING[0]} and IoU {DETECTING[1]}, in alternation. Compare the ratios, not the milliseconds:"
        " these change with whatever else the machine does.",
        int8=exported.int8,
        commands=_commands(plan, exported, target),
        facts=_facts(file, target),
        notes=exported.notes,
    )
    return write_deployment(plan.path, page)


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Restores the number of PyTorch's threads at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images(data: Dataset | None, network: TorchRuntime) -> NamedImages:
    """The images on which outputs are compared: of the data, evenly spread, else made-up ones."""
    if data is None:
        pixels = verification_images(network.size, COMPARED).transpose(0, 2, 3, 1).astype(np.uint8)
        names = tuple(f"made-up image {number + 1}" for number in range(COMPARED))
        return NamedImages(pixels, names, f"{COMPARED} made-up images (shapes over gradients and noise)")
    rows = sorted({int(row) for row in np.linspace(0, len(data) - 1, min(COMPARED, len(data)))})
    pixels = np.stack([network.frame(data.image(row), network.size)[0] for row in rows])
    return NamedImages(
        pixels, tuple(data.file_name(row) for row in rows), f"{counted(len(rows), 'image')} of {data.describe()}"
    )


def _differences(file: ExportedRuntime, network: TorchRuntime, images: NamedImages) -> Differences:
    nms = file.metadata.nms
    if nms is None:
        return raw_differences(file, network, images)
    postprocess = with_thresholds(file.postprocess, min(LEAST_CONFIDENCE, nms["confidence"]), nms["iou"])
    return detection_differences(file, network, images, with_limit(postprocess, nms["limit"]))


def _times(kind: type[ExportedRuntime], path: Path, network: TorchRuntime, reporter: Reporter) -> list[MeasuredTime]:
    """The file against the network in PyTorch: at one thread, and at the default number."""
    times = []
    on_cpu = network.device.type == "cpu"
    with reporter.progress("timing") as progress:
        for threads in sorted({1, chosen_threads()}) if on_cpu else [None]:
            if threads is not None:
                torch.set_num_threads(threads)
            file = kind(path, threads=threads)
            batch = scene_images(file, file.metadata.batch or 1)
            runs: dict[str, Callable[[], object]] = {
                name: partial(one, batch, with_thresholds(one.postprocess, *DETECTING))
                for name, one in ((f"{file.library}, {file.precision}", file), (_PYTORCH, network))
            }
            first = alternate(runs, 1, warm_up=1, untimed=1)
            turn = 2 * sum(one[0] for one in first.values())  # each runs twice, once untimed
            turns = int(min(MOST_TURNS, max(LEAST_TURNS, SECONDS / max(turn, 1e-9))))
            seconds = alternate(runs, turns, warm_up=2, untimed=1, progress=progress)
            times += [MeasuredTime(name, threads, seconds[name]) for name in runs]
    return times


def _average_precision(
    data: Dataset | None,
    exported: ExportedFile,
    detector: Detector,
    times: Sequence[MeasuredTime],
    reporter: Reporter,
) -> tuple[list[MeasuredAp], str]:
    """The AP of the file and of the network on the same images, and a sentence about them."""
    if data is None:
        return [], "Not measured: no data set was given. Export with --report-data DATA, or run `onelook val`."
    count = min(IMAGES, len(data))
    part = data
    if count < len(data):
        part = data.view(sorted({int(row) for row in np.linspace(0, len(data) - 1, count)}))
    found = validate(exported.path, part, reporter=reporter)
    ap = [MeasuredAp(times[0].name, found.stats)]
    spread = f"{count} of its images, evenly spread" if count < len(data) else "all its images"
    validated = f"On {data.describe()}; {spread}."
    network = next(one for one in reversed(times) if one.name == _PYTORCH)
    needed = network.milliseconds(50) / 1e3 / (exported.metadata.batch or 1) * count
    if needed > LONGEST:
        return ap, f"{validated} PyTorch's was not measured: it would take about {needed / 60:.0f} minutes."
    own = validate(detector, part, size=exported.metadata.size, reporter=reporter)
    return [*ap, MeasuredAp(_PYTORCH, own.stats)], validated


def _commands(plan: ReportPlan, exported: ExportedFile, target: str) -> list[tuple[str, str]]:
    """What a user types to run the file."""
    path, metadata = str(exported.path), exported.metadata
    runs_as = "onnx" if exported.path.suffix == ".onnx" else target
    extra = _EXTRAS[runs_as]
    without = "" if extra == "train" else ", without PyTorch"
    install = install_command(extra)
    where = IN_SOURCE if install.endswith(IN_SOURCE) else ""  # no part of what is typed
    commands = [
        (f"Install what runs it{without}{where}:", install.removesuffix(where)),
        ("Detect in images, folders, videos and cameras:", command("onelook", "detect", "photo.jpg", "--model", path)),
        ("Measure AP:", command("onelook", "val", plan.given, "--model", path)),
        ("Serve over HTTP:", command("onelook", "serve", path)),
        ("Measure latency:", command("onelook", "bench", "model", path, "--threads", "1")),
        ("In Python:", f"import onelook\n\ndetector = onelook.load({path!r})\nfound = detector.detect('photo.jpg')"),
    ]
    source = "/path/to/onelook/examples"
    build = f"cmake -S {source} -B build{{}} && cmake --build build\nbuild/{{}} {command(path)} photo.jpg"
    if runs_as == "onnx":
        text = build.format(" -DONNXRUNTIME=/path/to/onnxruntime", "detect_onnxruntime")
        commands.append(("In C++ with ONNX Runtime (examples/onnxruntime of the source):", text))
        if metadata.nms is None and metadata.batch is not None and metadata.int8 is None:
            text = build.format("", "detect_opencv")
            commands.append(("In C++ with OpenCV's DNN module, 4.8 or newer (examples/opencv):", text))
        text = (
            f"cp {command(path)} {source}/web/model.onnx\n"
            "npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz\n"
            f"cp package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm {source}/web\n"
            f"python -m http.server --directory {source}/web"
        )
        commands.append(("In a web page with onnxruntime-web (examples/web), at http://localhost:8000:", text))
    if runs_as == "ncnn":
        text = build.format(" -DCMAKE_PREFIX_PATH=/path/to/ncnn", "detect_ncnn")
        commands.append(("In C++ with ncnn (examples/ncnn of the source):", text))
    return commands


def _facts(file: ExportedRuntime, target: str) -> dict[str, str]:
    """Versions and processor."""
    found = int8_instructions()
    has = "unknown" if found is None else ", ".join(found) or "none"
    facts = {"Onelook": __version__, "runtime": file.library, "Python": sys.version.split()[0]}
    used = []
    for name in _PACKAGES:
        try:
            used.append(f"{name} {packages.version(name)}")
        except packages.PackageNotFoundError:
            continue
    own = describe_runtime(file)["device"]
    facts["packages"] = ", ".join(used)
    facts["device"] = own if own == processor_name() else f"{own}; processor {processor_name()}"
    facts["cores"] = str(num_cores())
    facts["instructions for 8 bits"] = has
    facts["system"] = platform.platform()
    return facts
