"""The memory of one model, in a process of its own: `python -m onelook.api.memory_process ARGUMENTS`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from onelook.api.bench import benchmark
from onelook.errors import UserError

_RUNS = 3  # batches: the first takes the memory, the others show that it stays so


def measure_memory(arguments: Mapping[str, Any]) -> dict[str, int]:
    """The memory of a model that is run in a new process, in bytes: see `ModelBenchmark`.

    arguments: of `onelook.benchmark`, as JSON can hold them. Raises UserError where the process ends without a result,
    as it does when the system has not enough memory for it.
    """
    command = [sys.executable, "-m", "onelook.api.memory_process", json.dumps(dict(arguments))]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        said = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise UserError(f"The memory of '{arguments['model']}' was not measured: {said}")
    return {str(name): int(value) for name, value in json.loads(lines[-1]).items()}


def main(arguments: str) -> int:
    """Runs the model and prints its memory as a line of JSON; returns the exit code.

    arguments: of `onelook.benchmark`, as a JSON object.
    """
    try:
        found = benchmark(**json.loads(arguments), runs=_RUNS, warm_up=0)
    except UserError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(json.dumps(found.memory))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
