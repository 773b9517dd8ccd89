"""Cameras on 127.0.0.1: RTSP with MJPEG (RFC 2435) or H.264 (RFC 6184) in RTP over its TCP connection, and HTTP MJPEG.

Every frame shows its number, so that a test knows how old the frame is that it was given.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

RATE = 30
HEIGHT, WIDTH = 96, 128
_CELL = 16  # side of a bit's square in pixels: compression keeps it black or white
_BITS = 16
_PAYLOAD = 1200  # bytes of an image in a packet


def numbered(number: int) -> np.ndarray:
    """A bright BGR image whose lower squares are the bits of a number."""
    image = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
    bits = np.array([number >> place & 1 for place in range(_BITS)], np.uint8).reshape(2, 8)
    image[-2 * _CELL :] = np.kron(bits, np.full((_CELL, _CELL), 255, np.uint8))[..., None]
    return image


def number_of(image: np.ndarray) -> int:
    """The number that an image shows."""
    centres = image[-2 * _CELL :].mean(2)[_CELL // 2 :: _CELL, _CELL // 2 :: _CELL]
    return int(sum(int(bit) << place for place, bit in enumerate((centres > 128).ravel())))


@lru_cache(maxsize=2048)
def jpeg_of(number: int) -> bytes:
    """The numbered image as a JPEG file, baseline, 4:2:0, with the standard Huffman tables."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", numbered(number), settings)[1].tobytes()


