"""The command line: its commands, global options, error messages and exit codes.

A verb is a plain typed Python function in `cli/<verb>.py`; its signature and Google-style docstring are its command
line, with a section `Examples:` of shell lines. It calls one function of `onelook.api` and returns the result as
`CommandResult`. Exit codes: 0 success, 1 the work failed or found errors, 2 wrong usage, 130 interrupted.

Verbs are imported when they are called, so that `onelook --help` stays quick and needs no torch. Cyclopts and Rich are
imported where they are needed: see `quick.py`.
"""

from __future__ import annotations

import errno
import gc
import inspect
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from onelook.cli.command_result import CommandResult
from onelook.cli.interrupts import end_imports_at_once, repeat_lost_interrupts
from onelook.cli.output import JsonTarget, consoles, plain_warnings, print_error, quiet_broken_pipe
from onelook.cli.quick import parse
from onelook.errors import EXTRAS, OtherProcessError, UsageError, UserError, missing_package, reason_of
from onelook.named import import_named
from onelook.threads import make_waiting_passive
from onelook.version import __version__

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError
    from rich.console import Console

# name: (module:function, the first line of its docstring; a test holds the two equal).
VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "onelook.cli.demo:demo",
        "Train, validate, detect and export, on images that the program draws itself.",
    ),
    "train": ("onelook.cli.train:train", "Train a detector, or a classifier of images."),
    "roadmap": ("onelook.cli.roadmap:roadmap", "Train the rows of a paper's ablation table, and compare them."),
    "tune": ("onelook.cli.tune:tune", "Search for better settings of a training."),
    "search": ("onelook.cli.search:search", "Search for a backbone within a budget, without training (MAE-NAS)."),
    "bench": ("onelook.cli.bench:app", "Measure the latency, throughput and memory of a model."),
    "check": (
        "onelook.cli.check:check",
        "List every problem of a data set, or, without one, describe this installation.",
    ),
    "view": (
        "onelook.cli.view:view",
        "Write an HTML page that shows a data set: images with boxes, statistics, problems, a model's mistakes.",
    ),
    "anchors": ("onelook.cli.anchors:anchors", "Find anchor boxes that fit the objects of a data set."),
    "split": ("onelook.cli.split:split", "Divide a data set among train, val and test."),
    "edit": (
        "onelook.cli.edit:edit",
        "Change the classes of a data set, join several into one, leave out what is faulty.",
    ),
    "convert": ("onelook.cli.convert:convert", "Write a data set in another format."),
    "export": (
        "onelook.cli.export:export",
        "Write a model for another runtime, and compare it with PyTorch.",
    ),
    "detect": ("onelook.cli.detect:detect", "Find objects in images, folders, videos, cameras and streams."),
    "models": ("onelook.cli.models:models", "List the models: cost, input size, published accuracy, official weights."),
    "val": ("onelook.cli.val:validate", "Measure the average precision of a model on a data set."),
    "compare": (
        "onelook.cli.compare:compare",
        "Compare models on one data set and one machine: accuracy, speed, cost, and whether they differ.",
    ),
    "stream": (
        "onelook.cli.stream:stream",
        "Measure streaming AP: a detector's accuracy at the time of every frame of a video, latency included.",
    ),
    "serve": (
        "onelook.cli.serve:serve",
        "Serve models over HTTP: images to detections, and the open inference protocol v2.",
    ),
    "score": ("onelook.cli.score:score", "Evaluate a COCO results file against COCO annotations."),
    "diff": ("onelook.cli.diff:diff", "List the settings in which two recipes differ."),
}

ABOUT = "Real-time object detection: YOLOv4, YOLOX, YOLOv7 and DAMO-YOLO in one library of shared parts."

OTHER_ERROR_DELAY = 10.0  # seconds that a process with nothing to report waits for the one that reports the error
FRACTION = re.compile(r"[0-9]{1,15}\.[0-9]{0,15}|\.[0-9]{1,15}")
HELP_FLAGS = ("--help", "-h")
FIRST_STEPS = ("onelook detect photo.jpg --model yolox-s --weights yolox_s.pth", "onelook detect --help")

_OS_REMEDIES = {
    errno.EACCES: "Change the permissions, or choose another place.",
    errno.EPERM: "Change the permissions, or choose another place.",
    errno.EROFS: "Choose another place: nothing can be written there.",
    errno.ENOSPC: "Make room on the disk, or choose another place.",
    errno.EMFILE: "Allow the process more open files (ulimit -n).",
}


