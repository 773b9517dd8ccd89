"""Lead guided and coarse-to-fine label assignment for the auxiliary head (YOLOv7 sec. 4.2, fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onelook.losses.pairs import Assigner, Term
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class Auxiliary:
    """The loss of the auxiliary head, with lead guided or coarse-to-fine label assignment (YOLOv7 sec. 4.2, fig. 5).

    weight: factor on the weights of the terms.  assigner: None uses the matches of the lead head (fig. 5d; both heads
    then need the same priors).  guide: the head whose predictions the assigner uses: "own" is the independent assigner
    of fig. 5c, "lead" the coarse-to-fine lead guided one of fig. 5e.  terms: None for those of the lead head.
    """

    weight: float = 0.25
    assigner: Assigner | None = None
    guide: Literal["lead", "own"] = "lead"
    terms: tuple[Term, ...] | None = None

    def matches(self, lead: Predictions, auxiliary: Predictions, targets: Targets, known: Matches) -> Matches:
        """Returns the matches of the auxiliary head; `known` are those of the lead head."""
        if self.assigner is None:
            return known
        return self.assigner(lead if self.guide == "lead" else auxiliary, targets)
