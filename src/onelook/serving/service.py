"""What all routes share: the models, the limits, the threads that decode; and waiting with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from onelook.devices import num_cores
from onelook.serving.batching import Job, JobResult, QueueTimeout, deadline_passed
from onelook.serving.metrics import Metrics
from onelook.serving.options import ServerOptions
from onelook.serving.repository import Repository
from onelook.serving.sent_images import SentImage, fetched, read_body
from onelook.serving.served_model import ServedModel
from onelook.serving.service_error import ServiceError, client_gone

DEADLINE = "X-Deadline-Ms"
T = TypeVar("T")
_FETCHERS = 8


@dataclass
class Service:
    """The running server. decoders: threads that decode, resize and draw.  fetchers: threads that wait for hosts."""

    repository: Repository
    options: ServerOptions
    metrics: Metrics
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(min(4, num_cores()), thread_name_prefix="onelook-decode")
    )
    fetchers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_FETCHERS, thread_name_prefix="onelook-fetch")
    )

    async def decode(self, function: Callable[..., T], *values: Any) -> T:
        """Runs a function in a thread that decodes; ServiceError 504 after `decode_seconds`."""
        work = asyncio.get_running_loop().run_in_executor(self.decoders, function, *values)
        try:
            return await asyncio.wait_for(work, self.options.decode_seconds)
        except asyncio.TimeoutError:
            raise ServiceError(
                504, "decode_timeout", "The image takes too long to decode.", "Send a smaller or a simpler file."
            ) from None

    async def fetch(self, sent: SentImage, deadline: float) -> SentImage:
        """An image that was sent by its address, with its bytes. A slow host takes no thread that decodes."""
        seconds = min(self.options.decode_seconds, deadline - time.monotonic())
        return await asyncio.get_running_loop().run_in_executor(self.fetchers, fetched, sent, self.options, seconds)

    def close(self) -> None:
        """Ends the threads; what they have begun is not waited for."""
        for threads in (self.decoders, self.fetchers):
            threads.shutdown(wait=False, cancel_futures=True)

    def deadline(self, request: Request) -> float:
        """When a request has to be done, on the clock of `time.monotonic`."""
        seconds, given = self.options.deadline, request.headers.get(DEADLINE)
        if given is not None:
            if not given.isdecimal() or not 0 < int(given[:10]) <= 10**9:
                raise ServiceError(
                    400, "bad_deadline", f"{DEADLINE} is no whole number of milliseconds.", "Give one above 0."
                )
            seconds = min(seconds, int(given[:10]) / 1000)
        return time.monotonic() + seconds

    async def body(self, request: Request, deadline: float, most: int | None = None) -> bytes:
        """The request's body, of at most `most` bytes; ServiceError 408 where it does not arrive in time."""
        try:
            left = max(0.0, deadline - time.monotonic())
            return await asyncio.wait_for(read_body(request, most or self.options.max_bytes), left)
        except asyncio.TimeoutError:
            raise ServiceError(408, "slow_request", "The request did not arrive in time.", "Send it again.") from None


def service_of(request: Request) -> Service:
    """The service of the application that has the request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def note_model(request: Request, model: ServedModel) -> None:
    """Names the model of a request, for metrics and logs."""
    request.scope["onelook"].update(model=model.name, version=model.version)


async def run_job(model: ServedModel, job: Job) -> JobResult:
    """Waits for a job. Cancelling it takes the job out of the queue. ServiceError 503 where it waited too long."""
    model.batcher.submit(job)
    try:
        result = await asyncio.wrap_future(job.future)
    except QueueTimeout:
        raise model.overloaded() from None
    model.stages["queue"].observe(result.queue)
    return result


async def before_deadline(request: Request, deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled at the deadline and when the client has gone. The body was read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise client_gone()
        raise deadline_passed()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
