"""Runs a command of `onelook` in two processes of one group, as torchrun does, but imports torch once for both."""

from __future__ import annotations

import os
import socket
import sys

import torch

import onelook.api.train
import onelook.training.run  # noqa: F401
from onelook.cli.app import run

ALONE = 99  # exit code of a command that formed no group


def main(arguments: list[str]) -> int:
    """The exit code of the main process, or of the other one where only that failed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    other = os.fork()
    os.environ |= {"RANK": str(int(other == 0)), "LOCAL_RANK": str(int(other == 0))}
    sizes, begin = [], torch.distributed.init_process_group

    def init_process_group(*given: object, **settings: object) -> None:
        begin(*given, **settings)  # type: ignore[arg-type]
        sizes.append(torch.distributed.get_world_size())

    torch.distributed.init_process_group = init_process_group
    code = run(arguments) or (0 if sizes == [2] else ALONE)
    if other == 0:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
