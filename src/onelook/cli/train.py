"""`onelook train`: from labelled images to a trained detector."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from onelook.cli.tasks import check_judging, preflight, task_of
from onelook.cli.train_flags import Flags, Layout, again, flags_of_run
from onelook.cli.train_start import (
    check_batch,
    choose_recipe,
    faster,
    fill_memory,
    find_teacher,
    loader_of,
    open_splits,
    rates_too_low,
    resumed_recipe,
    run_folder,
    starting_point,
)
from onelook.data import Dataset
from onelook.data.cache_budget import CachePlan, plan_cache
from onelook.training.processes import join_process_group
from onelook.training.run import Run, TrainResult, exclusive, fit
from onelook.training.teacher import TeacherRecord, write_teacher
from onelook.training.train_state import Precision, TrainState


def train(
    data: str,
    /,
    *overrides: str,
    model: str | None = None,
    weights: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    device: str | None = None,
    out: str | None = None,
    resume: bool = False,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
    cache: str | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: Annotated[bool | None, Parameter(negative="--no-compile")] = None,
    deterministic: Annotated[bool | None, Parameter(negative="--no-deterministic")] = None,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    log: tuple[str, ...] = (),
) -> TrainResult:
    """Train a detector, or a classifier of pictures.

    The model's published training is used unless --recipe names another; what it counts in epochs shrinks with
    --epochs. Flags are the run; path=value changes the recipe (see onelook diff for the paths). Stop with Ctrl-C and go
    on with --resume. In several processes: torchrun --nproc-per-node 8 -m onelook train ...

    Where DATA is a folder with a folder of pictures for each class (perhaps in train/ and val/), a classifier is
    trained on the model's backbone. Its weights start a detector: --weights.

    Examples:
        onelook train data/ --model yolox-s --weights yolox_s.pth --epochs 50
        onelook train data/ --model yolox-nano --size 320 --batch 16 loss.assigner.radius=2.0
        onelook train data/ --model yolox-nano --teacher runs/yolox-s
        onelook train data/ --out runs/mine --resume

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file; or a folder of class folders.
        overrides: Changes of the recipe, each path=value.
        model: Name of the model. Needed unless --recipe or --resume gives one.
        weights: File to start from; none starts from scratch.
        recipe: Another recipe: its name, a recipe.yaml, or the folder of a run.
        epochs: Passes over the data; 50 with weights, else as published.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step, over all processes; as published (64) on a GPU, 16 on a CPU; auto fills a GPU's memory.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        out: Folder of the run.
        resume: Go on with the run in --out, which knows its recipe, splits and flags.
        train_split: Split to train on; train, or trainval where that is what there is.
        val_split: Split to evaluate on; val, or test where that is what there is; none evaluates nothing.
        workers: Processes that prepare images.
        cache: Keep decoded images: ram, disk (in the run's folder), a size of memory such as 4GB, or none.
        precision: fp32, fp16 or bf16; fp16 on CUDA unless given.
        layout: Memory layout of the network; the faster one of the device unless given.
        compile: Compile the network with torch.compile.
        deterministic: Same numbers in every run on CUDA too, slower.
        teacher: Model whose features are learnt as well: a name, a weights file, or the folder of a run.
        teacher_weights: File with the weights of a --teacher that is given by name.
        log: Also log to tensorboard, mlflow or wandb; none on resuming ends that.
    """
    start = None if resume or weights in (None, "none") else weights
    folder = run_folder(out, resume, model or recipe)
    flags = Flags(
        device=device,
        train_split=train_split,
        val_split=val_split,
        workers=workers,
        cache=cache,
        precision=precision,
        layout=layout,
        compile=compile,
        deterministic=deterministic,
        log=log,
    )
    if resume:
        flags = flags.after(flags_of_run(folder))
    training, validation, notes = open_splits(data, flags.train_split, flags.val_split)
    with join_process_group(flags.device) as process_group:
        plan = None if flags.cache in (None, "none") else plan_cache(flags.cache, training, folder)
        if resume:
            images = None if batch == "auto" else batch
            chosen = resumed_recipe(
                folder, overrides, model=model, recipe=recipe, epochs=epochs, size=size, batch=images
            )
        else:
            chosen = choose_recipe(
                training.names,
                overrides,
                model=model,
                recipe=recipe,
                epochs=epochs,
                size=size,
                batch=None if batch == "auto" else batch,
                fine_tunes=start is not None,
                teaches=teacher is not None,
                classifies=training.format == "classes",
                on_cpu=process_group.device.type == "cpu",
            )
        check_judging(task_of(chosen, training), chosen, validation)
        told = find_teacher(chosen, folder, teacher, teacher_weights, resume)
        teaching = None if told is None else told[0]
        detector, said = starting_point(chosen, training, process_group, start)
        notes += said
        if batch == "auto" and not resume:
            chosen, note = fill_memory(
                chosen, process_group, len(training), detector=detector, runtime=flags.runtime, teacher=teaching
            )
            notes.append(note)
        check_batch(chosen, process_group, training)
        train_state = TrainState(chosen, detector, process_group, flags.runtime, teaching)
        with exclusive(folder, process_group, new=not resume):
            run = Run(
                folder,
                chosen,
                train_state,
                console=Console(file=sys.stderr, highlight=False),
                loggers=flags.loggers,
                resume=resume,
                resume_command=again(data, folder, process_group),
                image_name=lambda row: str(training.path(row)),
            )
            run.record.flags = flags.to_dict()
            announce(run, notes if plan is None else [*notes, str(plan)], None if told is None else told[1], resume)
            return carry_out(run, training, validation, workers=flags.workers, cache=plan, begins=not resume)


def carry_out(
    run: Run,
    training: Dataset,
    validation: Dataset | None,
    *,
    workers: int | None,
    cache: CachePlan | None = None,
    begins: bool = True,
) -> TrainResult:
    """A run, from a look at its data (where it begins) to its report. What ends it is in its log too."""
    task = task_of(run.recipe, training)
    judged = None if validation is None else validation.identity()
    with logged(run):
        run.check_data({"training": training.identity(), "validation": judged})
        if begins:
            preflight(task, run, training, validation)
    measure = None if validation is None else partial(task.metrics, validation=validation, run=run)
    # Logged before the loader ends its workers: where another process has ended too, this one may be killed meanwhile.
    with loader_of(training, run.recipe, run.train_state.process_group, workers, cache) as batches, logged(run):
        if begins and (warning := rates_too_low(run.recipe, -(-len(batches) // run.recipe.accumulate))):
            run.log.warning(warning)
        trained = fit(run, batches, measure, slow_loader_remedy=faster(batches))
    if trained.reason != "interrupted":
        with logged(run):
            task.conclude(run, trained, training, validation)
    return trained


@contextlib.contextmanager
def logged(run: Run) -> Iterator[None]:
    """What ends the block is in the run's log."""
    try:
        yield
    except Exception as error:
        run.log.log(f"error: {error}")
        raise


def announce(run: Run, notes: list[str], teacher: TeacherRecord | None, resume: bool) -> None:
    """Says what the training begins with, and records the teacher of a new run."""
    if teacher is not None:
        strides = ", ".join(map(str, run.train_state.distillation_strides))
        notes = [*notes, f"Learning from {teacher} as well, at strides {strides}."]
        if run.train_state.process_group.is_main and not resume:
            write_teacher(run.folder, teacher)
    for note in notes:
        run.log.info(note)
