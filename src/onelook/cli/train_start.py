"""What a training begins with: the splits, the recipe, the batch, the weights, the teacher, the folder."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onelook.config import change, override
from onelook.data import Dataset, open_dataset, splits
from onelook.data.cache_budget import CachePlan
from onelook.data.loader import Batch, Loader, cores, default_workers
from onelook.data.shared_file import alone
from onelook.errors import UsageError, UserError
from onelook.models.build import build
from onelook.models.classifier import Classification
from onelook.models.variants import VARIANTS, variant
from onelook.recipes import RECIPE_FILE, RECIPE_TYPES, find_recipe, published_recipe
from onelook.recipes.classifier import published_classifier
from onelook.training.batch_size import largest_batch, training_trial
from onelook.training.checkpoint import latest_weights_hint
from onelook.training.distill import Distillation
from onelook.training.processes import ProcessGroup, gather_objects
from onelook.training.recipe import Recipe, shortened
from onelook.training.run import check_same_recipe
from onelook.training.teacher import TeacherRecord, open_teacher, reopen_teacher
from onelook.training.train_state import RuntimeOptions
from onelook.training.unfold_batch_norm import measure_statistics, rescale_filters
from onelook.weights import load_weights
from onelook.weights.file import BEST

if TYPE_CHECKING:
    from onelook.models.detector import Detector

FINE_TUNING_EPOCHS = 50  # of a training that begins with weights, unless told otherwise
STATISTICS_IMAGES = 128  # that the statistics of folded batch norm are measured on
SETTLING_BATCHES = 4  # whose gradients say how large folded filters have to be
CPU_BATCH = 16  # the published 64 images fill the memory of most computers without an accelerator


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
    classifies: bool = False,
) -> Recipe:
    """The recipe that the command line describes, for these classes; classifies: of a classifier of pictures."""
    if model is None and recipe is None:
        raise UsageError("The model is missing.", "Add --model yolox-s, or see: onelook models")
    check_name(model)
    if recipe is not None:
        chosen = find_recipe(recipe)
    elif classifies:
        chosen = published_classifier(variant(str(model)))
    else:
        chosen = published_recipe(str(model), distilled=teaches)
    if teaches and "image classes" in chosen.model.provides:
        raise UsageError("A classifier of pictures has no teacher.", "Leave --teacher away, or train a detector.")
    if teaches and chosen.distillation is None:
        chosen = replace(chosen, distillation=Distillation())
    published = recipe is None
    if model is not None and recipe is not None:
        network = "model.network" if isinstance(chosen.model, Classification) else "model"
        chosen = change(chosen, {network: variant(model).architecture})
    if epochs is None and published and fine_tunes:
        epochs = FINE_TUNING_EPOCHS
    if batch is None and published and on_cpu:
        batch = CPU_BATCH
    found = override(adapted(chosen, names, epochs, size, batch), *overrides, types=RECIPE_TYPES)
    if found.pretraining is not None and not fine_tunes:
        raise UsageError(
            "The recipe begins with a backbone that was trained as a classifier.",
            "Add --weights with that classifier, or pretraining=none.",
        )
    return found


def check_name(model: str | None) -> None:
    """UsageError for a --model that is a run's folder or a file: other verbs take those, a training has other flags."""
    if model is None or model in VARIANTS or not Path(model).exists():
        return
    place, best = Path(model), Path(model) / BEST
    with_weights = "To begin with its weights: --model NAME --weights {}"
    if (place / RECIPE_FILE).is_file():
        remedy = f"To train as it did: --recipe {shlex.quote(model)}."
        if best.is_file():
            remedy += f" {with_weights.format(shlex.quote(str(best)))}."
        raise UsageError(f"'{model}' is the folder of a run, and --model is the name of a model.", remedy)
    if place.is_file():
        yaml = place.suffix in (".yaml", ".yml", ".json")
        remedy = "If it holds a recipe: --recipe {}" if yaml else with_weights
        remedy = f"{remedy.format(shlex.quote(model))}."
        raise UsageError(f"'{model}' is a file, and --model is the name of a model.", remedy)


def adapted(chosen: Recipe, names: tuple[str, ...], epochs: int | None, size: int | None, batch: int | None) -> Recipe:
    """The recipe for these classes, and for what the command line says; None is as it is."""
    for flag, number in (("--epochs", epochs), ("--batch", batch)):
        if number is not None and number < 1:
            raise UsageError(f"{flag} is at least 1, not {number}.")
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


