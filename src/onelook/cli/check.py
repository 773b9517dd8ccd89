"""`onelook check`: what is wrong with a data set, or what this installation can do."""

from __future__ import annotations

from pathlib import Path

from onelook.api import check as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.check import show_environment, show_problems
from onelook.data.check import CheckReport
from onelook.errors import UsageError


def check(
    data: str | None = None, /, *, quick: bool = False, draw: Path | None = None
) -> CommandResult[CheckReport] | CommandResult[api.Environment]:
    """List every problem of a data set, or, without one, describe this installation.

    Problems are named by file and line or annotation id, each with a remedy. The exit code is 1 where errors were
    found; warnings alone leave it at 0.

    Examples:
        onelook check data/ --json problems.json
        onelook check data/ --draw problems/
        onelook check

    Args:
        data: folder, YAML file, COCO JSON file, or URL or pattern of shards; without it, the installation is checked.
        quick: check only the headers of images, without decoding them or looking for copies.
        draw: folder to make, for drawings of the images with problems and of a few without.
    """
    if data is None and draw is not None:
        raise UsageError("There is no data set to draw.", "Name it: onelook check data/ --draw problems/")
    if data is None:
        environment = api.environment()
        return CommandResult(environment, show_environment, environment.exit_code)
    result = api.check(data, quick=quick, draw=draw, reporter=ConsoleReporter())
    return CommandResult(result, show_problems, result.exit_code)
