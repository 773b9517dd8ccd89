"""Modules that exist only in the training form of a network."""

from __future__ import annotations

from torch import nn


class TrainingOnly(nn.ModuleList):
    """A list of modules that are used only in training, such as an auxiliary head's; `deploy` removes them.

    Files of deployed networks lack their tensors, which then keep their initial values.
    """

    def deploy(self) -> nn.ModuleList:
        """Returns an empty list."""
        return nn.ModuleList()
