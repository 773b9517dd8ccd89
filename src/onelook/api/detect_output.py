"""Where a detection goes, and which part of it: its folder, its share of the sources, its classes."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np

from onelook.errors import UsageError, did_you_mean
from onelook.files import free_folder
from onelook.predict.sources import Source, UnreadableSource
from onelook.predict.track import Result

DEFAULT_FOLDER = "runs/detect"


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """(number from 1, count) of "1/8"; UsageError for what is no such part."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"'{text}' is no part of the sources.", "Give its number and how many there are: 1/8 to 8/8.")
    return number, count


def shard_of(sources: list[Source], shard: tuple[int, int] | None) -> list[Source]:
    """Every `count`th of the sources, from the `number`th on: the parts are disjoint and together all of them."""
    return sources if shard is None else sources[shard[0] - 1 :: shard[1]]


def output_folder(
    out: str | os.PathLike[str] | None, shard: tuple[int, int] | None, *, resume: bool, overwrite: bool
) -> Path:
    """The folder to write to: `out`, of a part the folder OUT/1-of-8 in it, or the first free one."""
    if resume and overwrite:
        raise UsageError("resume continues results, and overwrite replaces them.", "Give one of the two.")
    if out is None:
        if resume:
            raise UsageError("It is not said which run to resume.", "Give its folder (out).")
        if shard is not None:
            raise UsageError("The parts need one folder that all write to.", "Give it (out).")
        return free_folder(DEFAULT_FOLDER)
    return Path(out) if shard is None else Path(out) / f"{shard[0]}-of-{shard[1]}"


def selected_labels(classes: str | Iterable[str | int], names: Sequence[str]) -> np.ndarray:
    """The labels of classes that are given by name or number, a text separated by commas; sorted, each once.

    UsageError for a name or number that the model does not have.
    """
    given = classes.split(",") if isinstance(classes, str) else list(classes)
    rows = {name: label for label, name in reversed(list(enumerate(names)))}
    labels = set()
    for one in given:
        text = str(one).strip()
        if text in rows:
            labels.add(rows[text])
        elif text.isdecimal() and len(text) < 10 and (not names or int(text) < len(names)):
            labels.add(int(text))
        else:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            known = f"Classes are {some}." if names else "The model has no class names: give numbers from 0."
            raise UsageError(f"The model has no class '{text}'.{did_you_mean(text, names)}", known)
    return np.array(sorted(labels), np.int64)


def of_classes(results: Iterable[Result], labels: np.ndarray) -> Generator[Result, None, None]:
    """The results with the detections of some classes only. Closing it closes `results`."""
    try:
        for item, found in results:
            if isinstance(item, UnreadableSource):
                yield item, None
            elif found is not None:
                yield item, found[np.isin(found.labels, labels)]
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()


def check_sources(found: Sequence[Source], resume: bool, live: bool) -> None:
    """Raises UserError where no source exists, one has no end that a run could be resumed to, or none can be used in
    real time.

    This is before the model is loaded.
    """
    if not found:
        raise UsageError("There are fewer sources than parts: this part has none.", "Take fewer parts.")
    if resume and (live or any(source.kind == "live" for source in found)):
        raise UsageError("Cameras and streams cannot be resumed.", "Start a new run in another folder.")
    missing = [source for source in found if source.error is not None]
    if len(missing) == len(found) and missing[0].error is not None:
        raise missing[0].error
    if live:
        from onelook.predict.live import live_source

        live_source(found)