def resumed_recipe(
    folder: Path,
    overrides: tuple[str, ...],
    *,
    model: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
) -> Recipe:
    """The recipe of the run in a folder; UserError if the command line would change it."""
    if not (folder / RECIPE_FILE).is_file():
        if (folder / "state.pt").is_file():
            raise UserError(
                f"The run in '{folder}' has lost its {RECIPE_FILE}, without which it cannot go on.",
                f"Put that file back, or start another run with --out in another folder{latest_weights_hint(folder)}.",
            )
        raise UserError(f"There is no run in '{folder}' to resume.", "Start the training without --resume.")
    if recipe is not None:
        raise UsageError("A run goes on with its own recipe.", "Leave --recipe away, or start a new run: --out.")
    before = find_recipe(folder)
    asked: dict[str, Any] = {}
    check_name(model)
    if model is not None:
        network = "model.network" if isinstance(before.model, Classification) else "model"
        asked[network] = variant(model).architecture
    asked |= {name: value for name, value in (("epochs", epochs), ("batch_size", batch)) if value is not None}
    if size is not None and before.input_size != (size, size):
        asked["size"] = (size, size)
    wanted = change(change(before, asked), {"model.num_classes": before.model.num_classes})
    check_same_recipe(folder, before, override(wanted, *overrides, types=RECIPE_TYPES))
    return before


def find_teacher(
    recipe: Recipe, folder: Path, teacher: str | None, weights: str | None, resume: bool
) -> tuple[Detector, TeacherRecord] | None:
    """The teacher of a run, None where its recipe has none; UserError where the two do not agree."""
    if weights is not None and teacher is None:
        raise UsageError("--teacher-weights needs the teacher's name.", "Add --teacher NAME.")
    if recipe.distillation is None:
        if teacher is not None:
            raise UsageError("The recipe has no teacher.", "Leave --teacher away, or distillation=none.")
        return None
    if resume:
        return reopen_teacher(folder, teacher, weights)
    if teacher is None:
        raise UsageError("The recipe learns from a teacher.", "Add --teacher, or distillation=none.")
    return open_teacher(teacher, weights)


def check_batch(recipe: Recipe, process_group: ProcessGroup, training: Dataset) -> None:
    """UserError where the batch cannot be shared out, or the data does not fill one."""
    shares = process_group.size * recipe.accumulate
    if recipe.batch_size % shares:
        raise UserError(
            f"A batch of {recipe.batch_size} images cannot be shared by {process_group.size} processes "
            f"in {recipe.accumulate} passes.",
            f"Choose a --batch that is a multiple of {shares}.",
        )
    if not len(training):
        raise UserError("The training split has no images.", "Choose another with --train-split.")
    if recipe.batch_size > max(64, 16 * len(training)):
        raise UserError(
            f"A batch of {recipe.batch_size} images would show each of the {len(training)} images again and again.",
            f"Choose a --batch of {len(training)} or less.",
        )


def make_detector(recipe: Recipe, names: tuple[str, ...]) -> Detector:
    """The detector of a recipe, with the weights that its seed draws."""
    torch.manual_seed(recipe.seed)
    return build(recipe.model, names)


def starting_point(
    recipe: Recipe, training: Dataset, process_group: ProcessGroup, weights: str | None
) -> tuple[Detector, list[str]]:
    """The detector as training begins, and what to say of its weights; drawn by the seed where there are none."""
    detector = make_detector(recipe, training.names)
    if weights is None:
        return detector, []
    loaded = load_weights(detector, weights)
    if loaded.form == "deploy":
        unfold(detector, training, recipe, process_group)
    return detector, [str(loaded)]


def fill_memory(
    recipe: Recipe,
    process_group: ProcessGroup,
    images: int,
    *,
    detector: Detector,
    runtime: RuntimeOptions,
    teacher: Detector | None,
) -> tuple[Recipe, str]:
    """The recipe with the largest batch that the device holds, and what to say of it.

    images: in the data set; a batch is never larger. A CPU shares its memory with everything else, so that there is
    nothing to fill: the batch stays. Raises UsageError for several processes, which cannot be out of memory together.
    """
    if process_group.size > 1:
        raise UsageError("--batch auto is for one process.", "Find it out with one, then give its multiple as --batch.")
    if process_group.device.type != "cuda":
        return recipe, f"--batch auto fills a GPU's memory; without one the batch is {recipe.batch_size} images."
    trial = training_trial(recipe, detector, process_group.device, runtime, teacher)
    share = largest_batch(trial, max(1, images))
    found = change(recipe, {"batch_size": share * recipe.accumulate})
    return found, f"The device holds {share} images: the batch is {found.batch_size}."


