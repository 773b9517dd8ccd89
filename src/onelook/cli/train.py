"""`onelook train`: from labelled images to a trained detector."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console

from onelook.config import change, override
from onelook.data import Dataset, open_dataset, splits
from onelook.data.loader import Loader, default_workers
from onelook.errors import UsageError, UserError
from onelook.evaluate import evaluate
from onelook.models.build import build
from onelook.models.variants import variant
from onelook.ops.nms import with_thresholds
from onelook.predict.backends import TorchBackend
from onelook.recipes import RECIPE_FILE, RECIPE_TYPES, find_recipe, published_recipe
from onelook.report.training import FIRST_BATCH, report_training
from onelook.train.distill import Distillation
from onelook.train.learner import Learner, Machine, Precision
from onelook.train.preflight import inspect, positives_per_object, write_first_batch
from onelook.train.processes import World, join
from onelook.train.recipe import Recipe, shortened
from onelook.train.run import Evaluate, Run, Trained, follow, refuse_changes
from onelook.train.statistics import measure_statistics
from onelook.train.teacher import TeacherRecord, open_teacher, record_teacher, resumed_teacher
from onelook.weights import load_weights, restore

if TYPE_CHECKING:
    from onelook.models.detector import Detector

Layout = Literal["channels-last", "contiguous"]
FINE_TUNING_EPOCHS = 50  # of a training that begins with weights, unless told otherwise
STATISTICS_IMAGES = 128  # that the statistics of folded batch norm are measured on
CPU_BATCH = 16  # the published 64 images fill the memory of most computers without an accelerator
FIRST_BATCHES = 2  # that are looked at before the first epoch
FEW_POSITIVES = 0.5  # priors an object: below, half of the objects or more teach nothing
EVALUATION = (0.01, 0.65)  # confidence and IoU, as `onelook val`


def train(
    data: str,
    /,
    *overrides: str,
    model: str | None = None,
    weights: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: str | None = None,
    resume: bool = False,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: bool = False,
    deterministic: bool = False,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    log: tuple[str, ...] = (),
) -> Trained:
    """Train a detector.

    The model's published training is used unless --recipe names another; what it counts in epochs shrinks with
    --epochs. Flags are the run; path=value changes the recipe (see onelook diff for the paths). Stop with Ctrl-C and go
    on with --resume. In several processes: torchrun --nproc-per-node 8 -m onelook train ...

    Examples:
        onelook train data/ --model yolox-s --weights yolox_s.pth --epochs 50
        onelook train data/ --model yolox-nano --size 320 --batch 16 loss.assigner.radius=2.0
        onelook train data/ --model yolox-nano --teacher runs/yolox-s
        onelook train data/ --out runs/mine --resume

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file.
        overrides: Changes of the recipe, each path=value.
        model: Name of the model. Needed unless --recipe or --resume gives one.
        weights: File to start from; none starts from scratch.
        recipe: Another recipe: its name, a recipe.yaml, or the folder of a run.
        epochs: Passes over the data; 50 with weights, else as published.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step, over all processes; as published (64) on a GPU, 16 on a CPU.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        out: Folder of the run.
        resume: Go on with the run in --out.
        train_split: Split to train on; train, or trainval where that is what there is.
        val_split: Split to evaluate on; val, or test where that is what there is; none evaluates nothing.
        workers: Processes that prepare images.
        precision: fp32, fp16 or bf16; fp16 on CUDA unless given.
        layout: Memory layout of the network; the faster one of the device unless given.
        compile: Compile the network with torch.compile.
        deterministic: Same numbers in every run on CUDA too, slower.
        teacher: Model whose features are learnt as well: a name, a weights file, or the folder of a run.
        teacher_weights: File with the weights of a --teacher that is given by name.
        log: Also log to tensorboard, mlflow or wandb.
    """
    training, validation, notes = open_splits(data, train_split, val_split)
    if resume and out is None:
        raise UsageError("--resume needs the folder of the run.", "Add --out with the folder that was printed.")
    if teacher_weights is not None and teacher is None:
        raise UsageError("--teacher-weights needs the teacher's name.", "Add --teacher NAME.")
    folder = Path(out) if out is not None else free_folder(model or recipe or "run")
    start = None if weights in (None, "none") else weights
    with join(device) as world:
        if resume:
            chosen = resumed_recipe(folder, overrides)
        else:
            chosen = choose_recipe(
                training.names,
                overrides,
                model=model,
                recipe=recipe,
                epochs=epochs,
                size=size,
                batch=batch,
                fine_tunes=start is not None,
                teaches=teacher is not None,
                on_cpu=world.device.type == "cpu",
            )
        check_batch(chosen, world, training)
        console = Console(file=sys.stderr, highlight=False)
        detector = make_detector(chosen, training.names)
        channels_last = None if layout is None else layout == "channels-last"
        machine = Machine(
            precision=precision, channels_last=channels_last, compile=compile, deterministic=deterministic
        )
        loaded = load_weights(detector, start) if start is not None and not resume else None
        if loaded is not None and loaded.form == "deploy":
            unfold(detector, training, chosen, world)
        told = find_teacher(chosen, folder, teacher, teacher_weights, resume)
        learner = Learner(chosen, detector, world, machine, None if told is None else told[0])
        run = Run(
            folder,
            chosen,
            learner,
            console=console,
            sinks=log,
            resume=resume,
            resume_with=f"onelook train {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume",
            name_of=lambda row: str(training.path(row)),
        )
        if told is not None:
            notes.append(
                f"Learning from {told[1]} as well, at strides {', '.join(map(str, learner.teaching_strides))}."
            )
            if world.is_main and not resume:
                record_teacher(folder, told[1])
        for note in (*notes, *([str(loaded)] if loaded is not None else [])):
            run.journal.say(note)
        return carry_out(run, training, validation, console, workers=workers, begins=not resume)


def carry_out(
    run: Run, training: Dataset, validation: Dataset | None, console: Console, *, workers: int | None, begins: bool
) -> Trained:
    """A run, from a look at its data (where it begins) to its report."""
    if begins:
        preflight(run, training, validation, console)
    measure = None if validation is None else evaluator(validation, run.recipe, run.learner.world)
    with loader_of(training, run.recipe, run.learner.world, workers) as batches:
        trained = follow(run, batches, measure)
    return trained if trained.reason == "interrupted" else conclude(run, trained, training, validation)


def open_splits(data: str, train_split: str | None, val_split: str | None) -> tuple[Dataset, Dataset | None, list[str]]:
    """The split to train on, the one to evaluate on (with the same class order), and what to say about them."""
    there = splits(data)
    voc = "trainval" in there and "test" in there
    training = open_dataset(data, train_split or ("trainval" if voc or "train" not in there else "train"))
    notes = [f"Training on {training.describe()}."]
    wanted = val_split or ("test" if voc or ("val" not in there and "test" in there) else "val")
    if wanted == "none" or (val_split is None and wanted not in there):
        return training, None, [*notes, "Nothing to evaluate on: the last weights will count as the best."]
    validation = open_dataset(data, wanted).with_names(training.names)
    return training, validation, [*notes, f"Evaluating on {validation.describe()}."]


def choose_recipe(
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    *,
    model: str | None,
    recipe: str | None,
    epochs: int | None,
    size: int | None,
    batch: int | None,
    fine_tunes: bool,
    teaches: bool,
    on_cpu: bool,
) -> Recipe:
    """The recipe that the command line describes, for these classes."""
    if model is None and recipe is None:
        raise UsageError("The model is missing.", "Add --model yolox-s, or see: onelook models")
    chosen = find_recipe(recipe) if recipe is not None else published_recipe(str(model), distilled=teaches)
    if teaches and chosen.distillation is None:
        chosen = replace(chosen, distillation=Distillation())
    published = recipe is None
    if model is not None and recipe is not None:
        chosen = replace(chosen, model=variant(model).architecture)
    if epochs is None and published and fine_tunes:
        epochs = FINE_TUNING_EPOCHS
    if batch is None and published and on_cpu:
        batch = CPU_BATCH
    return override(adapted(chosen, names, epochs, size, batch), *overrides, types=RECIPE_TYPES)


def adapted(chosen: Recipe, names: tuple[str, ...], epochs: int | None, size: int | None, batch: int | None) -> Recipe:
    """The recipe for these classes, and for what the command line says; None is as it is."""
    if epochs is not None and epochs != chosen.epochs:
        chosen = shortened(chosen, epochs)
    new: dict[str, Any] = {"model.num_classes": len(names)}
    if batch is not None:
        new["batch_size"] = batch
    if size is not None:
        if size < 32 or size % 32:
            below, above = size // 32 * 32, (max(size, 0) // 32 + 1) * 32
            near = f"{below} or {above}" if below > 0 else str(above)
            raise UsageError(f"The size {size} is no multiple of 32.", f"Use --size {near}.")
        new["size"] = (size, size)
    return change(chosen, new)


def resumed_recipe(folder: Path, overrides: tuple[str, ...]) -> Recipe:
    """The recipe of the run in a folder; UserError if the command line would change it."""
    if not (folder / RECIPE_FILE).is_file():
        raise UserError(f"There is no run in '{folder}' to resume.", "Start the training without --resume.")
    before = find_recipe(folder)
    refuse_changes(folder, before, override(before, *overrides, types=RECIPE_TYPES))
    return before


def find_teacher(
    recipe: Recipe, folder: Path, teacher: str | None, weights: str | None, resume: bool
) -> tuple[Detector, TeacherRecord] | None:
    """The teacher of a run, None where its recipe has none; UserError where the two do not agree."""
    if recipe.distillation is None:
        if teacher is not None:
            raise UsageError("The recipe has no teacher.", "Leave --teacher away, or distillation=none.")
        return None
    if resume:
        return resumed_teacher(folder, teacher, weights)
    if teacher is None:
        raise UsageError("The recipe learns from a teacher.", "Add --teacher, or distillation=none.")
    return open_teacher(teacher, weights)


def check_batch(recipe: Recipe, world: World, training: Dataset) -> None:
    """UserError where the batch cannot be shared out, or the data does not fill one."""
    shares = world.size * recipe.accumulate
    if recipe.batch_size % shares:
        raise UserError(
            f"A batch of {recipe.batch_size} images cannot be shared by {world.size} processes "
            f"in {recipe.accumulate} passes.",
            f"Choose a --batch that is a multiple of {shares}.",
        )
    if not len(training):
        raise UserError("The training split has no images.", "Choose another with --train-split.")


def make_detector(recipe: Recipe, names: tuple[str, ...]) -> Detector:
    """The detector of a recipe, with the weights that its seed draws."""
    torch.manual_seed(recipe.seed)
    return build(recipe.model, names)


def loader_of(training: Dataset, recipe: Recipe, world: World, workers: int | None = None) -> Loader:
    """The batches of a recipe for one process."""
    on_cpu = world.device.type == "cpu"
    if workers is None:
        workers = min(default_workers(), 1) if on_cpu else default_workers()  # the network needs the other cores
    return Loader(
        training,
        recipe.input_size,
        recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        sampling=recipe.sampling,
        max_labels=recipe.max_labels,
        workers=workers,
        rank=world.rank,
        world=world.size,
        accumulate=recipe.accumulate,
        pin=world.device.type == "cuda",
    )


def unfold(detector: Detector, training: Dataset, recipe: Recipe, world: World) -> None:
    """Gives batch norm that was folded away its statistics back, from the first images of the training.

    The same images in every process, so that all start with the same weights.
    """
    alone = World(0, 1, world.device)
    with loader_of(training, recipe, alone, workers=0) as batches:
        needed = -(-STATISTICS_IMAGES * recipe.accumulate // recipe.batch_size)
        first = islice(batches.epoch(0, recipe.augment_at(0), 0), needed)
        detector.to(world.device)
        measure_statistics(detector, (batch.images.to(world.device).float() for batch in first))


def preflight(run: Run, training: Dataset, validation: Dataset | None, console: Console) -> None:
    """Looks at the data and the first batches before the first epoch; only the main process does."""
    recipe, world = run.recipe, run.learner.world
    if not world.is_main:
        return
    found = inspect(recipe, training, validation)
    found.show(console)
    for warning in found.warnings:
        run.journal.log(f"warning: {warning}")
    with loader_of(training, recipe, World(0, 1, world.device), workers=0) as batches:
        first = list(islice(batches.epoch(0, recipe.augment_at(0), 0), FIRST_BATCHES))
    path = write_first_batch(run.folder / FIRST_BATCH, first[0].images.numpy(), first[0].targets, training.names)
    run.journal.say(f"The first batch is drawn in {path}.")
    on_device = ((batch.images.to(world.device), batch.targets.to(world.device)) for batch in first)
    positives = positives_per_object(run.learner.detector, recipe.loss.assigner, on_device)
    if positives is not None:
        run.journal.say(f"In the first batches an object is learnt by {positives:.1f} priors.")
        if positives < FEW_POSITIVES:
            run.journal.warn(
                "Many objects are learnt by no prior at all: look at the drawn batch, and at the size of the objects."
            )


def conclude(run: Run, trained: Trained, training: Dataset, validation: Dataset | None) -> Trained:
    """Evaluates the best weights once more and writes the report."""
    world, best = run.learner.world, trained.folder / "best.safetensors"
    evaluation = None
    if validation is not None and best.is_file():
        backend = TorchBackend(restore(best), world.device, size=run.recipe.input_size)
        evaluation = evaluate(backend, validation, with_thresholds(backend.select, *EVALUATION))
    if world.is_main:
        path = report_training(trained, run.recipe, training, validation, evaluation=evaluation, device=world.device)
        run.journal.say(f"The report is {path}.")
    return trained


def evaluator(validation: Dataset, recipe: Recipe, world: World) -> Evaluate:
    """What evaluates a detector on the validation split, sharded over the processes."""

    def metrics(detector: Detector) -> Mapping[str, float]:
        backend = TorchBackend(detector, world.device, size=recipe.input_size)
        return evaluate(backend, validation, with_thresholds(backend.select, *EVALUATION)).stats

    return metrics


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that does not exist."""
    base = Path("runs") / Path(name).stem
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder
