"""Fetches an image by its address, from allowed hosts only, and never from a private network.

A name is resolved once, every address that it has must be public, and the connection goes to one of these addresses,
so that a second answer of the name server cannot lead elsewhere (DNS rebinding). Redirects pass the same checks.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import closing
from urllib.parse import SplitResult, urljoin, urlsplit

from onelook.serving.service_error import ServiceError

_MOST_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_BLOCK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(address: str, allowed: Sequence[str], max_bytes: int, seconds: float) -> bytes:
    """The content of an address, of at most `max_bytes`, within `seconds`. ServiceError for everything else."""
    ends = time.monotonic() + seconds
    for _ in range(_MOST_REDIRECTS + 1):
        parts = check_address(address, allowed)
        connection = _connect(parts, ends)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Host": parts.netloc, "Accept": "image/*", "Connection": "close"})
            with closing(connection.getresponse()) as response:
                if response.status in (301, 302, 303, 307, 308):
                    address = urljoin(address, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    raise _failed(f"The host answered with the status {response.status}.")
                return _read(response, connection, max_bytes, ends)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed("The host did not send an image.") from error
        finally:
            connection.close()
    raise _failed(f"The address leads to more than {_MOST_REDIRECTS} redirects.")


def check_address(address: str, allowed: Sequence[str]) -> SplitResult:
    """The parts of an address. ServiceError unless it is http(s) and its host and port are allowed."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in _PORTS or not host or parts.username is not None or any(ord(one) < 33 for one in address):
        raise ServiceError(400, "bad_address", "The address of the image is no http or https address.", "Check it.")
    usual = port in (None, _PORTS[parts.scheme])
    if f"{host}:{port or _PORTS[parts.scheme]}" not in allowed and not (usual and host in allowed):
        raise ServiceError(
            403,
            "address_not_allowed",
            "Images may not be fetched from this host.",
            "Send the image itself, or start the server with --allow-url HOST.",
        )
    return parts


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also where it is written inside an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _connect(parts: SplitResult, ends: float) -> http.client.HTTPConnection:
    """A connection to a public address of the host. The name is resolved here and never again."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _failed("The host of the address is unknown.") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise ServiceError(
            403,
            "address_not_allowed",
            "The host has a private address, from which nothing is fetched.",
            "Send the image.",
        )
    connection = http.client.HTTPConnection(host, port, timeout=_left(ends))
    try:
        plain = socket.create_connection((addresses[0], port), timeout=_left(ends))
        secure = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except OSError as error:
        raise _failed("The host cannot be reached.") from error
    return connection


def _read(
    response: http.client.HTTPResponse, connection: http.client.HTTPConnection, max_bytes: int, ends: float
) -> bytes:
    content = bytearray()
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(ends))
        block = response.read1(_BLOCK)
        if not block:
            return bytes(content)
        content += block
        if len(content) > max_bytes:
            raise ServiceError(413, "too_large", f"The image has more than {max_bytes:,} bytes.", "Make it smaller.")


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise _failed("The host is too slow.")
    return left


def _failed(message: str) -> ServiceError:
    return ServiceError(502, "fetch_failed", message, "Check the address, or send the image itself.")
