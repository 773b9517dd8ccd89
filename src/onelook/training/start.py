"""The start of a training: the detector and its weights, and a batch that fits the device and the data."""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from onelook.data import Dataset
from onelook.data.loader import Batch
from onelook.errors import UsageError, UserError
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.training.batch_size import largest_batch, training_trial
from onelook.training.batches import make_loader
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe, batch_settings
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.training.unfold_batch_norm import enlarge_small_filters, measure_statistics
from onelook.weights import load_weights, save_weights, weights_file
from onelook.weights.report import LoadReport

STATISTICS_IMAGES = 128  # that the statistics of folded batch norm are measured on
RESCALING_BATCHES = 4  # whose gradients give the size that folded filters need


def make_detector(recipe: Recipe, names: tuple[str, ...]) -> Detector:
    """Builds the detector of a recipe, with random weights by its seed."""
    torch.manual_seed(recipe.seed)
    return build(recipe.model, names)


def first_weights(given: str | os.PathLike[str] | Detector | None) -> str | Detector | None:
    """What a training starts from: a file, of a run's folder its best weights; None for random weights ("none")."""
    if given is None or isinstance(given, Detector):
        return given
    return None if given == "none" else str(weights_file(given))


def starting_point(
    recipe: Recipe, training: Dataset, process_group: ProcessGroup, weights: str | Path | Detector | None
) -> tuple[Detector, list[str]]:
    """The detector at the start of training, and messages about its weights; random ones where none are given."""
    detector = make_detector(recipe, training.names)
    notes = [] if weights is None else [_load(detector, weights, recipe, training, process_group)]
    if recipe.float16_start:
        round_to_float16(detector)
    return detector, notes


def round_to_float16(detector: Detector) -> None:
    """Rounds weights and statistics to float16 and keeps them as float32; UserError where one is out of its range."""
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point():
            rounded = tensor.half().to(tensor.dtype)
            if not rounded.isfinite().all():
                raise UserError(
                    f"'{name}' has values beyond the range of float16, to which the recipe rounds the first weights.",
                    "Set float16_start=false, or check the weights.",
                )
            tensor.copy_(rounded)


def _load(
    detector: Detector,
    weights: str | Path | Detector,
    recipe: Recipe,
    training: Dataset,
    process_group: ProcessGroup,
) -> str:
    """Loads weights, and makes folded ones trainable; returns a message about them."""
    loaded = _copy_weights(detector, weights) if isinstance(weights, Detector) else load_weights(detector, weights)
    if loaded.form == "deploy":
        unfold(detector, training, recipe, process_group)
    return str(loaded)


def _copy_weights(detector: Detector, source: Detector) -> LoadReport:
    """Loads the weights of a detector in memory, by way of a file: classes and forms are matched as for any file."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_weights(detector, save_weights(source, Path(folder) / "weights.safetensors"))
    return replace(loaded, path="a detector in memory")


def unfold(detector: Detector, training: Dataset, recipe: Recipe, process_group: ProcessGroup) -> None:
    """Makes folded weights trainable, with the first images of the training (see `onelook.training.unfold_batch_norm`).

    The same images in every process, so that all start with the same weights.
    """
    alone = ProcessGroup(0, 1, process_group.device)
    with make_loader(training, recipe, alone, workers=0) as batches:
        needed = -(-STATISTICS_IMAGES * recipe.accumulate // recipe.batch_size)
        first = list(islice(batches.epoch(0, recipe.augment_at(0), 0), needed))
    detector.to(process_group.device)
    measure_statistics(detector, (batch.images.to(process_group.device).float() for batch in first))
    loss = recipe.loss_at(0)

    def of(batch: Batch) -> torch.Tensor:
        predictions = detector(batch.images.to(process_group.device).float())
        return torch.stack(list(loss(predictions, batch.targets.to(process_group.device)).values())).sum()

    enlarge_small_filters(detector, (partial(of, batch) for batch in first[:RESCALING_BATCHES]))


def fill_memory(
    recipe: Recipe,
    process_group: ProcessGroup,
    training: Dataset,
    *,
    runtime: RuntimeOptions,
    teacher: Detector | None,
) -> tuple[int | None, str]:
    """The largest batch that fits into the device's memory, as `batch_settings` takes it, and a message about it.

    It is never larger than the data set, and tried with a network of its own. A CPU shares its memory with everything
    else, so that there is nothing to fill: the batch is None, and that of the recipe stays. Raises UsageError for
    several processes, which cannot be out of memory together.
    """
    if process_group.size > 1:
        raise UsageError("batch=auto is for one process.", "Find it out with one, then give its multiple as batch.")
    if process_group.device.type != "cuda":
        return None, f"batch=auto fills a GPU's memory; without one the batch is {recipe.batch_size} images."
    detector = make_detector(recipe, training.names)
    trial = training_trial(recipe, detector, process_group.device, runtime, teacher)
    share = largest_batch(trial, max(1, len(training)))
    batch = share if recipe.nominal_batch is not None else share * recipe.accumulate
    return batch, f"The device holds {share} images: the batch is {batch_settings(recipe, batch)['batch_size']}."


def check_batch_norm_variance(recipe: Recipe, train_state: TrainState, steps: int) -> None:
    """UserError where batch norm would have one value per channel, which has no variance.

    That takes one image a pass, and a map of one cell: the network is tried with the smallest of the sizes to come.
    steps: of the whole training.
    """
    process_group = train_state.process_group
    share = recipe.batch_size // (process_group.size * recipe.accumulate)
    if share > 1 or (recipe.sync_batch_norm and process_group.size > 1):
        return
    size, scales = recipe.input_size, recipe.multiscale
    if scales is not None:
        drawn = (scales.size(size, recipe.seed, step, steps) for step in range(0, steps, scales.every))
        size = min(drawn, key=lambda sides: sides[0] * sides[1], default=size)
    network = copy.deepcopy(train_state.detector).train()
    try:
        with torch.no_grad():
            network(torch.zeros((1, 3, *size), device=process_group.device))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"One image of {size[1]}x{size[0]} pixels at a time leaves batch norm a single value a channel, so that it "
            "has no variance to train with.",
            "Choose a batch that gives at least 2 images a pass, or a larger size.",
        ) from None


def check_batch(recipe: Recipe, process_group: ProcessGroup, training: Dataset) -> None:
    """UserError where the batch cannot be divided, or is too large for the data set."""
    shares = process_group.size * recipe.accumulate
    if recipe.batch_size % shares:
        raise UserError(
            f"A batch of {recipe.batch_size} images cannot be shared by {process_group.size} processes "
            f"in {recipe.accumulate} passes.",
            f"Choose a batch that is a multiple of {shares}.",
        )
    if not len(training):
        raise UserError("The training split has no images.", "Choose another with --train-split (in Python: split).")
    if recipe.batch_size > max(64, 16 * len(training)):
        raise UserError(
            f"A batch of {recipe.batch_size} images would show each of the {len(training)} images again and again.",
            f"Choose a batch of {len(training)} or less.",
        )
