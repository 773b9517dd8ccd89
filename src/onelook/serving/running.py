"""Runs the application with uvicorn: one process, bounded connections, and a drain at SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import cv2
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onelook.errors import UserError, reason_of
from onelook.serving.repository import Repository

MOST_CONNECTIONS = 1024
_OTHER_FILES = 128  # models while they are loaded, fetches, logs
_MOST_HEAD = 1 << 15  # bytes of a request's line and headers
_HEAD_SECONDS = 20.0  # for the first byte of a new connection, and for a request's headers
_SWITCH_SECONDS = 0.0002  # a network's thread waits at most this long for the interpreter, several times an image


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose headers are bounded in bytes and time; uvicorn bounds neither with this parser."""

    _head = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most = self.config.limit_concurrency
        if most is not None and len(self.connections) > most:
            transport.abort()  # uvicorn counts them at a request only: idle ones would take all file descriptors
            return
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._close_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > _MOST_HEAD:
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head = 0, True
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self._close_slow)

    def on_headers_complete(self) -> None:
        """Called by Uvicorn's parser when all headers of a request are here: their time limit ends."""
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().on_headers_complete()

    def _close_slow(self) -> None:
        self._deadline = None
        if self._in_head:
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """At SIGTERM and SIGINT: not ready any more, no new connections, requests in work are finished, exit code 0.

    A second signal ends at once.
    """

    def __init__(self, config: uvicorn.Config, repository: Repository) -> None:
        super().__init__(config)
        self.repository = repository

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.repository.draining = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. UserError for a port that is taken or an address that this machine does not have."""
    if not 0 <= port <= 65535:
        raise UserError(f"The server cannot listen on port {port}.", "Give a port from 0 to 65535: --port 8000.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio sends small packets at once (TCP_NODELAY) only where the protocol is named; without it, an answer's
        # body waits up to 40 ms for the client to acknowledge its head.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)  # from now on connections wait, also before the server has started
        return listening
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {host}, port {port}: {reason_of(error)}.",
            "Choose another with --host and --port.",
        ) from error


def most_connections() -> int:
    """Most connections at once: 1,024, or what the limit of open files leaves beside models and fetches."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(MOST_CONNECTIONS, soft - _OTHER_FILES))
    return MOST_CONNECTIONS


def run_server(
    app: FastAPI,
    repository: Repository,
    listening: socket.socket,
    *,
    drain_seconds: float = 30.0,
    started: Callable[[], object] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. drain_seconds: for requests in work, before they are given up."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=most_connections(),
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        timeout_keep_alive=15,
        backlog=512,
    )
    server = DrainingServer(config, repository)
    interval, resizers = sys.getswitchinterval(), cv2.getNumThreads()
    sys.setswitchinterval(_SWITCH_SECONDS)
    cv2.setNumThreads(1)  # images are decoded side by side; OpenCV's own threads would take the network's core
    try:
        if started is not None:
            started()
        server.run(sockets=[listening])
    finally:
        sys.setswitchinterval(interval)
        cv2.setNumThreads(resizers)
        listening.close()
