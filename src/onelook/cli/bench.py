"""`onelook bench`: what Onelook's parts cost on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from cyclopts import App

from onelook.bench import data as data_benchmark
from onelook.bench import model as model_benchmark
from onelook.bench.assign import AssignBenchmark, bench_assign
from onelook.bench.evaluate import EvaluateBench, bare_forward, bench_score, bench_val
from onelook.bench.train import TrainBenchmark, bench_train
from onelook.cli.checks import check_batch
from onelook.cli.train import Layout
from onelook.config import change
from onelook.data import open_dataset, splits
from onelook.data.cache_budget import plan_cache
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import UsageError
from onelook.predict.load import load
from onelook.recipes import find_recipe
from onelook.training.train_state import Precision, RuntimeOptions

app = App(name="bench", help="Measured latency, throughput and memory of Onelook's parts.")


@app.command(name="model")
def bench_model(
    model: str,
    /,
    *,
    weights: Path | None = None,
    size: int | None = None,
    batch: int = 1,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    nms: Literal["in", "out"] = "in",
    form: Literal["deploy", "training"] = "deploy",
    runs: int = 50,
    warm_up: int = 10,
) -> model_benchmark.ModelBenchmark:
    """Latency, throughput and memory of a network, from framed images to boxes.

    The time of a batch begins with uint8 images in the network's frame and ends with boxes in pixels of its input;
    reading and framing files is not in it. Without weights the network is freshly initialised: the network takes the
    same time, but finds nothing for NMS to do.

    Examples:
        onelook bench model yolox-s --batch 8
        onelook bench model exported.onnx --threads 1 --nms out --json -

    Args:
        model: A model's name, a weights file of Onelook's, or an exported ONNX file.
        weights: Weights for a model that was given by name.
        size: Height and width of the input in pixels; the model's own if not given.
        batch: Images a run.
        device: cpu, cuda, cuda:1, mps; the first GPU if there is one.
        threads: Threads of one run on the CPU; the runtime's choice if not given.
        half: Compute in float16; on a GPU only.
        nms: Whether the time includes choosing boxes by NMS (confidence 0.25, IoU 0.45).
        form: The form that inference uses, or the one that training uses.
        runs: Batches that are measured.
        warm_up: Batches before, which do not count.

    Returns:
        The figures, with all that they depend on.
    """
    wish = model_benchmark.Wish(model, weights, size, batch, device, threads, half, nms, form, runs, warm_up)
    return model_benchmark.bench_model(wish)


@app.command(name="assign")
def assign(
    *,
    batch: int = 16,
    size: int = 640,
    objects: int = 20,
    classes: int = 80,
    device: str = "cpu",
    threads: int | None = None,
    runs: int = 7,
) -> AssignBenchmark:
    """SimOTA on a random batch, under both published rules, against a loop over images.

    The loop is the textbook's, on the CPU, from benchmarks/baseline of a checkout; runs of both alternate, and their
    matches must be identical (exit code 1 if not).

    Examples:
        onelook bench assign
        onelook bench assign --batch 64 --objects 40 --device cuda

    Args:
        batch: Images.
        size: Side of the images in pixels.
        objects: Objects an image.
        classes: Classes.
        device: cpu or cuda, for ours.
        threads: Threads on the CPU; PyTorch's choice if not given.
        runs: Runs of each that are measured, after one of warm-up.

    Returns:
        Times, their ratio, and whether the matches agree.
    """
    return bench_assign(batch, size, objects, classes=classes, device=device, threads=threads, runs=runs)


@app.command(name="train")
def train(
    data: str | None = None,
    /,
    *,
    model: str = "yolox-nano",
    size: int = 320,
    batch: int = 16,
    device: str | None = None,
    threads: int | None = None,
    workers: int = 1,
    cache: str | None = None,
    precision: Precision | None = None,
    layout: Layout | None = None,
    compile: bool = False,
    steps: int = 24,
    warm_up: int = 4,
) -> TrainBenchmark:
    """A whole training step against the bare network: forward, backward of a sum, optimizer step.

    Blocks of both take turns in one process, with the same model, batch and memory layout. The whole step includes the
    loader with the published augmentation, assignment, losses, average and logging. The loader works ahead while others
    have their turn: whether it keeps up shows in what it makes alone, and what a step takes without it.

    Examples:
        onelook bench train
        onelook bench train data/ --model yolox-s --size 640 --device cuda --workers 8

    Args:
        data: Data set; made-up pictures if not given.
        model: Name of the model, trained by its published recipe without random shapes.
        size: Side of the network's input in pixels.
        batch: Images a step.
        device: cpu, cuda, cuda:1, mps; the best one here unless given.
        threads: Threads on the CPU; PyTorch's choice if not given.
        workers: Processes that prepare images.
        cache: Keep decoded images: ram, disk, or a size of memory such as 4GB.
        precision: fp32, fp16 or bf16; fp16 on CUDA unless given.
        layout: Memory layout of the network; the faster one of the device unless given.
        compile: Compile the network with torch.compile.
        steps: Steps of each that are measured.
        warm_up: Steps of each before, which do not count.

    Returns:
        All times, the ratio of whole and bare, images a second, and where the difference goes.
    """
    for flag, value, least in (
        ("steps", steps, 1),
        ("warm-up", warm_up, 0),
        ("workers", workers, 0),
        ("batch", batch, 1),
    ):
        if value < least:
            raise UsageError(f"--{flag} is {value}.", f"Give a number of {least} or more.")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}.", "Give a number of 1 or more, or leave it away.")
    if size < 32 or size % 32:
        raise UsageError(f"The size {size} is no multiple of 32.", "Give a multiple of 32 with --size.")
    channels_last = None if layout is None else layout == "channels-last"
    runtime = RuntimeOptions(precision=precision, channels_last=channels_last, compile=compile)
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = str(write_synthetic(Path(folder) / "scenes", Scenes(size=(320, 320)), {"train": 4 * batch}))
        dataset = open_dataset(data, "train" if "train" in splits(data) else "trainval")
        new = {"batch_size": batch, "size": (size, size), "multiscale": None, "model.num_classes": len(dataset.names)}
        new |= {"accumulate": 1, "join_passes": False}  # the bare loop's step has one pass
        recipe = change(find_recipe(model), new)
        return bench_train(
            recipe,
            dataset,
            device=device,
            threads=threads,
            workers=workers,
            steps=steps,
            warm_up=warm_up,
            runtime=runtime,
            cache=None if cache is None else plan_cache(cache, dataset, Path(folder) / "cache"),
        )


@app.command(name="data")
def bench_data(
    data: Path,
    /,
    *,
    split: str = "train",
    size: int = 640,
    rules: Literal["paper", "later"] = "paper",
    rounds: int = 20,
    samples: int = 20,
) -> data_benchmark.DataBenchmark:
    """What a training sample costs: mosaic, MixUp, with and without images that are kept in memory.

    One process and one thread; all contestants make the same samples in turn. A sample is ready for the batch: uint8
    pixels and its boxes. "cache" has every image decoded; "reuse" draws a mosaic's further images from the last ones.

    Examples:
        onelook bench data coco/ --json data.json
        onelook bench data coco/ --rules later --size 416

    Args:
        data: A data set: a folder, a YAML file or a COCO JSON file.
        split: The split whose images are used.
        size: Height and width of the training input in pixels.
        rules: YOLOX's augmentation at the date of the released weights, or as it is since October 2021.
        rounds: Rounds that are measured; medians of them are shown.
        samples: Samples of every contestant in a round.

    Returns:
        The figures, in milliseconds and in decodings of one image.
    """
    return data_benchmark.bench_data(data, split, rules, size=size, rounds=rounds, samples=samples)


@app.command(name="evaluate")
def bench_evaluate(
    data: Path | None = None,
    /,
    *,
    model: str | None = None,
    weights: Path | None = None,
    split: str = "val",
    size: int | None = None,
    batch: int = 8,
    device: str | None = None,
    images: int = 5000,
    rounds: int = 5,
) -> EvaluateBench:
    """A whole validation against a bare loop over the same images; without a model, the scoring alone.

    The bare loop decodes, frames and runs the network, and does nothing else; both take turns in one process, and the
    ratio is the median of the rounds' ratios. Scoring alone takes random objects and detections, 100 an image.

    Examples:
        onelook bench evaluate
        onelook bench evaluate data/ --model yolox-nano --weights yolox_nano.onnx --size 416

    Args:
        data: Data set for the whole validation.
        model: A model's name, a weights or exported file, or the folder of a run.
        weights: Weights for a model that was given by name.
        split: Part of the data set.
        size: Side of the network's input in pixels; the model's own if not given.
        batch: Images that the model sees at once.
        device: cpu, cuda, cuda:1, mps; the first GPU if there is one.
        images: Images of the scoring alone.
        rounds: Rounds that are measured, after one of warm-up.

    Returns:
        Seconds of every part, with percentiles, and the ratio.
    """
    if (data is None) != (model is None):
        raise UsageError("A validation needs a data set and a model.", "Give DATA and --model, or neither.")
    for flag, value in (("rounds", rounds), ("images", images)):
        if value < 1:
            raise UsageError(f"--{flag} is {value}.", "Give a number of 1 or more.")
    check_batch(batch)
    if data is None or model is None:
        return bench_score(images, rounds=rounds)
    predictor = load(model, weights=weights, device=device, size=size)
    forward = bare_forward(predictor.backend)
    dataset = open_dataset(data, split=split)
    return bench_val(predictor.backend, forward, dataset, predictor.settings(0.01, 0.65), batch=batch, rounds=rounds)
