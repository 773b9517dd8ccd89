"""The command line's frame: help, exit codes, `--json`, `--debug`, messages instead of tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts import App
from rich.console import Console

from onelook import __version__
from onelook.cli import app as command_line
from onelook.cli.command_result import CommandResult
from onelook.cli.help import read_docstring
from onelook.errors import ConfigError, UsageError, UserError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(command_line.__file__).parents[2])}

ERRORS: dict[str, BaseException] = {
    "user": UserError("The file 'a.txt' is damaged.", "Write it again."),
    "usage": UsageError("'epochz' is no setting.", "Did you mean 'epochs'?"),
    "config": ConfigError("a.yaml:3: 'x' is wrong."),
    "bug": ZeroDivisionError("division by zero"),
    "interrupt": KeyboardInterrupt(),
    "pipe": BrokenPipeError(),
    "no-torch": ModuleNotFoundError("No module named 'torch'", name="torch"),
    "full": OSError(28, "No space left on device", "out.bin"),
    "memory": MemoryError(),
    "worker": RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),  # PyTorch's words
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with this checkout's package."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT)


@dataclass(frozen=True)
class Answer:
    value: Any

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def __str__(self) -> str:
        return f"shown: {self.value}"


def show_answer(answer: Answer, console: Console) -> None:
    console.print(str(answer))


def work(
    thing: str, /, *, times: int = 1, fail: str | None = None, code: int = 0, half: bool = False
) -> CommandResult[Answer]:
    """Work on a thing.

    A longer description that is
    broken into lines.

    Examples:
        onelook work apple
        onelook work apple --times 3

    Args:
        thing: What to work on.
        times: How often.
        fail: The error to raise.
        code: The exit code to return.
        half: Only half of it, where the description of an option is
            long and broken.
    """
    print("printed on the way")
    if thing == "rotten":
        warnings.warn("The apple is rotten.", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    if fail is not None:
        raise ERRORS[fail]
    return CommandResult(Answer([thing] * times), show_answer if times > 1 else None, code)


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command line with one verb and one group of verbs, instead of the real ones."""
    module = types.ModuleType("onelook_test_verbs")
    group = App(name="group", help="A group of verbs.")
    group.command(work, name="inner")
    module.work, module.group = work, group  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onelook_test_verbs", module)
    table = {
        "work": ("onelook_test_verbs:work", "Work on a thing."),
        "group": ("onelook_test_verbs:group", "A group of verbs."),
    }
    monkeypatch.setattr(command_line, "VERBS", table)
    monkeypatch.setenv("COLUMNS", "80")
    yield


