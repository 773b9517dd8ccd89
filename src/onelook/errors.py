"""The errors that a user can cause and mend. The command line prints them as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used.

    The message names the thing (file, line, key or id); `remedy` says what to do about it. Every subclass is only a
    narrower name for `except` clauses: what is shown is always message and remedy.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class DataError(UserError):
    """A data set, an annotation or a results file that cannot be read as what it claims to be."""


class ImageError(UserError):
    """An image or a video that cannot be decoded, or is refused for its size."""


class WeightsError(UserError):
    """A checkpoint that is damaged, unsafe, or does not fit the model."""


class ConfigError(UserError):
    """A setting that does not exist, or a value of the wrong type."""


class UsageError(ConfigError):
    """A command line that cannot be meant: a flag or a `path=value` that is wrong (exit code 2 instead of 1)."""


class OtherProcessError(UserError):
    """An error that another process of the same training reports: this one ends without a word of its own."""


class ExportError(UserError):
    """An exported file that cannot be written, run, or does not agree with the model."""


class MissingDependencyError(UserError):
    """An optional package that the wanted feature needs; the remedy is the install command."""


def missing_package(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """The error for an optional package that is not installed: what needs it, and how to get it."""
    return MissingDependencyError(
        f"{purpose} needs the package '{package}', which is not installed.",
        f"Install it with: pip install 'onelook[{extra}]'",
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the known name closest to `name`, or '' when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
