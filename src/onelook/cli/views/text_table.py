"""A table as lines of plain text, for commands that are done sooner than Rich is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table: the first column to the left, all others to the right, two spaces between them.

    Letters that control a terminal, such as a line break in the name of a class, become spaces.
    """
    cells = [[one_line(text) for text in row] for row in (headings, *rows)]
    widths = [max(map(width, column)) for column in zip(*cells)]
    for first, *others in cells:
        line = first + " " * (widths[0] - width(first))
        for text, column in zip(others, widths[1:]):
            line += "  " + " " * (column - width(text)) + text
        yield line.rstrip()


def one_line(text: str) -> str:
    """A text of which every letter that cannot be printed is a space."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def width(text: str) -> int:
    """The columns of a terminal that a text takes: two for a letter of East Asian scripts, none for an accent alone."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)
