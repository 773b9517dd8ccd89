"""Does a higher score give a higher AP? Three backbones of equal measured latency, trained alike with several seeds.

    OMP_NUM_THREADS=1 python benchmarks/search_ap.py runs/search-ap [--like damo-yolo-ns] [--size 96] [--seeds 3]

1. `found`: the search's best within the latency of the published backbone, measured on this CPU with one thread.
2. `published`: the published backbone, with all channels times the factor that brings it nearest to found's latency.
3. `random`: a structure of the search's space whose latency is nearest to it, of random ones.
The three are measured again in alternation, whole, by the processor's time; more than 3 % between them is an error.
Then each is trained from scratch on the demo's images, with the same settings and seeds. Prints and writes
OUT/results.json. What is done already is not made again; a training that was stopped continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean, median, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from command import run_benchmark
from distillation import SHORT, short_rate
from onelook.api.alternation import alternate
from onelook.api.bench import NoPostprocess, scene_images
from onelook.api.demo import BATCH, CLASSES, demo_scenes
from onelook.api.recipe_choice import RecipeChoice
from onelook.api.search import RESULT, search
from onelook.api.search_latency import LatencyMeter
from onelook.api.search_session import model_costs
from onelook.api.train import train
from onelook.data.synthetic import write_synthetic
from onelook.errors import UserError
from onelook.nas.cost import cost
from onelook.nas.evolution import Budgets, Task, random_structures
from onelook.nas.latency import calibrate
from onelook.nas.score import score
from onelook.networks.model_file import ModelFile, write_model_file
from onelook.networks.structure import Structure
from onelook.networks.variants import variant
from onelook.recipes.searches import search_form
from onelook.reporter import PlainReporter

METRICS = ("AP", "AP50", "AP75")
MOST_APART = 0.03  # of the three latencies
MEASURED = 8  # candidates that are measured whole
COPIES, TURNS = 12, 3  # of every network that is measured
NEAREST = 3  # of the candidates, which are measured again
REPEATED, VERIFIED = 10, 4  # measurements of these, and of the three that are chosen
DRAWN = 400  # random structures whose latency is predicted
FACTORS = tuple(round(0.4 + 0.01 * place, 2) for place in range(121))  # of the published channels


@dataclass(frozen=True)
class Compared:
    """The structures and their trainings. seconds: measured whole, in alternation.  runs: name to rows of metrics."""

    settings: dict[str, Any]
    structures: dict[str, dict[str, Any]]
    runs: dict[str, list[dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "structures": self.structures, "runs": self.runs}

    def show(self, console: Console) -> None:
        table = Table()
        for title in ("backbone", "score", "ms", "M parameters", "GFLOPs", *METRICS):
            table.add_column(title, justify="left" if title == "backbone" else "right")
        for name, one in self.structures.items():
            costs = (f"{one['score']:.1f}", f"{1e3 * one['seconds']:.2f}", f"{one['parameters'] / 1e6:.2f}")
            table.add_row(name, *costs, f"{one['gflops']:.3f}", *(_spread(self.runs[name], key) for key in METRICS))
        console.print(table)


def _spread(rows: list[dict[str, Any]], metric: str) -> str:
    values = [row[metric] for row in rows]
    each = ", ".join(f"{value:.3f}" for value in values)
    return each if len(values) < 2 else f"{each}; {mean(values):.3f} +- {stdev(values):.3f}"


def compare(
    out: Path,
    /,
    *,
    like: str = "damo-yolo-ns",
    size: int = 96,
    evaluations: int = 50_000,
    seeds: int = 3,
    epochs: int = 7,
    images: int = 480,
) -> Compared:
    """Three backbones of equal measured latency: found, published and random.

    Args:
        out: Folder of everything that is made.
        like: Model whose form and latency the backbones have.
        size: Side of the images and of the network's input in pixels.
        evaluations: Of the search.
        seeds: Trainings of each backbone.
        epochs: Of a training.
        images: To train on; a quarter as many are evaluated.
    """
    torch.set_num_threads(1)
    settings = {"like": like, "size": size, "evaluations": evaluations, "epochs": epochs, "images": images}
    structures = _kept(out / "structures.json", settings, lambda: _structures(out, like, size, evaluations))
    data = out / "data"
    if not data.exists():
        scenes, counts = demo_scenes(size, images, 0.2, CLASSES, 0)
        write_synthetic(data, scenes, counts)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in structures}
    for seed in range(seeds):
        for name in structures:
            row = _run(out / f"{name}-{seed}", out / f"{name}.yaml", like, data, size=size, epochs=epochs, seed=seed)
            runs[name].append(row)
            print(f"{name} seed {seed}:", *(f"{metric} {row[metric]:.4f}" for metric in METRICS), flush=True)
    result = Compared(settings, structures, runs)
    (out / "results.json").write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return result


def _kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier call with these settings wrote to the file; made and written where there is none."""
    if path.exists():
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["settings"] != settings:
            raise UserError(f"'{path}' was made with other settings: {data['settings']}.", "Choose another folder.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"settings": settings, "found": make()}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    found: dict[str, Any] = data["found"]
    return found


def _structures(out: Path, like: str, size: int, evaluations: int) -> dict[str, dict[str, Any]]:
    """Finds the three structures, writes their models, and returns their scores and costs."""
    form = search_form(like)
    meter = LatencyMeter(form, size, "torch", 1)
    folder = out / "search"
    if not (folder / RESULT).exists() and folder.exists():
        search(out=folder, resume=True, reporter=PlainReporter())
    elif not folder.exists():
        limit = median(meter.measure([form.structure], _silent)[0] for _ in range(VERIFIED))
        print(f"{like} takes {1e3 * limit:.2f} ms: the budget of the search.", flush=True)
        budget = f"latency={1e3 * limit}ms"
        settings = {"like": like, "size": size, "threads": 1, "evaluations": evaluations, "name": "found"}
        search(budget, **settings, out=folder, reporter=PlainReporter())  # type: ignore[arg-type]
    model: Any = variant(str(folder / "found.yaml")).architecture
    found = model.backbone
    own = form.structure
    task = Task(form.space(form.layers), Budgets(layers=form.layers), size)
    random = random_structures(task, DRAWN, Random("search_ap"))
    picked = _of_equal_latency(meter, found, {"published": _scalings(own), "random": random})
    chosen = {name: one for name, (one, _) in picked.items()}
    again = zip(*(_relative_seconds(meter, list(chosen.values())) for _ in range(VERIFIED)))
    turns = [[*earlier, *later] for (_, earlier), later in zip(picked.values(), again)]
    first = meter.measure([chosen["found"]], _silent)[0]
    seconds = [first * median(ratios) for ratios in turns]
    print(*(f"{name} {1e3 * took:.2f} ms" for name, took in zip(chosen, seconds)), flush=True)
    apart = max(seconds) / min(seconds) - 1
    if apart > MOST_APART:
        raise UserError(f"The latencies are {100 * apart:.1f} % apart.", "Run again, with less other work.")
    return {name: _described(out, name, one, meter, took) for (name, one), took in zip(chosen.items(), seconds)}


def _silent(done: float, total: float, detail: str = "") -> None:
    """Shows no progress."""


def _scalings(structure: Any) -> list[Any]:
    """The structure with all channels times a factor, in multiples of 8."""

    def times(channels: int, factor: float) -> int:
        return max(8, round(channels * factor / 8) * 8)

    return list(
        dict.fromkeys(
            replace(
                structure,
                stem=times(structure.stem, factor),
                stages=tuple(
                    replace(one, outputs=times(one.outputs, factor), bottleneck=times(one.bottleneck, factor))
                    for one in structure.stages
                ),
            )
            for factor in FACTORS
        )
    )


def _of_equal_latency(meter: LatencyMeter, found: Structure, others: dict[str, list[Any]]) -> dict[str, Any]:
    """`found`, and of each of the others the structure whose measured latency is nearest to that of `found`.

    The table chooses which are measured, in alternation with `found`; the nearest are measured again. With each of the
    three comes what it took in these measurements, as parts of what `found` took.
    """
    model = meter.model()
    sample = [found, *others["published"][::16], *others["random"][:8]]
    fit = calibrate([model.total(one) for one in sample], meter.measure(sample, _silent))
    model.scale, model.constant = fit.scale, fit.rest
    wanted = fit.measured[0]  # measured, as the table may be wrong about `found`
    near = {name: sorted(many, key=lambda one: abs(model(one) - wanted))[:MEASURED] for name, many in others.items()}
    meter.save()
    measured = [found, *(one for many in near.values() for one in many)]
    relative = dict(zip(measured, _relative_seconds(meter, measured)))

    def nearest(many: list[Any]) -> list[Any]:
        return sorted(many, key=lambda one: abs(relative[one] - 1))

    near = {name: nearest(many)[:NEAREST] for name, many in near.items()}
    measured = [found, *(one for many in near.values() for one in many)]
    turns = [_relative_seconds(meter, measured) for _ in range(REPEATED)]
    relative = dict(zip(measured, map(median, zip(*turns))))
    chosen = {"found": found} | {name: nearest(many)[0] for name, many in near.items()}
    return {name: (one, [turn[measured.index(one)] for turn in turns]) for name, one in chosen.items()}


def _relative_seconds(meter: LatencyMeter, structures: list[Any]) -> list[float]:
    """What each structure's detector takes, as a part of the first one's: measured whole, in alternation.

    Of each, several copies are measured, and the median of their fastest runs counts: one network differs by some
    percent between two copies, by where its weights are in memory.
    """
    runs: dict[str, Callable[[], object]] = {}
    for place, structure in enumerate(structures):
        runtime = meter.runtime.detector(meter.form.detector(structure, (meter.size, meter.size)), Path())
        batch = scene_images(runtime, 1)
        for copy in range(COPIES):
            runs[f"{place} {copy}"] = partial(deepcopy(runtime), batch, NoPostprocess())
    seconds = alternate(runs, TURNS, warm_up=1, untimed=1, clock=meter.runtime.clock)
    medians = [median(min(seconds[f"{place} {copy}"]) for copy in range(COPIES)) for place in range(len(structures))]
    print("ms:", *(f"{1e3 * took:.2f}" for took in medians), flush=True)
    return [took / medians[0] for took in medians]


def _described(out: Path, name: str, structure: Any, meter: LatencyMeter, seconds: float) -> dict[str, Any]:
    form, size = meter.form, meter.size
    architecture = form.detector(structure, (size, size))
    write_model_file(out / f"{name}.yaml", ModelFile(name, form.name, architecture))
    parameters, gflops = model_costs(architecture, size)
    stages = [(one.outputs, one.bottleneck, one.depth, one.kernel) for one in structure.stages]
    layers = cost(structure, size).layers
    return {
        "score": score(structure),
        "seconds": seconds,
        "parameters": parameters,
        "gflops": gflops,
        "layers": layers,
        "stem": structure.stem,
        "stages": stages,
    }


def _run(folder: Path, model: Path, like: str, data: Path, *, size: int, epochs: int, seed: int) -> dict[str, Any]:
    """The metrics of a training, which is made, continued, or done already."""
    last = folder / "last.json"
    if not last.exists():
        settings = (*SHORT, f"optimizer.lr_per_image={short_rate(like)}", f"seed={seed}")
        choice = RecipeChoice(model=str(model), recipe=like, epochs=epochs, size=size, batch=BATCH, overrides=settings)
        resume = (folder / "state.pt").exists()
        result = train(None if resume else choice, data, out=folder, resume=resume, workers=0, device="cpu")
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        row = {name: result.last[name] for name in METRICS} | {"seconds": result.seconds}
        last.write_text(json.dumps(row) + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(last.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    raise SystemExit(run_benchmark(compare))
