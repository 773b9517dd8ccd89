"""`onelook models`: the models to choose from."""

from __future__ import annotations

from onelook.api import models as api
from onelook.cli.command_result import CommandResult
from onelook.cli.views.models import show_models


def models(name: str | None = None, /) -> CommandResult[api.ModelList]:
    """List the models: cost, input size, published accuracy, official weights.

    Examples:
        onelook models
        onelook models yolox-nano --json -

    Args:
        name: only this model.
    """
    return CommandResult(api.models(name), show_models)