class NetworkCamera:
    """Sends the frames of a clock that begins with the camera, to everyone who connects; `sent` is the last number.

    kind: "mjpeg" or "h264" (which needs PyAV) by RTSP, or "http".  login: the name and password that RTSP asks for.
    stop, start: as if its plug were pulled and put in again.  freeze: it keeps its connections and sends nothing.
    """

    def __init__(self, kind: str = "mjpeg", login: tuple[str, str] | None = None) -> None:
        self.kind, self._login, self._port = kind, login, 0
        self.sent, self.connections, self.refused, self.freeze = -1, 0, 0, threading.Event()
        self._open: list[socket.socket] = []
        self._begun = time.monotonic()
        self.start()

    @property
    def address(self) -> str:
        """Where it is, with its login."""
        name = "" if self._login is None else "{}:{}@".format(*self._login)
        return f"{'http' if self.kind == 'http' else 'rtsp'}://{name}127.0.0.1:{self._port}/x"

    def start(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._port = self._server.getsockname()[1]
        self._running = threading.Event()
        self._running.set()
        threading.Thread(target=self._accept, args=(self._server, self._running), daemon=True).start()

    def stop(self) -> None:
        self._running.clear()
        for one in (self._server, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def __enter__(self) -> NetworkCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, server: socket.socket, running: threading.Event) -> None:
        while running.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            answer = self._http if self.kind == "http" else self._rtsp
            threading.Thread(target=self._until_closed, args=(answer, connection, running), daemon=True).start()

    def _until_closed(
        self, answer: Callable[[socket.socket, threading.Event], None], connection: socket.socket, on: threading.Event
    ) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            answer(connection, on)

    def _numbers(self, running: threading.Event) -> Iterator[int]:
        """The number of each frame when it is due, from now on."""
        number = int((time.monotonic() - self._begun) * RATE) + 1
        self.connections += 1
        while running.is_set():
            time.sleep(max(0.0, self._begun + number / RATE - time.monotonic()))
            if not self.freeze.is_set():
                yield number
                self.sent = max(self.sent, number)
            number += 1

    def _http(self, connection: socket.socket, running: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in self._numbers(running):
            data = jpeg_of(number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data + b"\r\n")

    def _rtsp(self, connection: socket.socket, running: threading.Event) -> None:
        """The requests of one client (RFC 2326); after PLAY images go to its channel 0, and it is not read any more."""
        requests = connection.makefile("rb")
        while (first := requests.readline()).strip():
            method = first.split()[0].decode()
            fields = dict(line.decode().strip().split(": ", 1) for line in iter(requests.readline, b"\r\n"))
            status, extra, body = "200 OK", "", b""
            if self._login is not None and method != "OPTIONS":
                wanted = "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
                if fields.get("Authorization") != wanted:
                    status, extra = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
                    self.refused += 1
            if status != "200 OK":
                pass
            elif method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = self._description()
                extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP" and "TCP" not in fields["Transport"]:
                status = "461 Unsupported Transport"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            head = f"RTSP/1.0 {status}\r\nCSeq: {fields['CSeq']}\r\nSession: 1\r\n{extra}\r\n"
            connection.sendall(head.encode() + body)
            if method == "PLAY":
                return self._play(connection, running)
        return None

    def _description(self) -> bytes:
        codec = "96 H264/90000\r\na=fmtp:96 packetization-mode=1" if self.kind == "h264" else "26 JPEG/90000"
        kind = codec[:2]
        lines = (
            "v=0",
            "o=- 1 1 IN IP4 127.0.0.1",
            "s=camera",
            "t=0 0",
            f"m=video 0 RTP/AVP {kind}",
            f"a=rtpmap:{codec}",
        )
        return "".join(line + "\r\n" for line in lines).encode()

    def _play(self, connection: socket.socket, running: threading.Event) -> None:
        pack = h264_packets() if self.kind == "h264" else jpeg_payloads
        kind, sequence = (96 if self.kind == "h264" else 26), 0
        for number in self._numbers(running):
            payloads = pack(number)
            for place, payload in enumerate(payloads):
                last = place == len(payloads) - 1
                stamp = number * (90_000 // RATE) % 2**32
                head = struct.pack(">BBHII", 0x80, kind | (0x80 if last else 0), sequence % 2**16, stamp, 1)
                connection.sendall(struct.pack(">cBH", b"$", 0, len(head) + len(payload)) + head + payload)
                sequence += 1


def jpeg_payloads(number: int) -> list[bytes]:
    """The numbered image as payloads of RFC 2435: tables in the first, then the scan in parts."""
    data, place, tables = jpeg_of(number), 2, b""
    while data[place + 1] != 0xDA:  # segments up to the start of the scan
        (length,) = struct.unpack_from(">H", data, place + 2)
        if data[place + 1] == 0xDB:
            content = data[place + 4 : place + 2 + length]
            tables += b"".join(content[start + 1 : start + 65] for start in range(0, len(content), 65))
        place += 2 + length
    scan = data[place + 2 + struct.unpack_from(">H", data, place + 2)[0] : -2]
    assert len(tables) == 128, "two tables of 8 bits"
    payloads = []
    for start in range(0, len(scan), _PAYLOAD):
        head = struct.pack(">IBBBB", start, 1, 255, WIDTH // 8, HEIGHT // 8)  # type 1 is 4:2:0
        head += struct.pack(">BBH", 0, 0, len(tables)) + tables if start == 0 else b""
        payloads.append(head + scan[start : start + _PAYLOAD])
    return payloads


def h264_packets() -> Callable[[int], list[bytes]]:
    """Encodes numbered images, with a key frame each second, as payloads of RFC 6184: whole NAL units or FU-A parts."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = WIDTH, HEIGHT, "yuv420p", RATE
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(RATE), "x264-params": "slices=1"}

    def packets(number: int) -> list[bytes]:
        image = av.VideoFrame.from_ndarray(numbered(number), format="bgr24")
        stream = b"".join(bytes(packet) for packet in encoder.encode(image))
        payloads = []
        for unit in filter(None, (part.strip(b"\0") for part in stream.split(b"\0\0\1"))):
            if len(unit) <= _PAYLOAD:
                payloads.append(unit)
                continue
            parts = range(1, len(unit), _PAYLOAD)
            for start in parts:
                flags = 0x80 * (start == 1) | 0x40 * (start == parts[-1]) | unit[0] & 0x1F
                payloads.append(bytes([unit[0] & 0xE0 | 28, flags]) + unit[start : start + _PAYLOAD])
        return payloads

    return packets
