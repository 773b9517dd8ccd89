"""Runs the rounds of a search for a backbone, in one or several processes, and saves its state."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from onelook.data.main_script import main_script_hidden
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

Round = Callable[[SearchState], Sequence[Population]]


def run_search(task: Task, state: SearchState, folder: Path, *, processes: int, reporter: Reporter) -> bool:
    """Runs rounds until the evaluations of the settings are made; the state in the folder is kept up to date.

    Returns whether Ctrl-C stopped it before.
    """
    evaluations = int(state.settings["evaluations"])
    state.save(folder, write_text)
    saved = time.monotonic()
    with StopRequest() as stop, rounds(task, processes) as run_round, reporter.progress("search") as progress:
        while state.evaluations < evaluations and not stop.requested:
            state.advance(merged(task, run_round(state)), PARTS * PART_EVALUATIONS)
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


@contextmanager
def rounds(task: Task, processes: int) -> Iterator[Round]:
    """A function that computes the parts of a round, in this process or in several others."""
    if processes == 1:
        yield lambda state: [evolve_part(task, state.members, state.turn, part) for part in range(PARTS)]
        return
    with main_script_hidden():
        # The first Ctrl-C ends the search after the round that is computed, so the processes ignore it.
        pool = ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
        with pool:

            def run_round(state: SearchState) -> list[Population]:
                parts = [pool.submit(evolve_part, task, state.members, state.turn, part) for part in range(PARTS)]
                return [part.result() for part in parts]

            yield run_round


def model_costs(architecture: Architecture, size: int) -> tuple[int, float]:
    """Parameters and GFLOPs of the deploy form of a detector, as `onelook models` counts them."""
    with torch.device("meta"):  # shapes without values: no memory, no time
        deployed = deploy(architecture.build())
    return count_parameters(deployed), count_gflops(deployed, (size, size))
