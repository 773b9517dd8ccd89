"""What to do after a training, each advice with the figure that suggests it: a function of numbers.

The thresholds are differences of AP that a user notices and that chance seldom makes: with a few hundred objects, the
AP of a model varies by about 0.02 with the images that happen to be in the set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.data.split import Dataset
from onelook.evaluation.coco import Evaluation
from onelook.types import UNDEFINED

WEAK_CLASS = 0.10  # AP below the mean of the classes: five times the 0.02 above
FEWEST_OBJECTS = 10  # annotated on the validation images: the AP of a class with fewer is chance
MOST_CLASSES = 3  # that are named, the weakest first
GAP = 0.15  # of AP, training images over validation images; a few hundredths are usual for a model that generalises
NO_GAP, LOW_AP = 0.05, 0.60  # a model that is as good on both and not good on its own training images underfits
LEAST_SUSPECT = 0.5  # the least score of a detection that speaks against an annotation
FEWEST_SUSPECTS, SUSPECT_SHARE = 3, 0.02  # of the objects: so many wrong labels cost about as much AP, 0.02
TRUSTED_AP50 = 0.5  # below, the model is wrong too often to speak against labels
SMALL_GAP, SMALL_SHARE = 0.15, 0.10  # AP of small objects below that of larger ones; their share of the objects
SHRUNK = 1.25  # images are this much larger than the input: below, a larger input adds few pixels
FEWEST_SCORES = 4  # evaluations that a line is fitted to
GAIN, LONGER = 0.01, 0.25  # AP that a quarter more epochs would add at the slope of the last ones
SIGNIFICANT = 2.0  # standard errors of the slope
LOSS_SINCE_BEST = 0.02  # AP


@dataclass(frozen=True)
class Advice:
    """What to do, the figure that suggests it, and why that follows."""

    action: str
    figure: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """The figures of a finished training that advice follows from; AP is 0..1, or -1 where no object defines it.

    scores: (epoch, AP) of the evaluations, in order.  epochs: of the recipe.  stopped_early: whether patience ended it.
    stats: AP, AP50, APs, APm, APl on the validation images.  per_class: AP by class.  train_objects, val_objects: how
    many, by class.  num_small, num_objects: of the validation images.  image_side: longer side of a training image, the
    median, in pixels.  input_side: that of the network's input.  train_ap: on training images, None where it was not
    measured.  suspects: annotations that a confident detection contradicts.  from_weights: not from random values.
    """

    scores: Sequence[tuple[float, float]]
    epochs: int
    stopped_early: bool
    stats: Mapping[str, float]
    per_class: Mapping[str, float]
    train_objects: Mapping[str, int]
    val_objects: Mapping[str, int]
    num_small: int
    num_objects: int
    image_side: float
    input_side: int
    train_ap: float | None
    suspects: int
    from_weights: bool


def advise(figures: TrainingFigures) -> list[Advice]:
    """The advice that the figures suggest; [] where none does."""
    if figures.stats["AP"] == UNDEFINED:
        return []
    rules = (_weak_classes, _weak_labels, _suspects, _larger_input, _longer, _shorter, _gap, _underfit)
    return [found for rule in rules if (found := rule(figures)) is not None]


def training_figures(
    history: Sequence[Mapping[str, Any]],
    evaluation: Evaluation,
    training: Dataset,
    *,
    epochs: int,
    stopped_early: bool,
    input_size: tuple[int, int],
    train_ap: float | None,
    from_weights: bool,
) -> TrainingFigures:
    """The figures of a training; the other arguments are fields of them.

    history: rows of metrics.csv.  evaluation: of the best weights.
    """
    truth = evaluation.truth
    areas = np.asarray(truth.areas)[~truth.crowds]
    suspects = sum(one.score >= LEAST_SUSPECT for one in evaluation.label_suspects())
    known = [(float(row["epoch"]), float(row["AP"])) for row in history if row.get("AP") not in (None, "")]
    sides = np.max(training.sizes, axis=1) if len(training) else np.zeros(1)
    return TrainingFigures(
        scores=known,
        epochs=epochs,
        stopped_early=stopped_early,
        stats=evaluation.stats,
        per_class={name: scores["AP"] for name, scores in evaluation.per_class.items()},
        train_objects=_count(training),
        val_objects=dict(zip(truth.names, evaluation.objects.tolist())),
        num_small=int(np.sum(areas < 32**2)),
        num_objects=len(areas),
        image_side=float(np.median(sides)),
        input_side=max(input_size),
        train_ap=train_ap,
        suspects=suspects,
        from_weights=from_weights,
    )


def _count(dataset: Dataset) -> dict[str, int]:
    """Objects by class, crowds left out."""
    counts = np.zeros(len(dataset.names), np.int64)
    for row in range(len(dataset)):
        counts += np.bincount(dataset.labels(row)[~dataset.crowd(row)], minlength=len(counts))
    return dict(zip(dataset.names, counts.tolist()))


def _weak(figures: TrainingFigures, *, frequent: bool) -> tuple[list[str], str]:
    """Weak classes, weakest first, with fewer training objects than the median or `frequent`; and their figures."""
    known = {
        name: ap
        for name, ap in figures.per_class.items()
        if ap != UNDEFINED and figures.val_objects.get(name, 0) >= FEWEST_OBJECTS
    }
    if len(known) < 2:
        return [], ""
    objects = {name: figures.train_objects.get(name, 0) for name in known}
    mean, median = float(np.mean(list(known.values()))), float(np.median(list(objects.values())))
    weak = sorted((name for name, ap in known.items() if ap <= mean - WEAK_CLASS), key=lambda name: known[name])
    found = [name for name in weak if (objects[name] >= median) == frequent][:MOST_CLASSES]
    listed = "; ".join(f"{name}: AP {known[name]:.3f}, {objects[name]} training objects" for name in found)
    return found, f"{listed} (mean of the classes: AP {mean:.3f}, median {median:.0f} objects)"


def _weak_classes(figures: TrainingFigures) -> Advice | None:
    rare, figure = _weak(figures, frequent=False)
    if not rare:
        return None
    reason = "They are found worse than the other classes, and there are fewer of them to learn from."
    return Advice(f"More training images with {_listed(rare)}", figure, reason)


def _weak_labels(figures: TrainingFigures) -> Advice | None:
    frequent, figure = _weak(figures, frequent=True)
    if not frequent:
        return None
    return Advice(
        f"Look at the labels of {_listed(frequent)}, and at what the confusion matrix shows of them",
        figure,
        "There is no lack of examples, so their boxes are inconsistent, they look like another class, or are hard.",
    )


def _suspects(figures: TrainingFigures) -> Advice | None:
    share = figures.suspects / max(figures.num_objects, 1)
    trusted = figures.stats["AP50"] >= TRUSTED_AP50
    if figures.suspects < FEWEST_SUSPECTS or share < SUSPECT_SHARE or not trusted:
        return None
    return Advice(
        "Correct labels: look through the annotations listed above, and those of the training images",
        f"{figures.suspects} confident detections (score {LEAST_SUSPECT} or more) contradict the "
        f"{figures.num_objects} annotations of the validation images ({share:.1%})",
        "Wrong labels are learnt, and cost AP even where the model is right.",
    )


def _larger_input(figures: TrainingFigures) -> Advice | None:
    small = figures.stats["APs"]
    larger = next((figures.stats[name] for name in ("APl", "APm") if figures.stats[name] != UNDEFINED), UNDEFINED)
    share, shrunk = figures.num_small / max(figures.num_objects, 1), figures.image_side / figures.input_side
    if UNDEFINED in (small, larger) or larger - small < SMALL_GAP or share < SMALL_SHARE or shrunk < SHRUNK:
        return None
    size = min(figures.input_side * 3 // 2, round(figures.image_side)) // 32 * 32
    return Advice(
        f"A larger input: --size {size}",
        f"small objects (under 32x32 pixels, {share:.0%} of all): AP {small:.3f}, larger ones {larger:.3f}; images of "
        f"{figures.image_side:.0f} pixels are shown to the network in {figures.input_side}",
        "Small objects lose their details where images are made smaller.",
    )


def _slope(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope of a line through (epoch, AP), and its standard error."""
    epochs, values = np.array(scores).T
    centred = epochs - np.mean(epochs)
    slope = float(np.sum(centred * values) / np.sum(centred**2))
    rest = values - np.mean(values) - slope * centred
    return slope, float(np.sqrt(np.sum(rest**2) / (len(scores) - 2) / np.sum(centred**2)))