def loader_of(
    training: Dataset,
    recipe: Recipe,
    process_group: ProcessGroup,
    workers: int | None = None,
    cache: CachePlan | None = None,
) -> Loader:
    """The batches of a recipe for one process."""
    on_cpu = process_group.device.type == "cpu"
    if workers is not None and workers < 0:
        raise UsageError(f"--workers is a number of processes, not {workers}.", "0 prepares images without any.")
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
        rank=process_group.rank,
        world=process_group.size,
        accumulate=recipe.accumulate,
        pin=process_group.device.type == "cuda",
        cache=0 if cache is None else cache.budget,
        cache_folder=None if cache is None else cache.folder,
        gather=gather_objects if process_group.size > 1 else alone,
    )


def faster(batches: Loader) -> str:
    """What to try where training waits for its batches. More workers than cores take each other's time."""
    if batches.workers < cores():
        return f"try more --workers than {batches.workers}, up to {cores()}"
    helps = ["pictures that are stored smaller", "sampling.reuse=200 where mosaics decode several pictures for one"]
    if batches.cache is None:
        helps.insert(0, "--cache ram")
    return f"more --workers than cores ({cores()}) do not help, but {', '.join(helps[:-1])} or {helps[-1]} may"


def rates_too_low(recipe: Recipe, steps_per_epoch: int) -> str:
    """What to warn of where the learning rate only ever warms up in this training; "" where it does more."""
    steps, before, first = recipe.epochs * steps_per_epoch, 0.0, 0.0
    for step in range(steps):
        scale = recipe.schedule(step, steps_per_epoch, recipe.epochs).scale
        if scale >= 1 or scale < before:
            return ""
        before, first = scale, scale if step == 0 else first
    count = "The only step" if steps == 1 else f"All {steps} steps"
    if before == 0:
        problem = f"{count} of this training would have the learning rate 0, and nothing would be learnt"
    elif before > first:
        problem = f"{count} of this training lie in the warm-up, up to {100 * before:.2g} % of the learning rate"
    else:
        return ""
    shorter = ", or a shorter schedule.warmup_epochs" if hasattr(recipe.schedule, "warmup_epochs") else ""
    return f"{problem}: give more --epochs, a smaller --batch{shorter}."


def unfold(detector: Detector, training: Dataset, recipe: Recipe, process_group: ProcessGroup) -> None:
    """Makes folded weights trainable, with the first images of the training (see `onelook.training.unfold_batch_norm`).

    The same images in every process, so that all start with the same weights.
    """
    alone = ProcessGroup(0, 1, process_group.device)
    with loader_of(training, recipe, alone, workers=0) as batches:
        needed = -(-STATISTICS_IMAGES * recipe.accumulate // recipe.batch_size)
        first = list(islice(batches.epoch(0, recipe.augment_at(0), 0), needed))
    detector.to(process_group.device)
    measure_statistics(detector, (batch.images.to(process_group.device).float() for batch in first))
    loss = recipe.loss_at(0)

    def of(batch: Batch) -> torch.Tensor:
        predictions = detector(batch.images.to(process_group.device).float())
        return torch.stack(list(loss(predictions, batch.targets.to(process_group.device)).values())).sum()

    rescale_filters(detector, (partial(of, batch) for batch in first[:SETTLING_BATCHES]))


def run_folder(out: str | None, resume: bool, name: str | None) -> Path:
    """Where the run's files go. Raises UsageError where a run shall go on and nobody says which."""
    if out is not None and not out.strip():
        raise UsageError("--out names no folder.", "Give a path, or leave it away: a folder in runs/ is taken then.")
    if out is not None:
        return Path(out)
    if resume:
        raise UsageError("--resume needs the folder of the run.", "Add --out with the folder that was printed.")
    return free_folder(name or "run")


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that does not exist."""
    base = Path("runs") / Path(name).stem
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder
