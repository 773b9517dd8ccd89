"""MAE-NAS: evaluations a second, seconds to the score of published backbones, and how well latency is predicted.

    python benchmarks/search.py [--processes 2] [--seeds 3] [--latency openvino --like damo-yolo-t --size 320]

For T, S and Ns of DAMO-YOLO: the search has the budget of the published backbone's multiply-adds and layers, and ends
when it reaches its score. Evaluations a second are those of one process, of its CPU time. --latency measures 30 random
structures whole, and compares them with the table of convolutions; other work on the machine disturbs it.
"""

from __future__ import annotations

import argparse
import time
from random import Random

from onelook.api.search_latency import LatencyMeter
from onelook.api.search_runtimes.runtimes import RUNTIMES
from onelook.api.search_session import run_round
from onelook.cluster.workers import InProcess, LocalPool
from onelook.nas.cost import cost
from onelook.nas.evolution import (
    PART_EVALUATIONS,
    PARTS,
    Budgets,
    Task,
    evolve_part,
    initial_population,
    merged,
    random_structures,
)
from onelook.nas.latency import calibrate
from onelook.nas.score import score
from onelook.nas.state import SearchState
from onelook.recipes.searches import search_form

MODELS = ("damo-yolo-t", "damo-yolo-s", "damo-yolo-ns")
RATED = ("damo-yolo-t", "yolox-tiny", "yolov4", "yolov7-tiny", "yolov7")  # forms whose evaluations a second are counted
LIMIT = 300.0  # seconds of a search
RANDOM = 30


def task_of(name: str, seed: int) -> Task:
    """The search at the cost of a published backbone."""
    form = search_form(name)
    own = cost(form.structure, form.size[0])
    return Task(form.space(form.layers), Budgets(layers=form.layers, flops=own.flops), form.size[0], seed)


def evaluations_a_second(name: str) -> float:
    """Children that are made, checked and scored a second of CPU time, once the population is full."""
    task = task_of(name, 0)
    members = initial_population(task).members
    for turn in range(3):
        members = evolve_part(task, members, turn, 0).members
    start, parts = time.process_time(), 20
    for part in range(parts):
        evolve_part(task, members, 9, part)
    return parts * PART_EVALUATIONS / (time.process_time() - start)


def seconds_to(name: str, seed: int, processes: int) -> tuple[float, int, float]:
    """Seconds and evaluations until the published score is reached, and the best score then."""
    task, wanted = task_of(name, seed), score(search_form(name).structure)
    start = time.perf_counter()
    state = SearchState({}, members=initial_population(task).members)
    with InProcess() if processes == 1 else LocalPool(processes) as workers:
        while state.members[0][0] < wanted and time.perf_counter() - start < LIMIT:
            state.advance(merged(task, run_round(workers, task, state)), PARTS * PART_EVALUATIONS)
    return time.perf_counter() - start, state.evaluations, state.members[0][0]


def predict_latency(meter: LatencyMeter) -> None:
    """Prints the correlation of predicted and measured ranks of random structures."""
    form, size, runtime = meter.form, meter.size, meter.runtime
    structures = random_structures(Task(form.space(form.layers), Budgets(layers=form.layers), size), RANDOM, Random(0))
    model = meter.model()
    sums = [model.total(structure) for structure in structures]
    measured = meter.measure(structures, lambda done, total, detail="": None)
    meter.save()
    found = calibrate(sums, measured)
    print(
        f"{runtime.name} {runtime.library}, {size} pixels, threads: {runtime.threads}, {runtime.hardware}; "
        f"{len(structures)} random structures in the form of {form.name}: "
        f"{1e3 * min(measured):.1f} to {1e3 * max(measured):.1f} ms; rank correlation {found.correlation:.3f}, "
        f"largest error {100 * found.largest_error:.0f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--latency", choices=tuple(RUNTIMES))
    parser.add_argument("--like", default="damo-yolo-t", help="form of the random structures of --latency")
    parser.add_argument("--threads", type=int, default=1, help="of --latency")
    parser.add_argument("--device", help="of --latency with torch: cuda")
    parser.add_argument("--size", type=int, default=320)
    arguments = parser.parse_args()
    if arguments.latency:
        form = search_form(arguments.like)
        predict_latency(LatencyMeter(form, arguments.size, arguments.latency, arguments.threads, arguments.device))
        return
    for name in RATED:
        print(f"{name}: {evaluations_a_second(name):.0f} evaluations a second of CPU time", flush=True)
    for name in MODELS:
        wanted = score(search_form(name).structure)
        for seed in range(arguments.seeds):
            seconds, evaluations, reached = seconds_to(name, seed, arguments.processes)
            print(
                f"{name} seed {seed}: {reached:.1f} (published {wanted:.1f}) after {evaluations} evaluations,"
                f" {seconds:.1f} s with {arguments.processes} processes",
                flush=True,
            )


if __name__ == "__main__":
    main()
