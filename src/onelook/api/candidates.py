"""The models of a comparison: how they are named in its tables, and opened."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onelook.api.open import LoadOptions, Model, OpenedPredictor, PathLike, has_torch, open_predictor
from onelook.errors import UsageError
from onelook.predict.predictor import Predictor

_ONE_ONLY = "Give two or more: weights, exported files, folders of runs."


@dataclass(frozen=True)
class Candidate:
    """A model that is compared. weights: of a model that is given by its name."""

    name: str
    model: Model
    weights: PathLike | None = None

    @property
    def text(self) -> str:
        """What was given, as text."""
        if isinstance(self.model, str | os.PathLike):
            return os.fspath(self.model if self.weights is None else self.weights)
        source = self.model.source.model if isinstance(self.model, OpenedPredictor) else None
        return os.fspath(source) if isinstance(source, str | os.PathLike) else "a detector in memory"


@dataclass(frozen=True, eq=False)
class OpenCandidate:
    """A model that is ready to run. digest: of its files and size; "" where they are not all that it consists of."""

    candidate: Candidate
    predictor: Predictor
    files: tuple[Path, ...]
    digest: str

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def file_bytes(self) -> int | None:
        """The size of its files; None for a detector in memory."""
        return sum(file.stat().st_size for file in self.files) if self.files else None


def named_candidates(models: Sequence[Model] | Mapping[str, Model], *, least: int = 2) -> list[Candidate]:
    """The models with their names: given ones, else those of files and folders, longer where two are equal.

    A text NAME=FILE names the model in FILE; where NAME is that of a built-in model, FILE holds its weights. UsageError
    for fewer than `least` models, for one that is given twice, and for two of one name.
    """
    if isinstance(models, Mapping):
        found = [Candidate(name, model) for name, model in models.items()]
    else:
        found = _distinct([_parsed(model) for model in models])
    if len(found) < least:
        what = f"only one model is given, '{found[0].text}'" if found else "no model is given"
        if least == 1:
            raise UsageError("No model is given.", "Give weights, an exported file or the folder of a run.")
        raise UsageError(f"A comparison needs two models: {what}.", _ONE_ONLY)
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            raise UsageError(f"Two models have the name '{name}'.", "Give them other names: NAME=FILE.")
    return found


def open_candidates(candidates: Sequence[Candidate], options: LoadOptions) -> list[OpenCandidate]:
    """Opens all models. UsageError where two are the same files in the same size, or one detector in memory."""
    opened: list[OpenCandidate] = []
    seen: dict[object, str] = {}
    for one in candidates:
        predictor = open_predictor(one.model, replace(options, weights=one.weights))
        files = model_files(predictor)
        given = isinstance(one.model, str | os.PathLike)
        key = (tuple(path.resolve() for path in files), predictor.size) if given and files else id(one.model)
        if key in seen:
            raise UsageError(
                f"'{seen[key]}' and '{one.name}' are the same model.", "Give each model once; a model equals itself."
            )
        seen[key] = one.name
        digest = model_digest(files, predictor.size) if given and files else ""
        opened.append(OpenCandidate(one, predictor, files, digest))
    return opened


def _parsed(model: Model) -> Candidate:
    if not isinstance(model, str | os.PathLike):
        source = model.source.model if isinstance(model, OpenedPredictor) else model
        if isinstance(source, str | os.PathLike):
            return Candidate(_name_of(source), model)
        return Candidate(type(getattr(source, "architecture", source)).__name__, model)
    text = os.fspath(model)
    name, separator, file = text.partition("=")
    if not separator or not name or not file or Path(text).exists():
        return Candidate(_name_of(text), model)
    return Candidate(name, name, file) if _is_variant(name) else Candidate(name, file)


def _name_of(model: PathLike) -> str:
    path = Path(model)
    return path.resolve().name if path.is_dir() else path.stem or os.fspath(model)


def _is_variant(name: str) -> bool:
    if not has_torch():
        return False  # no weights can be used, and an exported file knows its model
    from onelook.api.model_facts import is_variant

    return is_variant(name)


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Longer names where two are equal: with the suffix, the folder, or as given; in memory, with a number."""
    found, counts, numbers = list(candidates), Counter(one.name for one in candidates), Counter[str]()
    for place, one in enumerate(candidates):
        if counts[one.name] > 1 and not isinstance(one.model, str | os.PathLike):
            numbers[one.name] += 1
            found[place] = replace(one, name=f"{one.name} {numbers[one.name]}")
    for longer in (_file_name, _file_name_in_folder, os.fspath):
        counts = Counter(one.name for one in found)
        for place, one in enumerate(candidates):
            model = one.model
            if isinstance(model, str | os.PathLike) and one.name == _name_of(model) and counts[found[place].name] > 1:
                found[place] = replace(one, name=longer(model))
    return found


def _file_name(model: PathLike) -> str:
    return os.path.basename(os.path.abspath(model))


def _file_name_in_folder(model: PathLike) -> str:
    return os.sep.join(Path(os.path.abspath(model)).parts[-2:])


def model_files(predictor: Predictor) -> tuple[Path, ...]:
    """The files that a predictor's model was read from; none for one in memory."""
    stamps = predictor.source.stamps if isinstance(predictor, OpenedPredictor) else ()
    return tuple(dict.fromkeys(Path(path) for path, _, _ in stamps))


def model_digest(files: Sequence[Path], size: tuple[int, int]) -> str:
    """SHA-256 of the content of a model's files and the size of its input."""
    whole = hashlib.sha256(repr(size).encode())
    for file in files:
        with file.open("rb") as stream:
            while part := stream.read(1 << 20):
                whole.update(part)
    return whole.hexdigest()
