"""`onelook.train`: trains a detector, or a classifier of images, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from onelook.api.load import TrainResult
from onelook.api.open import PathLike
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.training_session import start_training
from onelook.data import Dataset
from onelook.devices import Layout, Precision
from onelook.networks.detector import Detector
from onelook.reporter import Reporter
from onelook.training.recipe import Recipe
from onelook.training.run import fit


def train(
    recipe: Recipe | RecipeChoice | PathLike | None,
    data: Dataset | PathLike,
    *,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    split: str | None = None,
    validation: Dataset | str | None = None,
    weights: PathLike | Detector | None = None,
    teacher: PathLike | Detector | None = None,
    teacher_weights: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    device: str | None = None,
    workers: int | None = None,
    cache: str | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: bool | None = None,
    deterministic: bool | None = None,
    allow_size_mismatch: bool | None = None,
    log: str | Sequence[str] = (),
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Trains by a recipe on a data set: `onelook.train("yolox-s", "data/", weights="yolox_s.pth", epochs=50)`.

    recipe: the name of a model, which is trained as published, in 50 epochs where it begins with weights and in batches
    of 16 images on a CPU; or a `Recipe`, whose class count is fitted to the data; or a recipe.yaml, or a run's folder.
    None is that of the run that is resumed.
    epochs: passes over the data; what the recipe counts in epochs (warm-up, closing phase) shrinks with them.
    size: side of the network's input in pixels, a multiple of 32.  batch: images a step; "auto" fills a GPU's memory.
    Other settings are those of the recipe: `onelook.change(onelook.recipe("yolox-s"), {"loss.assigner.radius": 2.0})`.
    data: a data set, or its folder or file, of which `split` is opened (train, or trainval).  validation: a data set,
    or a split of the same folder; None is val or test, whichever is there; "none" evaluates nothing, and the last
    weights count as the best.
    weights: what to start from: a file of any supported format, or a detector in memory; None starts from scratch.
    teacher: whose features are learnt as well: a name with `teacher_weights`, a weights file, a run's folder, or a
    detector in memory.
    out: folder of the run; None is runs/NAME, runs/NAME-2 and so on.  resume: continue the run in `out`, whose recipe
    and options are those it began with.  device: "cpu", "cuda", "cuda:1", "mps"; None is the best one here.
    workers: processes that prepare images.  cache: keep decoded images: "ram", "disk", a size of memory such as "4GB".
    precision: "fp32", "fp16" or "bf16"; None is fp16 on CUDA.  layout: memory layout of the network; None is the faster
    one.  compile: use torch.compile.  deterministic: the same numbers in every run on CUDA too, slower.
    allow_size_mismatch: train although images do not have their annotated sizes; boxes are used as they are annotated.
    log: also log to "tensorboard", "mlflow" or "wandb".  resume_command: how to continue a run in a folder, for the
    message after Ctrl-C.  reporter: receives messages and progress; None prints plain lines on standard error.

    The first Ctrl-C stops between two steps and saves the state: the result's reason is then "interrupted". Under
    torchrun every process calls this function; each returns the same result. Raises UserError for what cannot be used:
    names, files, values that contradict each other, a loss that is not finite.
    """
    with start_training(
        recipe,
        data,
        epochs=epochs,
        size=size,
        batch=batch,
        split=split,
        validation=validation,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        out=out,
        resume=resume,
        device=device,
        workers=workers,
        cache=cache,
        precision=precision,
        layout=layout,
        compile=compile,
        deterministic=deterministic,
        allow_size_mismatch=allow_size_mismatch,
        log=log,
        resume_command=resume_command,
        reporter=reporter,
    ) as session:
        result = fit(session.run, session.batches, session.measure, slow_loader_remedy=session.faster)
        session.conclude(result)
    return TrainResult(**vars(result))
