"""The batches of a recipe, and what to do where the training waits for them."""

from __future__ import annotations

from onelook.data import Dataset
from onelook.data.cache_budget import CachePlan
from onelook.data.loader import Loader, default_workers
from onelook.data.main_script import uses_main_script
from onelook.data.shared_file import gather_alone
from onelook.devices import num_cores_per_process
from onelook.training.processes import ProcessGroup, gather_objects
from onelook.training.recipe import Recipe


def make_loader(
    training: Dataset,
    recipe: Recipe,
    process_group: ProcessGroup,
    workers: int | None = None,
    cache: CachePlan | None = None,
    *,
    plans: bool = False,
) -> Loader:
    """The batches of a recipe for one process.  plans: see `Loader`."""
    on_cpu = process_group.device.type == "cpu"
    # Where steps cross the ends of epochs, an epoch is filled up to whole micro-batches only.
    divided = 1 if recipe.grow_accumulation else recipe.accumulate
    batch = recipe.batch_size // recipe.accumulate * divided
    if workers is None:
        workers = min(default_workers(), 1) if on_cpu else default_workers()  # the network needs the other cores
    return Loader(
        training,
        recipe.input_size,
        batch,
        epochs=recipe.epochs,
        seed=recipe.seed,
        sampling=recipe.sampling,
        max_labels=recipe.max_labels,
        workers=workers,
        rank=process_group.rank,
        world=process_group.size,
        accumulate=divided,
        pin=process_group.device.type == "cuda",
        cache=0 if cache is None else cache.budget,
        cache_folder=None if cache is None else cache.folder,
        gather=gather_objects if process_group.size > 1 else gather_alone,
        imports_script=uses_main_script((recipe.augment, recipe.batch_augments, recipe.closing, training)),
        plans=plans,
    )


def slow_loader_remedy(batches: Loader) -> str:
    """A remedy where training waits for its batches; more workers than cores do not help."""
    cores = num_cores_per_process()
    if batches.workers < cores:
        return f"try more workers than {batches.workers}, up to {cores}"
    helps = ["images that are stored smaller", "sampling.reuse=200 where mosaics decode several images for one"]
    if batches.cache is None:
        helps.insert(0, "cache=ram")
    return f"more workers than cores ({cores}) do not help, but {', '.join(helps[:-1])} or {helps[-1]} may"
