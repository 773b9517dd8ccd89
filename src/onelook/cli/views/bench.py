"""Prints a benchmark."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from onelook.api.bench import PERCENTILES, ModelBenchmark


def show_benchmark(result: ModelBenchmark, console: Console) -> None:
    """Prints the settings of a benchmark, then its results."""
    now = result.setting
    threads = f", {now.threads} thread{'s' if now.threads != 1 else ''}" if now.threads else ""
    nms = {"in": "NMS in the time", "out": "NMS not in the time", "inside the file": "NMS inside the file"}[now.nms]
    height, width = now.size
    console.print(f"[bold]{now.model}[/bold]  {height}x{width}, batch {now.batch}, {now.precision}, {now.form}")
    console.print(f"{now.device}{threads}; {now.runtime}; {nms}; {now.warm_up} batches of warm-up, {now.runs} measured")
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    latency = result.latency()
    names = ("mean", *(f"p{share}" for share in PERCENTILES), "fastest", "slowest")
    table.add_column("ms a batch")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("", *(f"{latency[name]:.2f}" for name in names))
    console.print(table)
    console.print(f"\nimages a second  [bold]{result.images_per_second:.1f}[/bold]")
    if result.detections is not None:
        console.print(f"detections       {result.detections:.1f} an image (NMS takes longer where there are more)")
    for name, what in (("model", "made by the model"), ("process", "whole process"), ("device", "on the device")):
        if name in result.memory:
            console.print(f"memory           {result.memory[name] / 2**20:.0f} MB {what}, at most")
