"""Serves the live page of a training on this machine: a thread that answers a browser, and nothing else.

Only addresses of this machine are listened on, and only requests to such a name are answered, so that a page of
another site that is open in the same browser reads nothing (DNS rebinding). From another computer: ssh -L 8420:...
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from onelook import run_files
from onelook.report.watch import WatchState, watch_content, watch_document, watch_script
from onelook.training.monitor import StepState
from onelook.training.run import Run

ADDRESS, PORT = (
    "127.0.0.1",
    8420,
)  # the same each time, so that an open page shows the next training; any if it is taken
NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, as browsers write them
MOST_POINTS = 600  # of the loss curve; above, every second one is left out
MOST_WARNINGS = 20
WAIT_FOR_PAGE = 3.0  # seconds that the end is kept for a page that is open: it asks every two
_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"


class Watch:
    """The state of a training for its page: a `TrainMonitor`, and the server of the page.

    title: of the page.  state: what the page shows now; replaced as a whole, so that the server never sees half a
    change.
    """

    def __init__(self, state: WatchState, port: int = PORT) -> None:
        self.state = state
        self._stride, self._seen = 1, 0
        self._jpegs: dict[str, bytes] = {}
        self._asked, self._ended = 0.0, threading.Event()
        self._server = _open_server(self, port)
        self.url = f"http://{ADDRESS}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True, name="watch")
        self._thread.start()

    def step(self, state: StepState) -> None:
        points = self.state.points
        self._seen += 1
        if self._seen % self._stride == 0:
            points = [*points, (state.epoch + state.number / max(state.steps, 1), dict(state.losses))]
        if len(points) > MOST_POINTS:
            points, self._stride = points[::2], self._stride * 2
        self.state = replace(
            self.state,
            phase="training",
            epoch=state.epoch + 1,
            epochs=state.epochs,
            step=state.number,
            steps=state.steps,
            points=points,
            images_per_second=state.images_per_second,
            left=state.left,
        )

    def end_epoch(self) -> None:
        if self.state.phase == "training":
            self.state = replace(self.state, phase="evaluating")

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        points = self.state.points
        if not points:  # a resumed training: its earlier losses are those of whole epochs
            points = [(float(row["epoch"]), _losses(row)) for row in rows]
        self.state = replace(self.state, rows=[dict(row) for row in rows], points=points)

    def images(self, epoch: int, images: Sequence[tuple[str, bytes]]) -> None:
        before = self._jpegs  # of the evaluation before: a page may still ask for them
        jpegs = {f"image-{epoch}-{number}.jpg": jpeg for number, (_, jpeg) in enumerate(images)}
        kept = {name: jpeg for name, jpeg in before.items() if name.startswith(f"image-{self.state.image_epoch}-")}
        self._jpegs = kept | jpegs
        self.state = replace(self.state, image_epoch=epoch, images=[caption for caption, _ in images])

    def warning(self, text: str) -> None:
        self.state = replace(self.state, warnings=[*self.state.warnings, text][-MOST_WARNINGS:])

    def close(self, phase: str, text: str) -> None:
        """Shows the end, waits until an open page has read it, and stops the server."""
        self.state = replace(self.state, phase=phase, ended=text, left=None)
        if time.monotonic() - self._asked < WAIT_FOR_PAGE:
            self._ended.wait(WAIT_FOR_PAGE)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """The content type and the content of an address of the page; None where there is none."""
        state = self.state
        if path == "/":
            self._asked = time.monotonic()
            return "text/html; charset=utf-8", watch_document(state).encode()
        if path == "/content":
            self._asked = time.monotonic()
            if state.is_over:
                self._ended.set()
            return "text/html; charset=utf-8", watch_content(state).encode()
        if path == "/favicon.ico":
            return "image/x-icon", b""
        if path == "/watch.js":
            return "text/javascript; charset=utf-8", watch_script().encode()
        jpeg = self._jpegs.get(path.removeprefix("/"))
        return None if jpeg is None else ("image/jpeg", jpeg)


def _losses(row: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("loss/"): float(value) for name, value in row.items() if name.startswith("loss/")}


def _open_server(watch: Watch, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        timeout = 10  # seconds, of a browser that keeps a connection open without a request

        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            found = watch.answer(self.path.partition("?")[0]) if name in NAMES else None
            kind, content = found or ("text/plain; charset=utf-8", b"There is nothing here.\n")
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "max-age=3600" if kind == "image/jpeg" else "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *values: object) -> None:
            """Prints nothing: the terminal has the progress."""

    class Server(ThreadingHTTPServer):
        """Does not wait for a browser when it is closed, and prints no traceback where one has gone."""

        daemon_threads, block_on_close = True, False

        def handle_error(self, request: object, client_address: object) -> None:
            """A browser that closes its connection is no error of the training."""

    try:
        return Server((ADDRESS, port), Handler)
    except OSError:  # taken by another training, or by something else
        return Server((ADDRESS, 0), Handler)


@contextmanager
def watched(run: Run, title: str) -> Iterator[None]:
    """Shows a training on a page while the block runs, in the main process; says where the page is."""
    if not run.is_main:
        yield
        return
    watch = Watch(WatchState(title, run.recipe.metric, run.recipe.epochs))
    watch.rows(run.record.rows)
    run.log.monitor = watch
    run.log.info(f"Watch the training at {watch.url}")
    phase, text = "failed", "The training ended with an error: see the terminal or train.log."
    try:
        yield
        report = run.folder / run_files.REPORT
        if run.record.finished:
            phase, text = "finished", f"The report is {report}." if report.is_file() else f"The run is in {run.folder}."
        else:
            phase, text = "stopped", f"Stopped and saved. To resume: {run.resume_command}"
    except KeyboardInterrupt:
        phase, text = "stopped", f"Stopped. To resume: {run.resume_command}"
        raise
    finally:
        run.log.monitor = None
        watch.close(phase, text)