def _longer(figures: TrainingFigures) -> Advice | None:
    last = figures.scores[-max(FEWEST_SCORES, len(figures.scores) // 3) :]
    if len(last) < FEWEST_SCORES or figures.stopped_early:
        return None
    slope, error = _slope(last)
    gain = slope * figures.epochs * LONGER
    if gain < GAIN or slope < SIGNIFICANT * error:
        return None
    return Advice(
        f"A longer training: --epochs {round(figures.epochs * 1.5)}",
        f"AP rose from {last[0][1]:.3f} in epoch {last[0][0]:.0f} to {last[-1][1]:.3f} in epoch {last[-1][0]:.0f}, by "
        f"{slope:.4f} an epoch: at that rate a quarter more epochs add {gain:.3f}",
        "The curve has not become flat.",
    )


def _shorter(figures: TrainingFigures) -> Advice | None:
    if len(figures.scores) < FEWEST_SCORES:
        return None
    epoch, best = max(figures.scores, key=lambda one: one[1])
    last = figures.scores[-1]
    if best - last[1] < LOSS_SINCE_BEST:
        return None
    return Advice(
        "A shorter training, or more images and stronger augmentation",
        f"AP was best in epoch {epoch:.0f} ({best:.3f}) and {last[1]:.3f} in epoch {last[0]:.0f}",
        "After the best epoch the model learnt its training images by heart; best.safetensors is of the best epoch.",
    )


def _gap(figures: TrainingFigures) -> Advice | None:
    found, ap = figures.train_ap, figures.stats["AP"]
    if found is None or found - ap < GAP:
        return None
    return Advice(
        "More training images, of any class, or stronger augmentation",
        f"AP {found:.3f} on training images, {ap:.3f} on validation images",
        "The model has learnt its training images better than what they have in common with others.",
    )


def _underfit(figures: TrainingFigures) -> Advice | None:
    found, ap = figures.train_ap, figures.stats["AP"]
    if found is None or found == UNDEFINED or found - ap >= NO_GAP or found >= LOW_AP:
        return None
    start = "" if figures.from_weights else ", or trained weights to start from (--weights)"
    return Advice(
        f"A longer training{start}; if that does not help, a larger model",
        f"AP {found:.3f} on training images, hardly more than the {ap:.3f} on validation images",
        "The model has not learnt its own training images, so that more of them would not help first.",
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
