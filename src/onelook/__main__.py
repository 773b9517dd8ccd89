"""`python -m onelook` and the `onelook` command."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line. Ctrl-C before it has been imported ends the process at once, without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from onelook.cli.app import main as run

    run(on_start=lambda: signal.signal(signal.SIGINT, before))


if __name__ == "__main__":
    main()
