"""`onelook convert`: a data set in another format."""

from __future__ import annotations

from pathlib import Path

from onelook.api import convert as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.convert import show_conversion
from onelook.data.convert import Conversion, WritableFormat


def convert(
    data: Path, /, *, to: WritableFormat, out: Path, copy: bool = False, allow_size_mismatch: bool = False
) -> CommandResult[Conversion]:
    """Write a data set in another format.

    All splits are written. What the target format cannot hold is counted and shown. Images are hard links to the
    originals, so they take no room; they are copied where links cannot be made.

    Examples:
        onelook convert VOC2007/ --to coco --out voc-as-coco/

    Args:
        data: folder, YAML file or COCO JSON file.
        to: the format to write.
        out: folder to make; it must not exist, or be empty.
        copy: copy the images in any case.
        allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
    """
    converted = api.convert(
        data, to, out, copy=copy, allow_size_mismatch=allow_size_mismatch, reporter=ConsoleReporter()
    )
    return CommandResult(converted, show_conversion)
