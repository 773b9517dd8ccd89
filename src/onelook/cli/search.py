"""`onelook search`: a backbone for the user's own budget."""

from __future__ import annotations

from typing import Any, Literal

from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.resume_command import resume_backbone_search
from onelook.cli.views.search import show_search


def search(
    *,
    budget: str = "",
    family: str = "damo-yolo",
    like: str | None = None,
    size: int | None = None,
    runtime: Literal["torch", "onnx", "openvino", "ncnn"] | None = None,
    threads: int | None = None,
    device: str | None = None,
    evaluations: int | None = None,
    processes: int | None = None,
    seed: int | None = None,
    name: str | None = None,
    out: str | None = None,
    resume: bool = False,
    on: str | None = None,
) -> CommandResult[Any]:
    """Search for a backbone within a budget, without training (MAE-NAS).

    The score is the entropy of the features of an untrained network: the more, the more a training can make of it.
    The result is a model in a file, which train, models, export and bench take by --model. Stop with Ctrl-C and
    continue with --resume.

    Examples:
        onelook search --budget flops=damo-yolo-t
        onelook search --like damo-yolo-ns --budget flops=0.4G,parameters=1M --size 416 --name pocket
        onelook search --budget latency=60ms --size 416 --runtime openvino --threads 2
        onelook search --family yolox --budget flops=yolox-tiny --size 416
        onelook search --resume --out runs/search-damo-yolo --evaluations 1000000

    Args:
        budget: Upper limits of the backbone, with commas between: flops=4G (multiply-adds), parameters=2M, layers=20;
            or the cost of a model, flops=damo-yolo-t. latency=12ms is of the whole detector on this machine.
        family: Family of detectors: damo-yolo, yolox, yolov4 or yolov7.
        like: Model whose blocks, stem, neck and head the found one has; unless given damo-yolo-t, yolox-tiny, yolov4
            or yolov7-tiny.
        size: Side of the network's input in pixels; that of --like unless given.
        runtime: What measures latency: torch (unless given), onnx, openvino or ncnn.
        threads: Threads of that; one a core unless given.
        device: A GPU that measures latency with --runtime torch: cuda, cuda:1 or mps; the CPU unless given.
        evaluations: Structures to try, those of earlier sessions included; 100,000 unless given.
        processes: How many processes compute; the result does not depend on it.
        seed: Of the search; 0 unless given.
        name: Of the found model; that of the folder unless given.
        out: Folder of the search.
        resume: Continue the search in --out.
        on: Compute on a Ray cluster, with the same result: ray, or ray://HOST:PORT.
    """
    from onelook.api.search import search as search_backbone

    result = search_backbone(
        budget,
        family=family,
        like=like,
        size=size,
        runtime=runtime,
        threads=threads,
        device=device,
        evaluations=evaluations,
        processes=processes,
        seed=seed,
        name=name,
        out=out,
        resume=resume,
        on=on,
        resume_command=resume_backbone_search,
        reporter=ConsoleReporter(),
    )
    return CommandResult(result, show_search, result.exit_code)
