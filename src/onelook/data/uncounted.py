"""Why no object of a data set counts in an evaluation, where there are some."""

from __future__ import annotations

import numpy as np

from onelook.data.objects import evaluated_areas
from onelook.data.split import Dataset


def uncounted_objects(dataset: Dataset) -> str:
    """Returns "no objects that count (all 5 are crowds)"; "" where an object counts, or there is none at all."""
    total = int(dataset.num_objects.sum())
    if total == 0 or len(evaluated_areas(dataset)):
        return ""
    crowds = np.concatenate([dataset.crowd(row) for row in range(len(dataset))])
    difficult = np.concatenate([dataset.difficult(row) for row in range(len(dataset))]) & dataset.ignores_difficult
    if crowds.all():
        what, one = "crowds", "a crowd"
    elif difficult.all():
        what = one = "difficult"
    elif (crowds | difficult).all():
        what = one = "crowds or difficult"
    else:
        what, one = "crowds, difficult, or outside of their images", "outside of its image"
    return "no objects that count " + (f"(the only one is {one})" if total == 1 else f"(all {total} are {what})")
