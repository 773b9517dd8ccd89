"""A module whose `main` runs in a process of its own: `python -m waiting_call wait|CODE`."""

from __future__ import annotations

import sys
import time


def main(text: str) -> int:
    """Returns an exit code, or waits to be ended."""
    print("began", flush=True)
    if text == "wait":
        time.sleep(600)
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
