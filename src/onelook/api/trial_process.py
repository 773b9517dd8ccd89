"""One trial of a search, in a process of its own: `python -m onelook.api.trial_process RUN RESULT ARGUMENTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from onelook.api.train import train
from onelook.errors import UserError
from onelook.files import write_bytes
from onelook.training.files import locked_when_free


def main(run: str, result: str, arguments: str) -> int:
    """Trains in the folder `run`, writes the result as JSON to the file `result`, and returns the exit code.

    arguments: the other arguments of `onelook.train`, as a JSON object.
    """
    try:
        with locked_when_free(Path(run)):
            trained = train(**json.loads(arguments), out=run)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_bytes(Path(result), msgspec.json.encode(trained.to_dict()))
    return trained.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
