"""Writes docs/api.md from the docstrings of the public names: python docs/make_api.py"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"

SECTIONS = {
    "Detect": (
        *("load", "LoadedDetector", "Predictor", "Detections", "detect", "DetectResult"),
        *("LiveDetections", "LiveSummary", "ForecastName"),
        *("detect_shards", "ShardsResult"),
        *("Model", "PathLike", "ImageLike", "PostprocessKind", "serve", "ServeResult"),
    ),
    "Measure": (
        *(
            "validate",
            "score",
            "Evaluation",
            "OperatingPoint",
            "Verdicts",
            "benchmark",
            "ModelBenchmark",
            "compare",
            "Comparison",
        ),
        *("stream", "Streaming"),
    ),
    "Track": ("ByteTrack", "OcSort", "TrackerName", "score_tracks", "TrackEvaluation"),
    "Train": (
        *("recipe", "Recipe", "change", "override", "diff", "RecipeDiff", "Difference"),
        *("train", "TrainResult", "RecipeChoice", "Precision", "Layout", "tune", "TuneResult"),
        *("roadmap", "RoadmapTable", "roadmaps", "RoadmapList", "printed_table", "PrintedTable", "PrintedRow"),
        *("anchors", "FoundAnchors", "search", "SearchResult", "SearchRow"),
    ),
    "Models and weights": (
        *(
            "models",
            "ModelList",
            "ModelInfo",
            "build",
            "Detector",
            "load_weights",
            "LoadReport",
            "save_weights",
            "deploy",
        ),
        *("export", "ExportResult", "WrittenWeights"),
    ),
    "Data sets": (
        "open_dataset",
        "Dataset",
        "Sample",
        "check",
        "CheckReport",
        "view",
        "ViewResult",
        "convert",
        "Conversion",
        "split",
        "SplitResult",
        "edit",
        "EditResult",
        "WritableFormat",
    ),
    "Reports, errors and the installation": (
        *("Reporter", "PlainReporter", "SilentReporter", "UserError", "environment", "Environment"),
    ),
}

INTRODUCTION = """# Python API

Made from the docstrings by `python docs/make_api.py`; a test compares both.

All names are imported from `onelook`, on first use. The functions take values and return values. They print nothing
themselves: messages and progress go to the `Reporter` that is given, by default to plain lines on standard error. A
user's mistake is a `UserError`. Detecting, validating and scoring with exported files need no PyTorch; everything else
needs the optional part `train`, `pip install '.[train]'` in a clone of the repository.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, names in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        parts += [part for name in names for part in entry(name)]
    return "".join(parts)


def entry(name: str) -> Iterator[str]:
    """One public name: a function, or a class with its public methods and properties."""
    import onelook

    value = getattr(onelook, name)
    if not inspect.isclass(value) and not inspect.isfunction(value):
        yield f"\n### `onelook.{name}`\n\n{alias(name)}\n"
        return
    if not inspect.isclass(value):
        yield f"\n### `onelook.{name}`\n\n{signature(name, value)}\n\n{text_of(value)}\n"
        return
    yield f"\n### class `onelook.{name}`\n\n{text_of(value)}\n"
    for base in bases_on_the_page(value):
        yield f"\nHas everything of `onelook.{base.__name__}` as well.\n"
    for member, function in methods(value):
        if isinstance(function, property):
            yield f"\n**`.{member}`**: {text_of(function.fget)}\n"
        else:
            yield f"\n**`.{member}`**\n\n{signature(member, function)}\n\n{text_of(function)}\n"


