"""`python -m onelook` and the `onelook` command.

Ctrl-C shows a traceback until `main` has begun, so this module and the package import next to nothing before.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # of the interpreter itself: `signal` would import `enum`

TYPE_CHECKING = False  # as in `typing`, which would be one more import

if TYPE_CHECKING:
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
