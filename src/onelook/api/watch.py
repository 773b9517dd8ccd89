"""Serves the live page of a training on this machine: a thread that answers a browser, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from onelook import run_files
from onelook.report.watch import WatchState, watch_content, watch_document, watch_script
from onelook.serving.local_server import Answer, LocalServer
from onelook.training.monitor import StepState
from onelook.training.run import Run

PORT = 8420  # the same each time, so that an open page shows the next training; any if it is taken
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
        self.url = self._server.address
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

    def answer(self, path: str) -> Answer | None:
        """What stands at an address of the page; None where nothing does."""
        state, html = self.state, "text/html; charset=utf-8"
        if path == "/":
            self._asked = time.monotonic()
            return Answer(watch_document(state).encode(), html, "no-store")
        if path == "/content":
            self._asked = time.monotonic()
            if state.is_over:
                self._ended.set()
            return Answer(watch_content(state).encode(), html, "no-store")
        if path == "/watch.js":
            return Answer(watch_script().encode(), "text/javascript; charset=utf-8", "no-store")
        jpeg = self._jpegs.get(path.removeprefix("/"))
        return None if jpeg is None else Answer(jpeg, "image/jpeg", "max-age=3600")


def _losses(row: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("loss/"): float(value) for name, value in row.items() if name.startswith("loss/")}


def _open_server(watch: Watch, port: int) -> LocalServer:
    try:
        return LocalServer(port, watch.answer, _POLICY)
    except OSError:  # taken by another training, or by something else
        return LocalServer(0, watch.answer, _POLICY)


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
