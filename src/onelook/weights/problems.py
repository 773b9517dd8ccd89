"""The error of the weights readers: one message that names the file, and what to do about it."""

from __future__ import annotations

import os

from onelook.errors import WeightsError

_DAMAGED = "Download or copy it again; if it was made on this machine, write it again."
REMEDY_UNTRUSTED = (
    "Nothing of it was executed. If you trust the file, open it where it was made and save only its state dict: "
    "torch.save(model.state_dict(), 'weights.pth')."
)


class UnreadableFile(Exception):
    """A file cannot be read, for the reason in the message; the entry point of the reader adds the file's name."""

    def __init__(self, reason: str, remedy: str = _DAMAGED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def to_weights_error(self, path: str | os.PathLike[str], kind: str) -> WeightsError:
        """The user's error: `kind` is what the file was read as."""
        return WeightsError(f"'{os.fspath(path)}' cannot be read as {kind}: {self.reason}.", self.remedy)


def printable(text: object, limit: int = 80) -> str:
    """A name out of an untrusted file, made printable and short."""
    raw = text if isinstance(text, str) else str(text)
    raw = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in raw[: limit + 1])
    return raw if len(raw) <= limit else raw[: limit - 3] + "..."


def byte_size(count: float) -> str:
    """1536 -> '1.5 kB': sizes as messages and reports show them (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
