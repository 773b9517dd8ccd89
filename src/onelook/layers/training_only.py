"""What a network has only while it is trained."""

from __future__ import annotations

from torch import nn


class TrainingOnly(nn.ModuleList):
    """Modules whose output nothing reads in evaluation, such as an auxiliary head's: gone when deployed.

    Files of deployed networks lack their tensors, which then keep their initialisation.
    """

    def deploy(self) -> nn.ModuleList:
        """No modules."""
        return nn.ModuleList()
