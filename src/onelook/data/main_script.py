"""Keeps worker processes from running the program's script again."""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Iterator


def uses_main_script(value: object) -> bool:
    """Whether a pickled value needs classes or functions that the program's script defines."""
    return b"__main__" in pickle.dumps(value)


@contextlib.contextmanager
def main_script_hidden(hidden: bool = True) -> Iterator[None]:
    """Processes that are spawned in the `with` block do not import the program's script.

    A spawned process imports the script of its parent, for the classes that it defines. A script that trains without
    `if __name__ == "__main__":` would then train once more in every worker. hidden: False changes nothing, for workers
    that need classes of the script.
    """
    main = sys.modules["__main__"]
    if not hidden:
        yield
        return
    kept = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    main.__spec__ = None
    if "__file__" in kept:
        del main.__file__
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)
