"""Sends HTTP requests at a mean rate, from a process of its own: the load of `benchmarks/serving.py`."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

CONNECTIONS = 256
IDLE_SECONDS = 10.0  # after which a connection is not used again: the server may just be closing it
TIMEOUT = 60.0  # seconds of a request


@dataclass
class Load:
    """What a load has brought.

    accepted: (K, 2) seconds of the requests that were answered with 200: from when they were due, from when they were
    sent.  refused: seconds of those with 503, from when they were due.  late: seconds between due and sent, of all.
    no_connection: requests that had to wait for a connection.  processor: seconds that the generator took.
    """

    seconds: float = 0.0
    accepted: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    no_connection: int = 0
    processor: float = 0.0

    def finish(self, status: int, due: float, sent: float) -> None:
        now = time.monotonic()
        self.statuses[status] += 1
        self.late.append(sent - due)
        if status == 200:
            self.accepted.append((now - due, now - sent))
        elif status == 503:
            self.refused.append(now - due)


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.due = self.sent = self.free_since = 0.0
        self.busy = False
        self._received = bytearray()
        self._whole = 0  # bytes of the answer, once its head is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, due: float) -> None:
        self.due, self.sent, self.busy = due, time.monotonic(), True
        self.transport.write(self.generator.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            head, end, _ = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._status = int(head[9:12])
            lines = bytes(head).lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            self._whole = len(head) + 4 + length
        if len(self._received) >= self._whole:
            self._received.clear()
            self._whole, self.busy = 0, False
            self.generator.finish(self, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.lose(self)


class Generator:
    """Sends a request again and again: at a mean rate, or (None) the next when the last is answered."""

    def __init__(self, port: int, request: bytes, rate: float | None) -> None:
        self.port, self.request, self.rate = port, request, rate
        self.load = Load()
        self._free: list[Connection] = []  # the last that was used is taken first
        self._waiting: deque[float] = deque()  # when requests without a connection were due
        self._connections: set[Connection] = set()
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()

    async def run(self, seconds: float) -> Load:
        gaps = np.random.default_rng(0)
        began, used = time.monotonic(), time.process_time()
        due = began
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._answered.clear()
            self._start(due)
            if self.rate is None:
                await asyncio.wait_for(self._answered.wait(), TIMEOUT)
                due = time.monotonic()
            else:
                due += gaps.exponential(1 / self.rate)
        self.load.seconds = time.monotonic() - began
        ends = time.monotonic() + TIMEOUT
        while (self._waiting or any(one.busy for one in self._connections)) and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        unanswered = len(self._waiting) + sum(one.busy for one in self._connections)
        if unanswered:
            self.load.statuses[0] += unanswered
        for one in list(self._connections):
            one.busy = False
            one.transport.abort()
        self.load.processor = time.process_time() - used
        return self.load

    def _start(self, due: float) -> None:
        while self._free:
            one = self._free.pop()
            if time.monotonic() - one.free_since < IDLE_SECONDS:
                one.send(due)
                return
            one.transport.close()
        self._waiting.append(due)
        if len(self._connections) + self._opening < CONNECTIONS:
            self._opening += 1
            task = asyncio.ensure_future(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.load.no_connection += 1

    async def _open(self) -> None:
        try:
            _, one = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self.port
            )
        except OSError:
            if self._waiting:
                due = self._waiting.popleft()
                self.load.finish(0, due, due)
            return
        finally:
            self._opening -= 1
        self._connections.add(one)
        self._next(one)

    def _next(self, one: Connection) -> None:
        if self._waiting:
            one.send(self._waiting.popleft())
        else:
            one.free_since = time.monotonic()
            self._free.append(one)

    def finish(self, one: Connection, status: int) -> None:
        self.load.finish(status, one.due, one.sent)
        self._answered.set()
        self._next(one)

    def lose(self, one: Connection) -> None:
        self._connections.discard(one)
        with suppress(ValueError):
            self._free.remove(one)
        if one.busy:
            self.load.finish(0, one.due, one.sent)
            self._answered.set()


def generate(port: int, request: bytes, rate: float | None, seconds: float, answer: multiprocessing.Queue) -> None:
    """The work of the generator's process."""

    async def run() -> Load:
        return await Generator(port, request, rate).run(seconds)

    answer.put(asyncio.run(run()))


def load(port: int, request: bytes, rate: float | None, seconds: float) -> Load:
    """Runs the generator in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=generate, args=(port, request, rate, seconds, answer), daemon=True)
    process.start()
    found: Load = answer.get(timeout=seconds + 2 * TIMEOUT)
    process.join()
    return found
