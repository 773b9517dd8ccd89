"""The settings of the server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onelook.errors import UsageError

MEBIBYTE = 1 << 20
MOST_WORKERS = 64
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://[^/\s*]+")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What the server allows and how it batches.

    workers: threads of a model that run it at the same time, each with a copy of its own.  batch: most images in one
    run of a network; None is 1 on a CPU and 8 on a GPU.  max_wait_ms: how long the first image of a batch may wait for
    others.  queue: most images of a model that were admitted and are not finished.  queue_ms: longest time from the
    admission of an image to its run; None is the deadline.  deadline: seconds that a request may take; a request may
    ask for less.  stall: seconds of one run after which the
    server is no longer live.  max_bytes: of a request.  max_pixels: of one image.  decode_seconds: for the decoding of
    one image.  max_images: of one request.  allow_url: hosts, with or without a port, from which images may be fetched.
    allow_origin: origins of web pages that may read answers.  tokens: those that requests may carry; () needs none.
    any_host: whether requests may name any host; otherwise only names of this machine (against DNS rebinding).
    """

    workers: int = 1
    batch: int | None = None
    max_wait_ms: float = 2.0
    queue: int = 32
    queue_ms: float | None = None
    deadline: float = 30.0
    stall: float = 120.0
    max_bytes: int = 32 * MEBIBYTE
    max_pixels: int = 40_000_000
    decode_seconds: float = 10.0
    max_images: int = 16
    allow_url: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    any_host: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "batch", "queue", "max_bytes", "max_pixels", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_option(name)} is {value}.", "Give 1 or more.")
        for name in ("deadline", "stall", "decode_seconds"):
            if not 0 < getattr(self, name) <= 86_400:
                raise UsageError(f"{_option(name)} is {getattr(self, name):g}.", "Give seconds, more than 0.")
        if not 0 <= self.max_wait_ms <= 60_000:
            raise UsageError(f"--max-wait-ms is {self.max_wait_ms:g}.", "Give milliseconds, 0 or more.")
        if self.workers > MOST_WORKERS:
            raise UsageError(f"--workers is {self.workers}.", f"Give at most {MOST_WORKERS}; start more servers.")
        if self.queue_ms is not None and not 1 <= self.queue_ms <= 86_400_000:
            raise UsageError(f"--queue-ms is {self.queue_ms:g}.", "Give milliseconds, 1 or more.")
        if self.batch is not None and self.batch > self.queue:
            raise UsageError(
                f"--batch {self.batch} is more than --queue {self.queue} ever holds.", "Give a larger queue."
            )
        for host in self.allow_url:
            if not _HOST.fullmatch(host):
                raise UsageError(
                    f"--allow-url '{host}' is no host.", "Give a name in lower case such as images.example.org."
                )
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"--allow-origin '{origin}' is no origin.", "Give a scheme and a host: https://example.org."
                )

    @property
    def longest_wait(self) -> float:
        """Seconds from the admission of an image to its run."""
        return self.deadline if self.queue_ms is None else min(self.deadline, self.queue_ms / 1000)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
