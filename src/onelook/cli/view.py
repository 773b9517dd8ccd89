"""`onelook view`: a data set as one HTML page."""

from __future__ import annotations

from pathlib import Path

from onelook.api import view as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.serving.view_server import PORT


def view(
    data: Path,
    /,
    *,
    out: Path = Path("view.html"),
    model: str | None = None,
    weights: Path | None = None,
    detections: Path | None = None,
    split: str = "val",
    suspects_coco: Path | None = None,
    suspects_cvat: Path | None = None,
    suspects_label_studio: Path | None = None,
    overwrite: bool = False,
    serve: bool = False,
    port: int = PORT,
) -> CommandResult[api.ViewResult]:
    """Write an HTML page that shows a data set: images with boxes, statistics, problems, a model's mistakes.

    The page needs no network and no server. It refers to the images where they are, and shows them page by page, by
    class, split, size and kind of problem. With a model or detections it shows them beside the labels, and finds false
    positives, misses and suspect labels. What is faulty in a data set is listed, and the rest is shown.

    Examples:
        onelook view data/
        onelook view data/ --serve
        onelook view data/ --model runs/yolox-s --out mistakes.html
        onelook view data/ --detections found.json --split test

    Args:
        data: folder, YAML file or COCO JSON file of a data set.
        out: HTML file to write.
        model: model whose mistakes are shown: a name, a weights or exported file, or the folder of a run.
        weights: weights for a model given by name.
        detections: COCO results file whose mistakes are shown, instead of a model's.
        split: split that the model or the detections are for.
        suspects_coco: COCO JSON file to write, for FiftyOne: the images whose annotations the detections contradict,
            with their annotations and, marked, what the model says.
        suspects_cvat: the same as XML of "CVAT for images".
        suspects_label_studio: the same as tasks of Label Studio, with the model's boxes as predictions.
        overwrite: replace files that are there.
        serve: write no file, and serve the page and its images on this machine until Ctrl-C.
        port: port for --serve; 0 is any free one.
    """
    result = api.view(
        data,
        out=out,
        model=model,
        weights=weights,
        detections=detections,
        split=split,
        suspects_coco=suspects_coco,
        suspects_cvat=suspects_cvat,
        suspects_label_studio=suspects_label_studio,
        overwrite=overwrite,
        serve=serve,
        port=port,
        reporter=ConsoleReporter(),
    )
    return CommandResult(result)