SITUATIONS: list[tuple[str, str, int, str, str]] = [
    # what, arguments, exit code, in standard output, in standard error
    ("success", "work apple", 0, "shown: ['apple']", ""),
    ("found errors", "work apple --code 1", 1, "shown: ['apple']", ""),
    ("no arguments", "", 0, "Work on a thing.", ""),
    ("help", "--help", 0, "onelook COMMAND", ""),
    ("help of a verb", "work --help", 0, "onelook work apple --times 3", ""),
    ("help first", "-h work", 0, "A longer description that is broken into lines.", ""),
    ("help of an inner verb", "group inner --help", 0, "onelook work apple --times 3", ""),
    ("a group alone", "group", 0, "inner", ""),
    ("version", "--version", 0, __version__, ""),
    ("unknown verb", "wrok apple", 2, "", "error: 'onelook' has no command 'wrok'. Did you mean 'work'?"),
    ("unknown inner verb", "group iner", 2, "", "error: 'onelook group' has no command 'iner'. Did you mean 'inner'?"),
    ("unknown option", "work apple --tims 3", 2, "", "error: Unknown option --tims. Did you mean --times?"),
    ("unknown option alone", "--verison", 2, "", "error: Unknown option --verison."),
    ("missing argument", "work", 2, "", "error: 'onelook work' needs THING."),
    ("missing value", "work apple --times", 2, "", "error: --times needs a value."),
    ("a value that looks like an option", "work apple --times -3x", 2, "", "Write --times=-3x for a value that begins"),
    ("wrong value", "work apple --times many", 2, "", "error: --times takes a whole number, not 'many'."),
    ("too much", "work apple pear", 2, "", "does not know what to do with: pear"),
    ("negative of a flag", "work apple --no-half", 2, "", "error: Unknown option --no-half."),
    ("json without file", "work apple --json", 2, "", "error: --json needs a file"),
    ("json before an option", "work apple --json --times 3", 2, "", "error: --json needs a file"),
    ("a user's mistake", "work apple --fail user", 1, "", "error: The file 'a.txt' is damaged.\nWrite it again."),
    ("wrong use found later", "work apple --fail usage", 2, "", "error: 'epochz' is no setting."),
    ("a wrong file", "work apple --fail config", 1, "", "error: a.yaml:3: 'x' is wrong."),
    (
        "a bug",
        "work apple --fail bug",
        1,
        "",
        "error: Onelook failed unexpectedly (ZeroDivisionError: division by zero).",
    ),
    ("interrupted", "work apple --fail interrupt", 130, "", "error: Interrupted."),
    ("package missing", "work apple --fail no-torch", 1, "", "needs the package 'torch', which is not installed."),
    ("disk full", "work apple --fail full", 1, "", "error: 'out.bin': no space left on device."),
    ("memory", "work apple --fail memory", 1, "", "error: Not enough memory."),
    ("worker killed", "work apple --fail worker", 1, "", "error: A process that prepares images was ended"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"), [case[1:] for case in SITUATIONS], ids=[case[0] for case in SITUATIONS]
)
def test_a_call_ends_with_its_code_and_message(
    arguments: str, code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run(arguments.split()) == code
    captured = capsys.readouterr()
    assert out in captured.out
    assert err in captured.err if err else captured.err == ""
    assert "Traceback" not in captured.err


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_without_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["work", "rotten"]) == 0
    assert capsys.readouterr().err == "warning: The apple is rotten.\n"


def test_debug_shows_the_traceback() -> None:
    for name in ("user", "bug", "interrupt"):
        with pytest.raises(type(ERRORS[name])):
            command_line.run(["work", "apple", "--fail", name, "--debug"])


def test_a_closed_pipe_is_quiet() -> None:
    script = "import sys; from onelook.cli.app import run; sys.exit(run([]))"
    shell = f'"{sys.executable}" -c "{script}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_json_on_standard_output_is_alone_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["--json", "-", "work", "apple"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"value": ["apple"]}
    assert "shown: ['apple']" in captured.err
    assert "printed on the way" in captured.err


def test_json_in_a_file_is_what_was_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "result.json"
    assert command_line.run(["work", "apple", f"--json={target}"]) == 0
    assert json.loads(target.read_text()) == {"value": ["apple"]}
    assert "shown" in capsys.readouterr().out


def test_of_several_processes_the_first_shows_the_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, shows in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert command_line.run(["work", "apple"]) == 0
        assert ("shown: ['apple']" in capsys.readouterr().out) is shows
    assert command_line.run(["work", "apple", "--fail", "user"]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_json_is_refused_before_the_work_where_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for target, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "x.json", "cannot be written")):
        assert command_line.run(["work", "apple", "--json", str(target)]) == 1
        captured = capsys.readouterr()
        assert message in captured.err
        assert "printed on the way" not in captured.out


def test_json_holds_numpy_and_paths_and_no_not_a_number() -> None:
    from onelook.cli.output import plain_json

    value = {"a": np.float32(1.5), "b": np.arange(2), "c": (float("nan"), float("inf")), "d": Path("x"), 3: np.int64(4)}
    assert plain_json(value) == {"a": 1.5, "b": [0, 1], "c": [None, None], "d": "x", "3": 4}


