"""The detection loss: an assigner matches priors with objects, weighted terms measure the errors of the matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from onelook.losses.adversarial import no_object_loss
from onelook.losses.lead_guided import Auxiliary
from onelook.losses.pairs import Assigner, Pairs, Term
from onelook.types import Predictions, Targets


@dataclass(frozen=True)
class DetectionLoss:
    """The loss of a detector: an assigner and a tuple of weighted terms.

    across_processes: whether sums are divided by the mean count of positives of all processes (see `Pairs.count`).
    auxiliary: the loss of the head's auxiliary predictions, None for none.  scale: factor on every term (official
    YOLOv7 multiplies by the images of a step and uses one learning rate for all batch sizes).
    """

    assigner: Assigner
    terms: tuple[Term, ...]
    across_processes: bool = True
    auxiliary: Auxiliary | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for term in self.terms:
            if not term.weight >= 0:
                raise ValueError(f"the weight of a term is not negative; that of {term.name} is {term.weight}")

    def __call__(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Returns each term's weighted value by name, float32 scalars on the device; the loss is their sum.

        Terms of the auxiliary head follow, named "auxiliary_" and the term's name. Raises TypeError if the loss has an
        auxiliary part and the predictions have none.
        """
        matches = self.assigner(predictions, targets)
        losses = self.weighted_terms(Pairs(predictions, targets, matches, self.across_processes))
        extra = self.auxiliary
        if extra is None:
            return losses
        if predictions.auxiliary is None:
            raise TypeError("the loss has an auxiliary part, and the head returned no auxiliary predictions")
        matches = extra.matches(predictions, predictions.auxiliary, targets, matches)
        pairs = Pairs(predictions.auxiliary, targets, matches, self.across_processes)
        terms = self.terms if extra.terms is None else extra.terms
        weighted = {f"auxiliary_{term.name}": self.scale * extra.weight * term.weight * term(pairs) for term in terms}
        return losses | weighted

    def weighted_terms(self, pairs: Pairs) -> dict[str, Tensor]:
        """Returns the weighted terms of the lead head for given pairs."""
        return {term.name: self.scale * term.weight * term(pairs) for term in self.terms}

    def adversarial_loss(self, predictions: Predictions) -> Tensor:
        """Returns the loss that self-adversarial training minimises by altering the image (see `no_object_loss`)."""
        return no_object_loss(predictions)

    def with_terms(self, *terms: Term) -> DetectionLoss:
        """Returns this loss with additional terms."""
        return replace(self, terms=self.terms + terms)

    def needs(self) -> Mapping[str, str]:
        """Returns what the head must provide, each with the name of the first part that needs it."""
        parts: list[object] = [self.assigner, *self.terms]
        needs: dict[str, str] = {}
        if self.auxiliary is not None:
            needs["auxiliary"] = type(self.auxiliary).__name__
            parts += [self.auxiliary.assigner, *(self.auxiliary.terms or ())]
        for part in parts:
            for need in getattr(part, "needs", ()):
                needs.setdefault(need, type(part).__name__)
        return needs