@dataclass(frozen=True)
class GlobalOptions:
    """The options that every command takes.

    json: file that the result is written to as JSON; "-" is standard output, and then everything else goes to standard
    error.  debug: show tracebacks.
    """

    json: str | None = None
    debug: bool = False


def split_options(arguments: Sequence[str]) -> tuple[list[str], GlobalOptions]:
    """Separates the global options `--json FILE` and `--debug` from the other arguments; stops at `--`.

    Raises UsageError for `--json` without a file.
    """
    rest: list[str] = []
    json, debug = None, False
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument == "--debug":
            debug = True
        elif argument == "--json":
            json = next(waiting, "")
        elif argument.startswith("--json="):
            json = argument.removeprefix("--json=")
        else:
            rest.append(argument)
    if json is not None and (not json or (json.startswith("-") and json != "-")):
        raise UsageError("--json needs a file to write.", "Give a path, or - for standard output: --json result.json")
    return rest, GlobalOptions(json, debug)


def with_home(arguments: Sequence[str]) -> list[str]:
    """The arguments with the user's folder for "~", as a shell puts it where nothing is quoted.

    Shells leave it in `--out=~/x`, `NAME=~/file` and `a,~/b` in any case. A folder that is called so is `./~`.
    """
    home = os.path.expanduser("~")
    return [re.sub(r"(^|[=,])~(?=[/\\]|$)", lambda found: found[1] + home, argument) for argument in arguments]


def make_app(verb: str | None = None) -> App:
    """Makes the cyclopts application. verb: the command that is called, of which the help shows the whole docstring."""
    from cyclopts import App, Group, Parameter

    from onelook.cli.help import HelpPage, format_default

    app = App(
        name="onelook",
        help=ABOUT,
        help_format="plaintext",
        help_formatter=HelpPage(),
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=format_default),
        group_commands=Group("Commands", sort_key=0),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
    )
    app["--help"].show = app["--version"].show = False  # listed with the options that hold everywhere
    for name, (target, summary) in VERBS.items():
        # Without `help`, cyclopts imports the module for its docstring: wanted for the called verb only.
        app.command(target, name=name, help=None if name == verb else summary)
    return app


def import_verb(verb: str) -> Any:
    """Imports the function of a verb. Ctrl-C is blocked meanwhile, because native modules fail on it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    collects = gc.isenabled()
    gc.disable()  # an import makes many objects and no garbage: looking for it takes a tenth of the time
    try:
        return import_named(VERBS[verb][0])
    finally:
        if collects:
            gc.enable()
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call(arguments: Sequence[str], make_console: Callable[[], Console]) -> Any:
    """Parses and runs one command. Returns its result, or None if help or the version was printed."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is not None and verb in VERBS:
        function = import_verb(verb)
        ordinary = parse(function, arguments[1:]) if inspect.isfunction(function) and verb == arguments[0] else None
        if ordinary is not None:
            positional, keywords = ordinary
            return function(*positional, **keywords)
    return call_with_cyclopts(verb, arguments, make_console())


def call_with_cyclopts(verb: str | None, arguments: Sequence[str], console: Console) -> Any:
    """Parses with cyclopts and runs one command: needed for help, groups of verbs, and good error messages."""
    from onelook.cli.help import HelpPage, page_of, print_global_options, unknown_command

    if verb is not None and verb not in VERBS:
        raise UsageError(*unknown_command(verb, list(VERBS)))
    app = make_app(verb)
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    commands = [argument for argument in before if argument not in HELP_FLAGS]
    wants_help = not arguments or len(commands) < len(before)
    if verb and not wants_help:
        check_whole_numbers(app, before)
    if wants_help:
        app.help_formatter = page_of(app, commands) if verb else HelpPage(ABOUT, FIRST_STEPS)
    result = app(arguments, console=console, exit_on_error=False, print_error=False)
    if wants_help:
        print_global_options(console)
    return result


def check_whole_numbers(app: App, arguments: Sequence[str]) -> None:
    """Raises UsageError for a fraction where an option takes a whole number; cyclopts would round it."""
    from onelook.cli.quick import integer_options

    function = app.parse_commands(arguments)[1][-1].default_command
    options = integer_options(function) if function is not None else frozenset()
    for index, argument in enumerate(arguments):
        option, has_value, value = argument.partition("=")
        if option not in options:
            continue
        text = value if has_value else "".join(arguments[index + 1 : index + 2])
        if FRACTION.fullmatch(text):
            whole = int(float(text))
            near = f"{option} {whole}" + (f" or {option} {whole + 1}" if whole != float(text) else "")
            raise UsageError(f"{option} takes a whole number, not {text}.", f"Give {near}.")