def alias(name: str) -> str:
    """A name for other types: its definition and the text below that, from the source."""
    import onelook

    module = sys.modules[onelook._PUBLIC[name]]
    source = inspect.getsource(module)
    for node, text in itertools.pairwise(ast.parse(source).body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(text, ast.Expr):
            meaning = inspect.cleandoc(ast.literal_eval(text.value))
            return f"```python\n{ast.get_source_segment(source, node)}\n```\n\n{meaning}"
    raise ValueError(f"{name} has no text below its definition")


def bases_on_the_page(kind: type) -> list[type]:
    """The public classes that a class inherits from."""
    import onelook

    return [base for base in kind.__mro__[1:] if base.__name__ in onelook._PUBLIC]


def methods(kind: type) -> list[tuple[str, Any]]:
    """Public, documented methods and properties of our own classes, in the order in which they are defined.

    Those that a public base class has stand on the page below that class.
    """
    found: dict[str, Any] = {}
    elsewhere = {member for base in bases_on_the_page(kind) for member in base.__mro__}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("onelook.") or base in elsewhere:
            continue
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            documented = function.fget if isinstance(function, property) else function
            is_method = inspect.isfunction(function) or isinstance(function, property)
            if not name.startswith("_") and is_method and documented.__doc__:
                found[name] = function
    return list(found.items())


def signature(name: str, function: Any) -> str:
    """The signatures as Python: each overload of a function that has some."""
    known = overloads(function) or [inspect.signature(function)]
    return "```python\n" + "\n".join(_signature_text(name, one) for one in known) + "\n```"


def overloads(function: Any) -> list[inspect.Signature]:
    """The signatures that `@overload` declares, in their order, with the defaults of the function itself.

    They are read from the source: before Python 3.11 they are not kept at run time.
    """
    whole = inspect.signature(function)
    body: list[ast.stmt] = ast.parse(inspect.getsource(sys.modules[function.__module__])).body
    *classes, name = function.__qualname__.split(".")
    for kind in classes:
        (body,) = [node.body for node in body if isinstance(node, ast.ClassDef) and node.name == kind]
    return [
        _declared(node, whole)
        for node in body
        if isinstance(node, ast.FunctionDef)
        and node.name == name
        and any(ast.unparse(one) == "overload" for one in node.decorator_list)
    ]


def _declared(node: ast.FunctionDef, whole: inspect.Signature) -> inspect.Signature:
    kinds = inspect.Parameter
    groups = (
        (kinds.POSITIONAL_ONLY, node.args.posonlyargs),
        (kinds.POSITIONAL_OR_KEYWORD, node.args.args),
        (kinds.KEYWORD_ONLY, node.args.kwonlyargs),
    )
    places = [*node.args.posonlyargs, *node.args.args]
    with_default = {one.arg for one in places[len(places) - len(node.args.defaults) :]}
    with_default |= {one.arg for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults) if value is not None}
    parameters = [
        kinds(
            one.arg,
            kind,
            default=whole.parameters[one.arg].default if one.arg in with_default else kinds.empty,
            annotation=kinds.empty if one.annotation is None else ast.unparse(one.annotation),
        )
        for kind, group in groups
        for one in group
    ]
    assert node.returns is not None
    return whole.replace(parameters=parameters, return_annotation=ast.unparse(node.returns))


def _signature_text(name: str, known: inspect.Signature) -> str:
    """One signature, one parameter a line where it is long."""
    parts: list[str] = []
    for one in known.parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        annotation = "" if one.annotation is one.empty else f": {one.annotation}"
        default = "" if one.default is one.empty else f" = {one.default!r}"
        parts.append(f"{star}{one.name}{annotation}{default}")
        if one.kind is one.POSITIONAL_ONLY:
            parts.append("/")
    text = f"{name}({', '.join(parts)}) -> {known.return_annotation}"
    if len(text) > 100:
        text = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {known.return_annotation}"
    return text


def text_of(value: Any) -> str:
    """The docstring as Markdown: each parameter that a paragraph explains is an item of a list.

    A dataclass has one list with all of its fields and their types, below its first paragraph.
    """
    fields = fields_of(value)
    try:
        names = {*fields, *inspect.signature(value).parameters}
    except (TypeError, ValueError):
        names = set(fields)
    texts: list[str] = []
    meanings: dict[str, str] = {}
    for paragraph in inspect.cleandoc(value.__doc__ or "").split("\n\n"):
        found = explanations(paragraph, names)
        meanings |= found
        if found and not fields:
            texts.append("\n".join(f"- {_quoted(listed)}: {meaning}" for listed, meaning in found.items()))
        elif not found:
            texts.append(paragraph)
    for base in value.__mro__[1:-1] if fields else ():
        for paragraph in inspect.cleandoc(base.__doc__ or "").split("\n\n"):
            meanings = explanations(paragraph, names) | meanings
    if fields:
        texts.insert(1, "\n".join(_field_items(fields, meanings)))
    return "\n\n".join(texts)


def explanations(paragraph: str, names: set[str]) -> dict[str, str]:
    """What a paragraph of the form "name: meaning  other, another: meaning" explains; {} for other paragraphs."""
    one = f"(?:{'|'.join(sorted(map(re.escape, names), key=len, reverse=True)) or '(?!)'})"
    explained = re.compile(rf"(?:^|\n|  )({one}(?:,\s+{one})*):\s")
    if not explained.match(paragraph):
        return {}
    _, *parts = explained.split(paragraph)
    return {" ".join(listed.split()): " ".join(meaning.split()) for listed, meaning in zip(parts[::2], parts[1::2])}


def _field_items(fields: dict[str, str], meanings: dict[str, str]) -> Iterator[str]:
    """An item for each field; those that are explained together stand together."""
    together = {name: listed for listed in meanings for name in listed.split(", ")}
    written: set[str] = set()
    for name, kind in fields.items():
        listed = together.get(name, name)
        if listed in written:
            continue
        written.add(listed)
        names = listed.split(", ")
        kinds = [fields.get(one, kind) for one in names]
        called = (
            f"{_quoted(listed)} (`{kinds[0]}`)"
            if len(set(kinds)) == 1
            else ", ".join(f"`{one}` (`{of}`)" for one, of in zip(names, kinds))
        )
        yield f"- {called}: {meanings[listed]}" if listed in meanings else f"- {called}"


def _quoted(listed: str) -> str:
    return ", ".join(f"`{name}`" for name in listed.split(", "))


def fields_of(value: Any) -> dict[str, str]:
    """The public fields of a dataclass with their types, as the source has them; {} for everything else."""
    if not dataclasses.is_dataclass(value):
        return {}
    return {one.name: str(one.type) for one in dataclasses.fields(value) if not one.name.startswith("_")}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
