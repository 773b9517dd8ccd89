"""One trial of a search, in a process of its own: `python -m onelook.api.trial_process RUN RESULT ARGUMENTS`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from onelook.api.train import train
from onelook.errors import UserError
from onelook.files import write_bytes
from onelook.training.files import locked_folder, make_folder

_LONGEST_END = 60.0  # seconds


def main(run: str, result: str, arguments: str) -> int:
    """Trains in the folder `run`, writes the result as JSON to the file `result`, and returns the exit code.

    arguments: the other arguments of `onelook.train`, as a JSON object.
    """
    try:
        with _locked_when_free(Path(run)):
            trained = train(**json.loads(arguments), out=run)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_bytes(Path(result), msgspec.json.encode(trained.to_dict()))
    return trained.exit_code


@contextmanager
def _locked_when_free(folder: Path) -> Iterator[None]:
    """Locks the folder of a run once its training of before has ended.

    A worker of a cluster ends a moment after the search that it belonged to was killed.
    """
    make_folder(folder)
    ends = time.monotonic() + _LONGEST_END
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_folder(folder, lambda text: None))
                break
            except UserError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.5)
        yield


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
