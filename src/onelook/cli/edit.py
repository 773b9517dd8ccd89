"""`onelook edit`: other classes, several data sets as one, without what is faulty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onelook.api import edit as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.data import show_edit
from onelook.data.convert import WritableFormat
from onelook.data.editing import EditResult
from onelook.errors import UsageError


def edit(
    data: Path,
    /,
    *more: Path,
    out: Path,
    rename: tuple[str, ...] = (),
    merge: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    skip_bad: bool = False,
    to: WritableFormat | None = None,
    copy: bool = False,
) -> CommandResult[EditResult]:
    """Change the classes of a data set, join several into one, leave out what is faulty.

    Writes a small YAML file, which train, val and check take like a data set; no image is copied, and the original
    files stay as they are. Changes are made in the order rename, merge, drop, only. Each may be given several times.

    Examples:
        onelook edit data/ --rename persn=person --drop unclear --out data.yaml
        onelook edit data/ --merge "car,truck,bus=vehicle" --only vehicle,person --out traffic.yaml
        onelook edit first/ second/ --skip-bad --out joined.yaml
        onelook edit first/ second/ --to coco --out joined/

    Args:
        data: folder, or the file that describes a data set (YAML, JSON, CSV or XML).
        more: further data sets, of any formats, to join with the first.
        out: YAML file to make; with --to, folder to make.
        rename: OLD=NEW, or several with commas between.
        merge: A,B=C makes one class of A and B.
        drop: classes whose objects are left out, with commas between; the images stay.
        only: classes whose objects are kept, with commas between; the images stay.
        skip_bad: leave out faulty entries and images, and list them in a file beside --out.
        to: write a data set of this format, of hard links to the images, instead of the YAML file.
        copy: with --to, copy the images.
    """
    result = api.edit(
        [data, *more],
        out,
        rename=_renames(rename),
        merge=_merges(merge),
        drop=_listed(drop),
        only=_listed(only),
        skip_bad=skip_bad,
        to=to,
        copy=copy,
        reporter=ConsoleReporter(),
    )
    return CommandResult(result, show_edit)


def _listed(given: Sequence[str]) -> list[str]:
    """The names of all uses of an option, each with commas between."""
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _renames(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for old, new in map(_pair, _listed(given)):
        if found.setdefault(old, new) != new:
            raise UsageError(f"--rename gives '{old}' two names, '{found[old]}' and '{new}'.", "Give one of them.")
    return found


def _pair(text: str) -> tuple[str, str]:
    old, mark, new = (part.strip() for part in text.partition("="))
    if not (old and mark and new):
        raise UsageError(f"--rename takes OLD=NEW, not '{text}'.", "An example: --rename persn=person")
    return old, new


def _merges(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        members, mark, new = text.rpartition("=")
        names = _listed([members])
        if not (names and mark and new.strip()):
            raise UsageError(f"--merge takes A,B=C, not '{text}'.", 'An example: --merge "car,truck=vehicle"')
        found.setdefault(new.strip(), []).extend(names)
    return found
