"""`onelook models`: the models to choose from."""

from __future__ import annotations

from typing import Any

from onelook.cli.command_result import CommandResult
from onelook.cli.views.models import show_models


def models(name: str | None = None, /) -> CommandResult[Any]:
    """List the models: cost, input size, published accuracy, official weights.

    Examples:
        onelook models
        onelook models yolox-nano --json -

    Args:
        name: only this model.
    """
    from onelook.api.models import models as known_models

    return CommandResult(known_models(name), show_models)
