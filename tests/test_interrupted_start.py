"""Ctrl-C right after the start ends the command without a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onelook.cli import app
from onelook.cli.interrupts import end_imports_at_once, repeat_lost_interrupts

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
# What installers write for the entry point of pyproject.toml.
SCRIPT = """import re
import sys
from onelook.__main__ import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A job in the background of a shell inherits an ignored SIGINT; started programs do not inherit a handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def has_begun(error: str) -> bool:
    """Whether a traceback comes from `main` or what it calls; what Python imports before it is not in our hands."""
    return bool(re.search(r"onelook/__main__[.]py.*in (main|<lambda>)", error)) or "Exception ignored" in error


class Interrupted:
    """Ctrl-C comes while it is deleted."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_an_interrupt_ends_a_large_import_at_once(name: str, tmp_path: Path) -> None:
    """An exception inside of such an import would abort the process."""
    library = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('went on')\n"
    (tmp_path / f"{name}.py").write_text(library)
    code = f"from onelook.cli.interrupts import end_imports_at_once\nend_imports_at_once()\nimport {name}\n"
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: Interrupted.\n")


def test_elsewhere_an_interrupt_is_raised() -> None:
    end_imports_at_once()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)


class Failing:
    """An error that can only be ignored."""

    def __del__(self) -> None:
        raise ValueError("ignored")


def test_an_interrupt_that_python_can_only_ignore_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    repeat_lost_interrupts()
    with pytest.raises(KeyboardInterrupt):
        del (interrupted := [Interrupted()])[0]
        time.sleep(20)
    assert not interrupted and capsys.readouterr().err == ""
    Failing()
    assert "ValueError: ignored" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "start"),
    [(["models"], "-m"), (["detect", "a.jpg", "--model", "x.onnx"], "-m"), (["train", "none"], "script")],
    ids=str,
)
def test_ctrl_c_in_the_first_moments_shows_no_traceback(command: list[str], start: str, tmp_path: Path) -> None:
    (tmp_path / "onelook").write_text(SCRIPT)
    begin = ["-m", "onelook"] if start == "-m" else [str(tmp_path / "onelook")]
    for wait in np.linspace(0.0, 0.6, 31):
        process = subprocess.Popen(
            [sys.executable, *begin, *command],
            env=ENVIRONMENT,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        time.sleep(float(wait))
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1].decode()
        assert not has_begun(error), (wait, error)
        assert process.returncode in (0, 1, 2, 130, -signal.SIGINT), (wait, error)


def test_ctrl_c_while_an_error_is_printed_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = []

    def interrupted(message: str, *remedy: str) -> None:
        printed.append(message)
        if message != "Interrupted.":
            raise KeyboardInterrupt

    monkeypatch.setattr(app, "print_error", interrupted)
    assert app.run(["check", "no such folder"]) == 130
    assert len(printed) == 2 and printed[1] == "Interrupted."


def test_ctrl_c_is_quiet_before_anything_large_is_imported() -> None:
    """Nothing but the package, its version and `__future__` is imported before `main` takes the signal."""
    code = "import sys; before = {*sys.modules}; import onelook.__main__; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    imported = [name for name in done.stdout.split() if name != "onelook._version"]  # which a build has written
    assert imported == ["__future__", "onelook", "onelook.__main__", "onelook.version"]


def test_the_first_thing_that_main_does_is_to_end_the_process_by_ctrl_c() -> None:
    code = (
        "import os, signal, sys, onelook.__main__ as entry\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onelook.cli.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "entry.main()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
