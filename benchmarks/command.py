"""The command line of a benchmark script: options from a function's signature, `--json FILE`, errors as one message."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from onelook.errors import UsageError, UserError


def run_benchmark(function: Callable[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Calls the function with the command line's options, shows its result, and returns the exit code.

    The result has `show(console)`, `to_dict()` (what `--json FILE` writes) and perhaps `exit_code`. 2 is wrong usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    target = None
    if "--json" in given:
        place = given.index("--json")
        if place + 1 == len(given):
            print("error: --json needs a file to write.", file=sys.stderr)
            return 2
        target = Path(given[place + 1])
        del given[place : place + 2]
    app = App(
        help_format="plaintext",
        default_parameter=Parameter(negative=(), consume_multiple=True),  # "--to onnx openvino"
        result_action="return_value",
    )
    app.default(function)
    try:
        result = app(given, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if result is None:  # the help was printed
        return 0
    result.show(Console(highlight=False))
    if target is not None:
        target.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return int(getattr(result, "exit_code", 0))
