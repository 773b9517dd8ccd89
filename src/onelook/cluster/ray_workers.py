"""Workers on a Ray cluster: https://docs.ray.io. Ray places, starts and watches the processes; nothing here does.

Calls that share what is expensive to make, such as a loaded model, run in actors, which are used again. Calls that need
a process to themselves, such as trainings, are tasks. A call whose process or machine is lost raises WorkerLostError:
what is then done is the caller's choice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from onelook.cluster.place import Place
from onelook.cluster.workers import Call, WorkerLostError, Workers
from onelook.errors import UserError, missing_package
from onelook.reporter import Reporter
from onelook.types import counted

T = TypeVar("T")
_MOST_FAILED_STARTS = 5  # one after the other
_LOOK_AT_CLUSTER = 5.0  # seconds between two looks at its size
_REMEDY = "Install the same version of Onelook, with the same extras, in the Python of every machine of the cluster."


class _Caller:
    """The actor: calls functions, one after the other, in a process that stays."""

    def ready(self) -> None:
        """Returns once the process runs."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)


def _call_alone(function: Callable[..., T], log: str | None, *arguments: Any) -> T:
    """The task: calls a function in a new process, with its output in a file."""
    if log is None:
        return function(*arguments)
    with (
        open(log, "a", encoding="utf-8", errors="replace") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            return function(*arguments)
        except Exception:
            traceback.print_exc()
            raise


class RayCall(Generic[T]):
    """A call on the cluster. reference: of its result in Ray, once it was handed over."""

    process = None

    def __init__(self, workers: RayWorkers, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        self._workers, self.function, self.arguments = workers, function, arguments
        self.reference: Any = None
        self.actor: Any = None
        self.value: T | None = None
        self.error: BaseException | None = None
        self.ended = False

    def done(self) -> bool:
        return self.ended

    def result(self) -> T:
        while not self.ended:
            self._workers.advance(1.0)
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # there is no error, so there is a value

    def interrupt(self) -> None:
        if not self.ended:
            self._workers.interrupt(self)


class RayWorkers:
    """Processes of a Ray cluster.

    alone: every call has a new process to itself; else a process is used again. device: of the work; for "cpu" no GPU
    is reserved.

    With a number of workers in the place, that many are asked for, which makes an autoscaling cluster grow; without,
    as many are used as there is room for.
    """

    def __init__(self, place: Place, reporter: Reporter, *, alone: bool = False, device: str | None = None) -> None:
        self.place, self.reporter, self._alone, self._device = place, reporter, alone, device
        self._stack = contextlib.ExitStack()
        self._waiting: deque[RayCall[Any]] = deque()
        self._running: dict[Any, RayCall[Any]] = {}  # by reference
        self._starting: dict[Any, Any] = {}  # reference -> actor
        self._idle: list[Any] = []
        self._failed_starts = 0
        self._room, self._looked = 0, -_LOOK_AT_CLUSTER

    def __enter__(self) -> RayWorkers:
        self._ray = ray = connect(self.place, self._stack, self.reporter)
        on_gpu = self._device != "cpu" and ray.cluster_resources().get("GPU", 0.0) > 0
        self.gpus = float(on_gpu) if self.place.gpus is None else self.place.gpus
        resources = {"num_cpus": self.place.cpus, "num_gpus": self.gpus}
        self._task = ray.remote(**resources, max_retries=0, max_calls=1)(_call_alone)
        self._actor = ray.remote(**resources, max_restarts=0)(_Caller)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in [*self._idle, *self._starting.values(), *(call.actor for call in self._running.values())]:
            if actor is not None:
                self._ray.kill(actor)
        for call in self._running.values():
            if call.actor is None:
                self._ray.cancel(call.reference, force=True)
        self._stack.close()

    @property
    def on_cpu(self) -> bool:
        """Whether the calls have no GPU."""
        return self.gpus == 0

    @property
    def count(self) -> int:
        if self.place.workers is not None:
            return self.place.workers
        if time.monotonic() - self._looked > _LOOK_AT_CLUSTER:
            self._looked = time.monotonic()
            self._room = sum(self._room_on(node["Resources"]) for node in self._ray.nodes() if node["Alive"])
        return max(1, self._room)

    def _room_on(self, resources: dict[str, float]) -> int:
        """How many workers a machine has room for."""
        room = int(resources.get("CPU", 0.0) / self.place.cpus)
        return min(room, int(resources.get("GPU", 0.0) / self.gpus)) if self.gpus else room

    def share(self, value: T) -> T:
        return self._ray.put(value)  # Ray replaces it by the value where it is an argument

    def submit(self, function: Callable[..., T], *arguments: Any, log: Path | None = None) -> RayCall[T]:
        call = RayCall(self, function, arguments)
        if self._alone:
            call.reference = self._task.remote(function, None if log is None else os.path.abspath(log), *arguments)
            self._running[call.reference] = call
        else:
            self._waiting.append(call)
            self._hand_over()
        return call

    def wait(self, calls: Sequence[Call[Any]], seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not any(isinstance(call, RayCall) and call.ended for call in calls):
            left = ends - time.monotonic()
            self.advance(max(0.0, left))
            if left <= 0:
                return

    def advance(self, seconds: float) -> None:
        """Waits for what is next to end, at most for some seconds, and hands over calls that wait for a worker."""
        self._hand_over()
        references = [*self._running, *self._starting]
        if not references:
            time.sleep(min(seconds, 0.1))
            return
        ended, _ = self._ray.wait(references, num_returns=1, timeout=min(seconds, _LOOK_AT_CLUSTER))
        if ended:
            ended, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ended:
            if reference in self._starting:
                self._started(reference)
            else:
                self._ended(reference)
        self._hand_over()

    def interrupt(self, call: RayCall[Any]) -> None:
        """Keeps a call from beginning, or interrupts its task; an actor is ended with its call."""
        if call.reference is None:
            self._waiting.remove(call)
            call.error, call.ended = KeyboardInterrupt(), True
        elif call.actor is None:
            self._ray.cancel(call.reference, force=False)
        else:
            self._ray.kill(call.actor)

    def _hand_over(self) -> None:
        """Gives waiting calls to idle actors, starts actors that are missing, and ends those that are not needed."""
        while self._waiting and self._idle:
            call, call.actor = self._waiting.popleft(), self._idle.pop()
            call.reference = call.actor.call.remote(call.function, *call.arguments)
            self._running[call.reference] = call
        while len(self._starting) + len(self._running) < min(self.count, len(self._waiting) + len(self._running)):
            actor = self._actor.remote()
            self._starting[actor.ready.remote()] = actor

    def release_idle(self) -> None:
        """Ends the workers that have nothing to do, so that their machines are free for others."""
        surplus = [self._starting.popitem()[1] for _ in range(len(self._starting) - len(self._waiting))]
        for actor in (*self._idle, *surplus):
            self._ray.kill(actor)
        self._idle = []

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise UserError(f"No worker can be started on the cluster: {last_line(error)}", _REMEDY) from error
            return
        self._failed_starts = 0
        self._idle.append(actor)

    def _ended(self, reference: Any) -> None:
        call = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            call.value = self._ray.get(reference)
        except errors.TaskCancelledError:
            call.error = KeyboardInterrupt()
        except errors.RayTaskError as error:  # the function's own
            cause = error.cause
            call.error = cause if isinstance(cause, Exception) else error
        except errors.RayError as error:
            call.error, call.actor = WorkerLostError(last_line(error)), None
        call.ended = True
        if call.actor is not None:
            self._idle.append(call.actor)


def workers_at(
    place: Place, local: Workers, reporter: Reporter, *, alone: bool = False, device: str | None = None
) -> Workers:
    """The workers of a place: `local` on this machine, else those of a Ray cluster, as `RayWorkers` takes them."""
    return local if place.is_local else RayWorkers(place, reporter, alone=alone, device=device)


def device_of(workers: Workers, device: str | None) -> str | None:
    """The device that calls on these workers use. device: what the user gave; None on Ray is what is reserved."""
    return ("cpu" if workers.on_cpu else "cuda") if device is None and isinstance(workers, RayWorkers) else device


def connect(place: Place, stack: contextlib.ExitStack, reporter: Reporter) -> Any:
    """Ray, connected to a cluster until `stack` is closed; a connection that exists already is used and kept."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 are too few where other work fills the machine
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing_package("ray", "Running on a cluster") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here sends no statistics
    settings: dict[str, Any] = {} if place.address else {"include_dashboard": False}
    try:
        with _importable():
            ray.init(address=place.address or None, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:
        where = f"the Ray cluster at {place.address}" if place.address else "a Ray cluster"
        remedy = (
            "Check the address and that the cluster runs the same versions of Ray and Python."
            if place.address
            else "Start one with `ray start --head`, or give the address of one: --on ray://HOST:PORT."
        )
        raise UserError(f"No connection to {where}: {last_line(error)}", remedy) from error
    stack.callback(ray.shutdown)
    resources = ray.cluster_resources()
    found = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    reporter.info(f"Connected to Ray {ray.__version__}: {counted(len(ray.nodes()), 'machine')}, {found}.")
    return ray


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """The processes of a cluster that is started in this block find the modules of Onelook where this one did."""
    before = os.environ.get("PYTHONPATH")
    folder = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def last_line(error: BaseException) -> str:
    """The end of an error's text, which says what happened."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
