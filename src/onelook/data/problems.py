"""Problems of a data set: opening raises the first error, checking collects all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from onelook.errors import DataError

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One fault of a data set, where it is, and the remedy.

    code: stable name of the kind of fault (`box-degenerate`).  file: the file it was found in.  line: counted from 1,
    None where lines mean nothing.  annotation: the annotation's own id (COCO) or its number in the file.
    """

    severity: Severity
    code: str
    message: str
    remedy: str
    file: str | None = None
    line: int | None = None
    annotation: int | None = None

    def __str__(self) -> str:
        return f"{self.severity} [{self.code}] {self.place}: {self.message} {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """The fields, as in `check --json`."""
        return asdict(self)

    @property
    def place(self) -> str:
        """`file:line (annotation 7)`, as far as known."""
        place = self.file or "the data set"
        if self.line is not None:
            place += f":{self.line}"
        if self.annotation is not None:
            place += f" (annotation {self.annotation})"
        return place


@dataclass
class Problems:
    """The problems that a reader reports.

    strict: the first error is raised as a `DataError` (as data sets are opened); otherwise all are collected, and the
    reader leaves out the faulty entry and goes on (as they are checked).  limit: how many problems of one code are
    kept; `counts` has the numbers of all.
    """

    strict: bool = True
    limit: int = 10_000
    found: list[Problem] = field(default_factory=list)
    counts: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set)

    def error(self, code: str, message: str, remedy: str, **place: Any) -> None:
        """Reports a fault that makes the data set unusable. Raises `DataError` when strict."""
        self._add(Problem("error", code, message, remedy, **place))

    def warning(self, code: str, message: str, remedy: str, **place: Any) -> None:
        """Reports what is probably a mistake, but has a defined meaning. Never raises."""
        self._add(Problem("warning", code, message, remedy, **place))

    def _add(self, problem: Problem) -> None:
        if self.strict:
            if problem.severity == "error":
                hint = "`onelook check` lists every problem of a data set."
                raise DataError(f"{problem.place}: {problem.message}", f"{problem.remedy} {hint}")
            return
        identity = hash(problem)  # two splits may share a file
        if identity in self._seen:
            return
        self._seen.add(identity)
        key = (problem.severity, problem.code)
        self.counts[key] += 1
        if self.counts[key] <= self.limit:
            self.found.append(problem)

    def read_or_report(self, code: str, remedy: str, read: Callable[[], Any], **place: Any) -> Any:
        """The result of `read()`. A `DataError` of it is raised when strict, else reported, and the result is None."""
        try:
            return read()
        except DataError as error:
            if self.strict:
                raise
            # A reader's message may begin with the place, which the problem has in fields of its own.
            match = re.match(rf"{re.escape(str(place.get('file')))}(?::(\d+))?: (.+)", error.message, re.DOTALL)
            if match and match[1] and place.get("line") is None:
                place["line"] = int(match[1])
            self.error(code, match[2] if match else error.message, error.remedy or remedy, **place)
            return None
