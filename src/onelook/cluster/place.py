"""Where independent work runs: the value of `--on`."""

from __future__ import annotations

from dataclasses import dataclass

from onelook.errors import UsageError, did_you_mean

_PORT = 10001  # of Ray's client server
_FORMS = 'Give "local", "ray" or "ray://HOST:PORT", and behind it settings such as ",workers=8,cpus=2".'


@dataclass(frozen=True)
class Place:
    """Where independent work runs.

    address: None is this machine without Ray; "" is the Ray cluster that this machine belongs to, or a new one of this
    machine alone; else the address of a cluster, ray://HOST:PORT.  workers: most processes; None is as many as the
    cluster has room for, as it grows and shrinks.  cpus, gpus: that each of them has to itself; gpus of None is one
    where the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None

    @property
    def is_local(self) -> bool:
        """Whether the work runs on this machine, without Ray."""
        return self.address is None


def parse_place(text: str | None) -> Place:
    """The place of "local", "ray" or "ray://HOST:PORT", with settings behind commas; None is local."""
    if text is None:
        return Place()
    name, *settings = (part.strip() for part in text.split(","))
    if name == "local":
        address = None
    elif name == "ray":
        address = ""
    elif name.startswith("ray://") and len(name) > len("ray://"):
        address = name if ":" in name.removeprefix("ray://") else f"{name}:{_PORT}"
    else:
        raise UsageError(f"'{text}' is no place to run on.", _FORMS)
    if address is None and settings:
        raise UsageError("'local' has no settings.", "Leave them away, or give ray instead.")
    numbers: dict[str, float] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in ("workers", "cpus", "gpus"):
            raise UsageError(
                f"'{key}' is no setting of a place.{did_you_mean(key, ('workers', 'cpus', 'gpus'))}", _FORMS
            )
        try:
            numbers[key] = float(value)
        except ValueError:
            raise UsageError(f"'{setting}' is not a number.", _FORMS) from None
        least = 0.0 if key == "gpus" else 0.01
        if not least <= numbers[key] < 1e6 or (key == "workers" and numbers[key] != int(numbers[key])):
            raise UsageError(f"'{setting}' cannot be used.", "workers is a whole number; cpus and gpus may be parts.")
    workers = numbers.get("workers")
    return Place(address, None if workers is None else int(workers), numbers.get("cpus", 1.0), numbers.get("gpus"))
