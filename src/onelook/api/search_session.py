"""Runs the rounds of a search for a backbone on workers, and saves its state."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from onelook.cluster.retrying import run_all
from onelook.cluster.workers import Workers
from onelook.errors import UserError
from onelook.files import write_text
from onelook.nas.cost import cost
from onelook.nas.evolution import PART_EVALUATIONS, PARTS, Population, Task, evolve_part, merged
from onelook.nas.state import SearchState
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture
from onelook.networks.flops import count_gflops, count_parameters
from onelook.reporter import Reporter
from onelook.training.interrupt import StopRequest

MOST_PROCESSES = PARTS
_SAVE_EVERY = 5.0  # seconds


def run_search(task: Task, state: SearchState, folder: Path, *, workers: Workers, reporter: Reporter) -> bool:
    """Runs rounds until the evaluations of the settings are made; the state in the folder is kept up to date.

    Returns whether Ctrl-C stopped it before. The result does not depend on the workers.
    """
    evaluations = int(state.settings["evaluations"])
    state.save(folder, write_text)
    saved, shared = time.monotonic(), workers.share(task)
    with StopRequest() as stop, reporter.progress("search") as progress:
        while state.evaluations < evaluations and not stop.requested:
            state.advance(merged(task, run_round(workers, shared, state)), PARTS * PART_EVALUATIONS)
            progress(min(state.evaluations, evaluations), evaluations, _detail(task, state))
            if time.monotonic() - saved > _SAVE_EVERY:
                state.save(folder, write_text)
                saved = time.monotonic()
    state.save(folder, write_text)
    return state.evaluations < evaluations


def _detail(task: Task, state: SearchState) -> str:
    count = cost(state.best, task.size)
    return (
        f"best score {state.members[0][0]:.2f}: {count.layers} layers, {count.parameters / 1e6:.2f} M parameters,"
        f" {count.flops / 1e9:.2f} G multiply-adds"
    )


def run_round(workers: Workers, task: Task, state: SearchState) -> list[Population]:
    """The populations of the parts of a round, in their order."""
    found: dict[int, Population] = {}
    failed = run_all(
        workers,
        ((part, part) for part in range(PARTS)),
        lambda number, part: workers.submit(evolve_part, task, state.members, state.turn, part),
        found.__setitem__,
        release=False,
    )
    if failed:
        raise UserError(f"A part of the search failed: {next(iter(failed.values()))}", "Resume the search.")
    return [found[part] for part in range(PARTS)]


def model_costs(architecture: Architecture, size: int) -> tuple[int, float]:
    """Parameters and GFLOPs of the deploy form of a detector, as `onelook models` counts them."""
    with torch.device("meta"):  # shapes without values: no memory, no time
        deployed = deploy(architecture.build())
    return count_parameters(deployed), count_gflops(deployed, (size, size))
