"""`onelook split`: train, val and test from one data set."""

from __future__ import annotations

from pathlib import Path

from onelook.api import split as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.data import show_split
from onelook.data.convert import WritableFormat
from onelook.data.splitting import SplitResult


def split(
    data: Path,
    /,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    anew: bool = False,
    out: Path | None = None,
    to: WritableFormat | None = None,
    copy: bool = False,
) -> CommandResult[SplitResult]:
    """Divide a data set among train, val and test.

    Every class gets the same share in each. Near-duplicates, the frames of a sequence (running numbers in file names)
    and augmented copies of an image stay on one side. The images stay where they are: a folder of lists is written,
    which is a data set itself.

    Examples:
        onelook split data/ --val 0.2
        onelook split data/ --val 0.15 --test 0.15 --out divided/
        onelook split data/ --val 0.2 --to yolo --out data-yolo/

    Args:
        data: folder, or the file that describes a data set (YAML, JSON, CSV or XML).
        val: share of the images to evaluate on; 0 for none.
        test: share of the images to keep for a last test; 0 for none.
        seed: the same seed divides the same images equally.
        anew: divide all images, although the data set is divided already.
        out: folder to make; NAME-split unless given.
        to: write a data set of this format, of hard links to the images, instead of lists.
        copy: with --to, copy the images.
    """
    result = api.split(
        data, val=val, test=test, seed=seed, anew=anew, out=out, to=to, copy=copy, reporter=ConsoleReporter()
    )
    return CommandResult(result, show_split)