def replace_unprintable() -> None:
    """Makes standard output and error print "?" for characters that they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def run(arguments: Sequence[str], on_start: Callable[[], object] | None = None) -> int:
    """Runs one command and returns its exit code. Prints a user's mistakes instead of raising them.

    on_start: called first where an interrupt is reported; given by the entry of the process, which a second interrupt
    then ends at once.
    """
    try:
        return _run(arguments, on_start)
    except KeyboardInterrupt:  # of the work, or while an error of it is printed
        if on_start is not None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if "--debug" in arguments:
            raise
        print_error("Interrupted.")
        return 130


def _run(arguments: Sequence[str], on_start: Callable[[], object] | None) -> int:
    """The same without interrupts."""
    replace_unprintable()
    make_waiting_passive()
    options, verb = GlobalOptions(debug="--debug" in arguments), ""
    try:
        if on_start is not None:
            repeat_lost_interrupts()
            on_start()
            end_imports_at_once()
        rest, options = split_options(with_home(arguments))
        verb = next((argument for argument in rest if not argument.startswith("-")), "")
        with JsonTarget(options.json) as target, plain_warnings():
            result = call(rest, lambda: consoles(to_stderr=target.is_stdout)[0])
            if isinstance(result, CommandResult):
                # torchrun starts several processes, whose results are the same; errors are each one's own.
                if os.environ.get("RANK", "0") == "0":
                    if result.print_result is None:
                        print(result.text(result.result))
                    else:
                        result.show(consoles(to_stderr=target.is_stdout)[0])
                    if options.json is not None:  # plain data of everything may take longer than the work
                        target.write(result.to_dict())
            elif options.json is not None and not {*HELP_FLAGS, "--version"} & set(rest):
                raise UsageError("This command has nothing to write as JSON.", "Leave --json away.")
        sys.stdout.flush()
        return int(getattr(result, "exit_code", 0))
    except BrokenPipeError:
        return quiet_broken_pipe()
    except Exception as error:
        if options.debug and not _is_usage(error):
            raise
        return report(error, verb)


def report(error: Exception, verb: str = "") -> int:
    """Prints an error as one message with a remedy and returns its exit code. verb: the command that failed."""
    if isinstance(error, OtherProcessError):
        time.sleep(OTHER_ERROR_DELAY)  # torchrun ends all processes with the first that exits
        return 1
    if isinstance(error, UserError):
        print_error(error.message, error.remedy)
        return 2 if isinstance(error, UsageError) else 1
    if _is_usage(error):
        from onelook.cli.help import usage_message

        print_error(*usage_message(error))
        return 2
    if (package := _missing(error)) in EXTRAS:
        missing = missing_package(package, f"'onelook {verb}'", work=verb)
        print_error(missing.message, missing.remedy)
        return 1
    if isinstance(error, OSError) and error.strerror:
        where = f"'{os.fsdecode(error.filename)}': " if isinstance(error.filename, (str, bytes)) else ""
        remedy = _OS_REMEDIES.get(error.errno or 0, "Check the path.")
        print_error(f"{where}{reason_of(error)}.", f"{remedy} Add --debug to see where it happened.")
        return 1
    if isinstance(error, MemoryError):
        print_error("Not enough memory.", "Use a smaller size or batch, or add --debug to see where it happened.")
        return 1
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        print_error(
            f"A process that prepares images was ended from outside ({error}).",
            "Most often memory ran out: take fewer --workers (0 needs none) or a smaller --batch, and try again.",
        )
        return 1
    detail = f": {error}" if str(error) else ""
    print_error(
        f"Onelook failed unexpectedly ({type(error).__name__}{detail}).",
        "This is a fault of Onelook, not yours. Add --debug to see the traceback, and please report it.",
    )
    return 1


def _is_usage(error: Exception) -> TypeGuard[CycloptsError]:
    """Whether this is an error of cyclopts: the command line could not be parsed."""
    return "cyclopts" in sys.modules and isinstance(error, sys.modules["cyclopts"].CycloptsError)


def _missing(error: BaseException | None) -> str:
    """The package that is not installed, "" for other errors; cyclopts wraps those of a verb's own module."""
    while isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    return (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""


def main(arguments: Sequence[str] | None = None, on_start: Callable[[], object] | None = None) -> NoReturn:
    """Runs the command line and exits the process. Called by `onelook.__main__`."""
    code = run(sys.argv[1:] if arguments is None else arguments, on_start)
    if on_start is not None and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to be done but the interpreter's own end
    gc.freeze()  # at its end the interpreter looks for garbage among all objects, for a twentieth of a short command
    sys.exit(code)
