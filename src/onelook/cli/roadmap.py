"""`onelook roadmap`: a paper's table, trained row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.roadmap import show_printed, show_roadmap, show_roadmaps


def roadmap(
    name: str | None = None,
    data: str | None = None,
    /,
    *overrides: str,
    rows: str | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    scale: str | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: Path | None = None,
    teacher: str | None = None,
    class_folders: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
    on: str | None = None,
) -> CommandResult[Any]:
    """Train the rows of a paper's ablation table, and compare them.

    Trains every row, one run folder for each seed, and writes the table of what was measured beside the paper's
    figures, as CSV, Markdown, HTML, and a chart of speed and accuracy. The same command continues what was stopped.
    Without data it shows the rows, their costs and what each changes, and the table as printed; without a name, the
    roadmaps. Rows that compare
    classifiers (yolov4-table2 and 3) take a folder of class folders.

    Examples:
        onelook roadmap yolox-table2
        onelook roadmap yolox-table2 data/ --epochs 30 --seeds 2 --scale depth=0.33,width=0.25 --size 320
        onelook roadmap yolox-table2 data/ --rows anchor-free,simota ema.decay=0.998

    Args:
        name: The roadmap.
        data: Data set: a folder, a YAML file or a COCO JSON file; or a folder of class folders.
        overrides: Changes of every row's recipe, each path=value.
        rows: Only these, by key or number, separated by commas.
        epochs: Passes over the data; as published unless given.
        seeds: Trainings of each row, with different seeds.
        scale: Factors on settings of the models, such as depth=0.33,width=0.25.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step; as published on a GPU, at most 16 on a CPU.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        out: Folder of the runs and the table; runs/NAME unless given.
        teacher: Weights file or folder of a run whose features the rows with distillation learn.
        class_folders: Folder of class folders, for rows whose backbones are trained as classifiers first.
        train_split: Split to train on; train, or trainval where that is what there is.
        val_split: Split to evaluate on; val, or test where that is what there is.
        workers: Processes that prepare images.
        on: Train the rows on a Ray cluster whose machines share the folders: ray, or ray://HOST:PORT, with settings
            behind it (ray,workers=8,cpus=2,gpus=1).
    """
    from onelook.api.roadmap import roadmap as train_roadmap
    from onelook.api.roadmap import roadmaps
    from onelook.recipes.records import printed_table

    if name is None:
        return CommandResult(roadmaps(), show_roadmaps)
    if data is None and name in roadmaps().printed:
        return CommandResult(printed_table(name), show_printed)
    table = train_roadmap(
        name,
        data,
        overrides=overrides,
        rows=rows,
        epochs=epochs,
        seeds=seeds,
        scale=scale,
        size=size,
        batch=batch,
        device=device,
        out=out,
        teacher=teacher,
        class_folders=class_folders,
        split=train_split,
        validation=val_split,
        workers=workers,
        on=on,
        reporter=ConsoleReporter(),
    )
    return CommandResult(table, show_roadmap)
