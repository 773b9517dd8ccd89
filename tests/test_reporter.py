"""Reporters: what they print, where, and how often."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from onelook import reporter as module
from onelook.cli import console_reporter
from onelook.cli.console_reporter import ConsoleReporter
from onelook.reporter import PlainReporter, Reporter, SilentReporter


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only as a test moves it: `clock.now += seconds`."""
    clock = SimpleNamespace(now=100.0)
    for one in (module, console_reporter):
        monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def work(reporter: Reporter, clock: SimpleNamespace, *, every: float | None = None, detail: str = "") -> None:
    """A task of 40 steps that take a second each."""
    with reporter.progress("Working", every=every) as progress:
        for done in range(1, 41):
            clock.now += 1.0
            progress(done, 40, detail)


def test_a_silent_reporter_prints_nothing(capfd, clock):
    reporter = SilentReporter()
    reporter.info("message")
    reporter.warning("look")
    work(reporter, clock)
    assert capfd.readouterr() == ("", "")


def test_a_plain_reporter_prints_lines_on_standard_error(capfd, clock):
    reporter = PlainReporter()
    reporter.info("message")
    reporter.warning("look")
    work(reporter, clock, detail="loss 3")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "message",
        "warning: look",
        *(f"Working: {share} % after {seconds} s loss 3" for share, seconds in ((8, 3), (32, 13), (58, 23), (82, 33))),
    ]


@pytest.mark.parametrize("make", [PlainReporter, lambda file: ConsoleReporter(Console(file=file))])
def test_lines_may_be_seldom(clock, make):
    out = io.StringIO()
    work(make(out), clock, every=30.0)
    assert out.getvalue().splitlines() == ["Working: 75 % after 30 s"]


def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)


def test_a_console_reporter_prints_names_in_brackets_as_they_are_and_wraps_no_path():
    screen = console()
    reporter = ConsoleReporter(screen)
    reporter.info("[red] " + "x" * 100)
    reporter.warning("a [b]")
    assert screen.file.getvalue().splitlines() == ["[red] " + "x" * 100, "warning: a [b]"]


def test_a_terminal_shows_a_bar_with_the_detail_beside_it(clock):
    screen = console()
    work(ConsoleReporter(screen), clock, detail="7/40  loss [3]")
    assert "Working" in screen.file.getvalue() and "7/40  loss [3]" in screen.file.getvalue()


def test_a_short_task_shows_no_bar(clock):
    screen = console()
    with ConsoleReporter(screen).progress("Working") as progress:
        clock.now += 0.4
        progress(1, 2)
    assert screen.file.getvalue() == ""