def test_a_home_that_the_shell_left_is_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    given = ["view", "~", "~/x", "--out=~/x", "NAME=~/a.onnx,~/b.onnx", "./~/x", "a~/b", "http://x/~me", "~x"]
    assert command_line.with_home(given) == [
        *("view", "/home/me", "/home/me/x", "--out=/home/me/x", "NAME=/home/me/a.onnx,/home/me/b.onnx"),
        *("./~/x", "a~/b", "http://x/~me", "~x"),
    ]


def test_options_after_a_double_dash_are_the_commands() -> None:
    rest, options = command_line.split_options(["work", "--debug", "--", "--json", "--debug"])
    assert rest == ["work", "--", "--json", "--debug"]
    assert options == command_line.GlobalOptions(None, True)


def test_a_help_page_fits_its_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        command_line.run(["work", "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_a_help_page_fills_the_lines_of_a_long_description(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    command_line.run(["work", "--help"])
    assert "Only half of it, where the description of an option is long and broken." in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from onelook.cli.app import run\nrun(['--help'])\n"
        "heavy = {'torch', 'numpy', 'cv2', 'onnx', 'onnxruntime', 'hotcoco'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


REAL_VERBS = dict(command_line.VERBS)


def functions(found: Any) -> list[Any]:
    """The functions behind a verb: one, or those of its inner verbs."""
    if not isinstance(found, App):
        return [found]
    return [found[inner].default_command for inner in found if not inner.startswith("-")]


@pytest.mark.parametrize("verb", REAL_VERBS)
def test_every_verb_has_a_summary_and_an_example(verb: str) -> None:
    target, summary = REAL_VERBS[verb]
    module, _, name = target.partition(":")
    group = getattr(import_module(module), name)
    if isinstance(group, App):
        assert group.help == summary
    for function in functions(group):
        text, examples = read_docstring(function.__doc__)
        assert examples and all(line.startswith(f"onelook {verb} ") or line == f"onelook {verb}" for line in examples)
        if not isinstance(group, App):
            assert text.split("\n\n")[0].replace("\n", " ") == summary


def test_python_m_is_the_same_command() -> None:
    done = python("-m", "onelook", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_json_goes_into_a_pipe_and_through_a_link_without_replacing_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.json", tmp_path / "target.json"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert command_line.run(["work", "apple", "--json", str(pipe)]) == 0
        assert json.loads(os.read(reader, 1000)) == {"value": ["apple"]}
    finally:
        os.close(reader)
    assert not pipe.is_file()
    assert command_line.run(["work", "apple", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"value": ["apple"]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_json_on_a_full_disk_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["work", "apple", "--json", "/dev/full"]) == 1
    assert "error: '/dev/full' cannot be written: no space left on device.\nGive" in capsys.readouterr().err
    assert not Path("/dev/full").is_file()


CHOKES = '''
import os, signal

try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    pass  # as native modules do

def choke():
    """Choke."""
'''


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_ctrl_c_while_a_verb_is_imported_is_not_lost(tmp_path: Path) -> None:
    """In a process of its own: the threads that other tests leave behind would take the signal."""
    (tmp_path / "module_that_chokes.py").write_text(CHOKES)
    code = f"""
import signal, sys
from onelook.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
sys.path.insert(0, {str(tmp_path)!r})
app.VERBS["choke"] = ("module_that_chokes:choke", "Choke.")
print(app.run(["choke"]), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("130 False\n", "error: Interrupted.\n")


BASE = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow", "numpy": "numpy", "msgspec": "msgspec"}


@pytest.mark.parametrize("module", BASE)
def test_a_package_of_the_base_that_is_missing_is_named_as_pip_calls_it(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None\nfrom onelook.cli.app import report\n"
    code += f"try:\n    import {module}\nexcept ImportError as error:\n    sys.exit(report(error, 'check'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: 'onelook check' needs the package '{BASE[module]}', which is not installed." in done.stderr
    assert f"pip install {BASE[module]}" in done.stderr and "fault" not in done.stderr


def test_check_without_opencv_names_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['cv2'] = None\nfrom onelook.cli.app import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", code, "check", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "needs the package 'opencv-python-headless'" in done.stderr
