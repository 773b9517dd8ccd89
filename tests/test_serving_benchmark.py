"""The generator of the server's benchmark: its load does not slow down with the server, and no request is lost."""

from __future__ import annotations

import asyncio

import pytest

from request_generator import Generator

REQUEST = b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc"


async def loaded(rate: float | None, seconds: float, wait: float, *, lost: int = 0):
    """The load on a server that answers after `wait` seconds, every third request with 503, the `lost` first never."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while len(await reader.readexactly(len(REQUEST))):
                count += 1
                if count <= lost:
                    break
                status = b"503 Busy" if count % 3 == 0 else b"200 OK"
                await asyncio.sleep(wait)
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-")
                await writer.drain()
                writer.write(b"Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        load = await Generator(server.sockets[0].getsockname()[1], REQUEST, rate).run(seconds)
    return load, count


def test_requests_are_due_whatever_the_server_does():
    load, count = asyncio.run(loaded(200.0, 0.5, 0.3))
    assert sum(load.statuses.values()) == count == len(load.late)  # in a closed loop they were two a connection
    assert count > 50 and load.statuses[503] == count // 3 == len(load.refused)
    assert all(due >= sent >= 0.29 for due, sent in load.accepted)
    assert load.processor > 0


def test_without_a_rate_there_is_one_request_at_a_time():
    load, count = asyncio.run(loaded(None, 0.3, 0.02))
    assert 1 < count <= 15 and load.statuses == {200: count - count // 3, 503: count // 3}


@pytest.mark.parametrize("rate", [50.0, None])
def test_requests_without_an_answer_are_counted(rate):
    load, count = asyncio.run(loaded(rate, 0.2, 0.0, lost=2))
    assert load.statuses[0] == 2 and sum(load.statuses.values()) == count
