"""`onelook train`: from labelled images to a trained detector."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from onelook.api.load import TrainResult
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.resume_command import resume_training
from onelook.cli.views.train import show_training
from onelook.devices import Layout, Precision


def train(
    data: str,
    /,
    *overrides: str,
    model: str | None = None,
    weights: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    device: str | None = None,
    out: str | None = None,
    resume: bool = False,
    auto_resume: bool = False,
    train_split: str | None = None,
    val_split: str | None = None,
    val_fraction: float | None = None,
    workers: int | None = None,
    cache: str | None = None,
    augment_on: Literal["cpu", "device"] | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: Annotated[bool | None, Parameter(negative="--no-compile")] = None,
    deterministic: Annotated[bool | None, Parameter(negative="--no-deterministic")] = None,
    threads: int | None = None,
    allow_size_mismatch: Annotated[bool | None, Parameter(negative="--no-allow-size-mismatch")] = None,
    drop_suspicious: str | None = None,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    log: tuple[str, ...] = (),
    watch: bool = False,
) -> CommandResult[TrainResult]:
    """Train a detector, or a classifier of images.

    The model's published training is used unless --recipe names another; what it counts in epochs shrinks with
    --epochs. From weights, or where the steps are few, it is fitted to the data (NAME:small). Flags are the run;
    path=value changes the recipe (see onelook diff for the paths). Stop with Ctrl-C and go on with --resume. In several
    processes: torchrun --nproc-per-node 8 -m onelook train ...

    Where DATA is a folder with a folder of images for each class (perhaps in train/ and val/), a classifier is
    trained on the model's backbone. Its weights start a detector: --weights.

    Examples:
        onelook train data/ --model yolox-s --weights yolox_s.pth --epochs 50
        onelook train data/ --model yolox-nano --weights yolox_nano.pth --budget 10m
        onelook train data/ --model yolox-nano --size 320 --batch 16 loss.assigner.radius=2.0
        onelook train data/ --model yolox-nano --teacher runs/yolox-s
        onelook train undivided/ --model yolox-nano --val-fraction 0.2
        onelook train data/ --out runs/mine --resume

    Args:
        data: Data set: a folder, a YAML or COCO JSON file, or a URL or pattern of shards; or a folder of class folders.
        overrides: Changes of the recipe, each path=value.
        model: Name of the model. Needed unless --recipe or --resume gives one.
        weights: File to start from, or the folder of a run (its best weights); none starts from scratch.
        recipe: Another recipe: its name (NAME:published, NAME:small), a recipe.yaml, or the folder of a run.
        epochs: Passes over the data; 50 with weights, else as published.
        budget: Instead of epochs, the time that all may take: 30s, 10m or 2h; or passes, 20e.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step, over all processes; as published (64) on a GPU, 16 on a CPU; auto fills a GPU's memory.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        out: Folder of the run.
        resume: Continue the run in --out, with its recipe, splits and flags.
        auto_resume: The same where --out holds a run, else start one: for torchrun, which restarts a command as it was.
        train_split: Split to train on; train, or trainval where that is what there is.
        val_split: Split to evaluate on; val, or test where that is what there is; none evaluates nothing.
        val_fraction: Share of the images to evaluate on, where the data set has no split for it, such as 0.2.
        workers: Processes that prepare images.
        cache: Keep decoded images: ram, disk (in the run's folder), a size of memory such as 4GB, or none.
        augment_on: Where images are augmented: cpu (in the workers), or device (mosaic, warp and colours on the GPU).
        precision: fp32, fp16 or bf16; fp16 on CUDA unless given.
        layout: Memory layout of the network; channels-last on CUDA and contiguous elsewhere unless given.
        compile: Compile the network with torch.compile.
        deterministic: Same numbers in every run on CUDA too, slower.
        threads: Threads of PyTorch on a CPU; unless given, the first steps measure how many are fastest.
        allow_size_mismatch: Train although images do not have their annotated sizes, with the boxes as annotated.
        drop_suspicious: Leave out training images whose annotations a model contradicts, a fifth at most: a weights
            file, the folder of a run, or a COCO results file of the training images.
        teacher: Model whose predictions or features are learnt too: a name, a weights file, or the folder of a run.
        teacher_weights: File with the weights of a --teacher that is given by name.
        log: Also log to tensorboard, mlflow or wandb; none on resuming ends that.
        watch: Show curves, worst images and the time left on a page at an address of this machine, which is printed.
    """
    from onelook.api.recipe_choice import RecipeChoice
    from onelook.api.train import train as train_by_recipe

    result = train_by_recipe(
        RecipeChoice(model=model, recipe=recipe, epochs=epochs, size=size, batch=batch, overrides=overrides),
        data,
        budget=budget,
        split=train_split,
        validation=val_split,
        val_fraction=val_fraction,
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        out=out,
        resume=resume or ("auto" if auto_resume else False),
        device=device,
        workers=workers,
        cache=cache,
        augment_on=augment_on,
        precision=precision,
        layout=layout,
        compile=compile,
        deterministic=deterministic,
        threads=threads,
        allow_size_mismatch=allow_size_mismatch,
        drop_suspicious=drop_suspicious,
        log=log,
        watch=watch,
        resume_command=partial(resume_training, data),
        reporter=ConsoleReporter(),
    )
    return CommandResult(result, show_training, result.exit_code)
