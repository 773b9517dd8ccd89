"""The model card of a run: a page about its best weights (Model Cards for Model Reporting, Mitchell et al. 2019).

All of it is in the description that the weights file carries (`weights.Header`); nothing is computed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onelook import run_files
from onelook.networks.variants import VARIANTS
from onelook.types import UNDEFINED
from onelook.weights.header import Header
from onelook.weights.problems import printable

_METRICS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
    "top1": "top 1",
    "top5": "top 5",
}
_FEW = 100  # objects of a class to train on, and images to evaluate on: below, the card says how few there are
_LISTED = 20  # classes with few objects


def model_card(header: Header, parameters: int) -> str:
    """The card of weights as Markdown.

    header: the description in the weights file.  parameters: how many the model has.
    """
    trained = dict(header.trained or {})
    data = trained.get("training") or {}
    on = f" on {_plain(data['name'])}" if data.get("name") else ""
    date = f" on {str(trained['date'])[:10]}" if trained.get("date") else ""
    what = "classifier of images" if "top1" in header.metrics else "detector"
    count = len(header.class_names)
    parts = [
        f"# {_plain(header.model)}{on}",
        f"A {what} of {count} {'class' if count == 1 else 'classes'}, trained{date} with Onelook {header.version}. "
        f"The weights are `{run_files.BEST_WEIGHTS}`.",
        _table(("", ""), _facts(header, trained, parameters)),
        "## Use",
        _use(what, trained["best_confidence"] if trained.get("best_f1") else None),
        "## Data",
        *_data(trained),
        "## Results",
        *_results(header, trained),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(header, trained)),
        "## Licence",
        *_licence(trained),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(header: Header, trained: Mapping[str, Any], parameters: int) -> Iterable[tuple[str, str]]:
    height, width = header.size
    frame = str(dict(header.preprocessing.get("frame") or {}).get("type", "")).lower()
    yield "model", f"{_code(header.model)}, {parameters / 1e6:.2f} M parameters"
    yield "input", f"RGB, {width}x{height} pixels" + (f" ({frame})" if frame else "")
    recipe = header.recipe or {}
    if trained.get("epoch"):
        epoch, planned = trained["epoch"], recipe.get("epochs", "?")
        over = isinstance(planned, int) and epoch > planned  # a budget of time may have room for more than planned
        yield "epoch", str(epoch) if over else f"{epoch} of {planned}"
    if recipe:
        optimizer = dict(recipe.get("optimizer") or {}).get("type", "?")
        settings = f"batches of {recipe.get('batch_size', '?')} images, {optimizer}, seed {recipe.get('seed', '?')}"
        yield "recipe", f"{settings}; every setting is in `{run_files.RECIPE}`"
    yield "started from", _started_from(trained)
    if trained.get("teacher"):
        yield "teacher", _code(trained["teacher"])


def _started_from(trained: Mapping[str, Any]) -> str:
    initial = trained.get("initial")
    if initial is None:
        return "not recorded"
    return ", which started from ".join(_code(one["file"]) for one in initial) or "random values"


def _use(what: str, confidence: float | None) -> str:
    weights = run_files.BEST_WEIGHTS
    if what != "detector":
        return (
            "The backbone starts the training of a detector:\n\n"
            f"```\nonelook train DATA --model NAME --weights {weights}\n```"
        )
    flag, argument = (
        ("", "") if confidence is None else (f" --confidence {confidence:g}", f", confidence={confidence:g}")
    )
    return (
        f"```\nonelook detect photo.jpg --model {weights}{flag}\n```\n\n"
        f'```python\nimport onelook\n\ndetector = onelook.load("{weights}")\n'
        f'print(detector.detect("photo.jpg"{argument}))\n```'
    )


def _data(trained: Mapping[str, Any]) -> Iterable[str]:
    rows = [
        (
            title,
            _plain(part.get("name") or "not recorded"),
            _plain(part["split"]),
            f"{part['images']:,}",
            f"{sum(part['objects'].values()):,}" if part.get("objects") else "-",
            _code(part["digest"]),
        )
        for title in ("training", "validation")
        if (part := trained.get(title))
    ]
    if not rows:
        yield "Not recorded."
        return
    yield _table(("part", "data set", "split", "images", "objects", "fingerprint"), rows)
    yield "The fingerprint is a hash of the names of classes and images, the sizes of the images, and the annotations."


def _results(header: Header, trained: Mapping[str, Any]) -> Iterable[str]:
    measured = {title: header.metrics[name] for name, title in _METRICS.items() if name in header.metrics}
    per_class = trained.get("per_class") or {}
    part = trained.get("validation")
    if measured:
        where = "" if part is None else f" of {part['images']:,} images of the split {_plain(part['split'])}"
        protocol = "Accuracy" if "top 1" in measured else "Average precision (COCO's protocol)"
        yield f"{protocol}{where}:"
        yield _table(tuple(measured), [tuple(_number(value) for value in measured.values())])
    elif part is None:
        yield f"Not measured. This measures it: `onelook val DATA --model {run_files.BEST_WEIGHTS}`"
    else:
        yield "Not measured yet: these weights are older than the first evaluation."
    if trained.get("best_f1"):
        yield (
            f"Best confidence: {trained['best_confidence']:.2f}, where the mean F1 of the classes is "
            f"{trained['best_f1']:.2f} (at IoU 0.5)."
        )
    objects = (trained.get("training") or {}).get("objects") or {}
    if per_class:
        rows = [
            (_plain(name), f"{objects[name]:,}" if name in objects else "-", _number(one["AP"]), _number(one["AP50"]))
            for name, one in per_class.items()
        ]
        yield _table(("class", "objects trained on", "AP", "AP50"), rows)
    elif header.class_names:
        yield f"Classes: {', '.join(_plain(name) for name in header.class_names)}."


def _limits(header: Header, trained: Mapping[str, Any]) -> Iterable[str]:
    recipe, validation = header.recipe or {}, trained.get("validation")
    metric = recipe.get("metric")
    if validation is not None and metric in header.metrics:
        few = f" There are only {validation['images']} of them." if validation["images"] < _FEW else ""
        yield (
            f"The epoch was chosen by its {metric} on the images that the results are of, so that other images may "
            f"give a lower one.{few}"
        )
    objects = (trained.get("training") or {}).get("objects") or {}
    rare = sorted((name for name in objects if objects[name] < _FEW), key=lambda name: objects[name])
    if rare:
        more = f" and {len(rare) - _LISTED} more" if len(rare) > _LISTED else ""
        listed = ", ".join(f"{_plain(name)} ({objects[name]})" for name in rare[:_LISTED])
        yield f"Few objects to train on: {listed}{more}."
    sampling = dict(recipe.get("sampling") or {})
    if sampling.get("fraction", 1.0) < 1 or sampling.get("classes"):
        yield "Only a part of the training images was used: see `sampling` in the recipe."
    height, width = header.size
    yield f"Images are scaled to {width}x{height} pixels; objects that are a few pixels there are not found reliably."
    yield "Cameras, places, light and kinds of objects that the training images do not show were not tested."


def _licence(trained: Mapping[str, Any]) -> Iterable[str]:
    yield (
        "Onelook is Apache-2.0 and claims no rights in weights that are trained with it. The licence of the training "
        "images is not recorded."
    )
    initial = trained.get("initial")
    if initial is None:
        yield "What the training started from is not recorded."
    elif not initial:
        yield "The training started from random values: no licence of other weights applies."
    else:
        yield f"{' '.join(map(_licence_of, initial))} What that asks of weights trained from them, their licence says."
    if trained.get("teacher"):
        yield f"The training had a teacher, {_code(trained['teacher'])}, whose licence is not known to Onelook."


def _licence_of(one: Mapping[str, Any]) -> str:
    file, model = _code(one["file"]), str(one.get("model"))
    if one.get("licence"):
        return f"{file} is named as the official weights of {_code(model)}, which are {_plain(one['licence'])}."
    official = f"; the official weights of {_code(model)} are {VARIANTS[model].licence}" if model in VARIANTS else ""
    return f"The licence of {file} is not known{official}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return "-" if value == UNDEFINED else f"{value:.3f}"


def _plain(text: object) -> str:
    """A name as Markdown shows it, whatever signs are in it."""
    return re.sub(r"([\\`*<>|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", printable(text, 200))


def _code(text: object) -> str:
    name = printable(text, 200)
    return _plain(name) if "`" in name or "|" in name else f"`{name}`"
