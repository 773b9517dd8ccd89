"""`onelook.train`: trains a detector, or a classifier of images, in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from onelook.api.load import TrainResult
from onelook.api.open import PathLike
from onelook.api.recipe_choice import RecipeChoice, named_choice
from onelook.api.training_session import TrainOptions, start_training
from onelook.config import check_arguments
from onelook.data import Dataset
from onelook.devices import Layout, Precision
from onelook.networks.detector import Detector
from onelook.reporter import Reporter
from onelook.training.options import AugmentOn, RunOptions
from onelook.training.recipe import Recipe
from onelook.training.run import fit


def train(
    recipe: Recipe | RecipeChoice | PathLike | None,
    data: Dataset | PathLike,
    *,
    epochs: int | None = None,
    budget: str | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    split: str | None = None,
    validation: Dataset | str | None = None,
    val_fraction: float | None = None,
    weights: PathLike | Detector | None = None,
    teacher: PathLike | Detector | None = None,
    teacher_weights: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool | Literal["auto"] = False,
    device: str | None = None,
    workers: int | None = None,
    cache: str | None = None,
    augment_on: AugmentOn | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: bool | None = None,
    deterministic: bool | None = None,
    threads: int | None = None,
    allow_size_mismatch: bool | None = None,
    drop_suspicious: PathLike | None = None,
    log: str | Sequence[str] = (),
    watch: bool = False,
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Trains a detector, or a classifier of images, on a data set, and returns its metrics and its weights.

    onelook.train("yolox-s", "data/", weights="yolox_s.pth", epochs=50)

    recipe: the name of a model, which is trained as published (in 50 epochs where it starts from weights, and in
    batches of 16 images on a CPU), fitted to the data where it starts from weights or has few steps (recipe small,
    NAME:small); or a `Recipe`, whose number of classes is set to that of the data; or a recipe.yaml, or the folder of a
    run. None is the recipe of the run that is resumed.  data: a data set, or its folder or file, of which `split` is
    opened.  epochs: passes over the data. The phases that the recipe counts in epochs (warm-up, closing phase) shrink
    with it.  budget: instead of epochs, the time that the call may take, such as "10m", "30s" or "2h", or "20e" for
    epochs. The schedule is planned from a few measured steps and then follows the clock, evaluation and report
    included; a resumed run has what is left of the time.  size: side of the network's input in pixels, a multiple of
    32.  batch: images in a step; "auto" fills the memory of a GPU.  split: None is train, or trainval where there is no
    train.  validation: a data set, or a split of the same folder; None is val, or test where there is no val; "none"
    evaluates nothing, and the last weights count as the best.  val_fraction: the share of the images to evaluate on,
    where the data set has no split for it: divided as by `onelook.split`; a resumed run keeps its division.  weights:
    what the training starts from: a file of any supported format, the folder of a run (its best weights), or a detector
    in memory; None is from scratch.
    teacher: model whose predictions or features are additional targets (distillation): a name with `teacher_weights`, a
    weights file, the folder of a run, or a detector in memory.  teacher_weights: weights for a teacher that is given by
    name.  out: folder of the run; None is runs/NAME, runs/NAME-2 and so on.  resume: continue the run in `out`, with
    its recipe and options; "auto": continue it where there is one, else start it, for torchrun, which restarts a
    program as it was started.  device: "cpu", "cuda", "cuda:1", "mps"; None is the best one of this machine.  workers:
    processes that prepare images.  cache: keep decoded images: "ram", "disk" (in the folder of the run), or a size of
    memory such as "4GB".  augment_on: where images are augmented: "cpu" (None), in the workers; or "device", where one
    warp a batch makes mosaic, affine, MixUp, colours and flip, with the same random parameters (not every augmentation
    can).  precision: "fp32", "fp16" or "bf16"; None is fp16 on CUDA, else fp32.  layout: memory layout of the network;
    None is channels-last on CUDA, else contiguous.  compile: use torch.compile.  deterministic: the same numbers in
    every run, on CUDA too; slower.  threads: of PyTorch on a CPU; None is OMP_NUM_THREADS, else the number that is
    fastest in the first steps.  allow_size_mismatch: train although images do not have their annotated sizes; boxes are
    used as they are annotated.  drop_suspicious: leave out training images whose annotations a model contradicts, a
    fifth at most: a weights file, the folder of a run, or a COCO results file of them; the run lists them in
    `suspicious.json`.  log: also log to "tensorboard", "mlflow" or "wandb".  watch: show the curves, the worst images
    and the time left on a page at an address of this machine, which is printed.  resume_command: returns how to
    continue the run in a folder, for the message after Ctrl-C.  reporter: receives messages and progress; None prints
    plain lines on standard error.

    Other settings are those of the recipe: `onelook.change(onelook.recipe("yolox-s"), {"loss.assigner.radius": 2.0})`.

    The first Ctrl-C stops between two steps and saves the state: the result's reason is then "interrupted". Under
    torchrun every process calls this function; each returns the same result. Raises UserError for what cannot be used:
    names, files, values that contradict each other, a loss that is not finite.
    """
    check_arguments(train, locals())
    options = TrainOptions(
        run=RunOptions(
            device=device,
            train_split=split,
            val_fraction=val_fraction,
            workers=workers,
            cache=cache,
            augment_on=augment_on,
            precision=precision,
            layout=layout,
            compile=compile,
            deterministic=deterministic,
            threads=threads,
            budget=budget,
            allow_size_mismatch=allow_size_mismatch,
            drop_suspicious=None if drop_suspicious is None else os.fspath(drop_suspicious),
        ),
        validation=validation,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        out=out,
        resume=resume,
        log=log,
        watch=watch,
        resume_command=resume_command,
        reporter=reporter,
    )
    choice = named_choice(recipe, epochs=epochs, size=size, batch=batch)
    with start_training(choice, data, options) as session:
        remedy = session.slow_loader_remedy
        result = fit(session.run, session.batches, session.evaluate, slow_loader_remedy=remedy, threads=session.threads)
        session.finish(result)
    return TrainResult(**vars(result))
