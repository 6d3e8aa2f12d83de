"""When a new activation is made, and which applications it adds or drops. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.snapshot.activation import Activation, ModelActivation

Models = Mapping[str, ModelActivation]
"""By model or pinned revision."""


def successor(before: Activation, models: Models) -> Activation | None:
    """The activation that follows `before`. None: `models` differ in nothing but countdowns."""
    if _without_countdown(models) == _without_countdown(before.models):
        return None
    return Activation(sequence=before.sequence + 1, models=models)


def serving(models: Models) -> dict[str, str]:
    """By model or pinned revision: the application that requests are sent to."""
    return {name: model.application for name, model in models.items() if model.endpoints}


def _without_countdown(models: Models) -> dict[str, object]:
    """`models` without the seconds of each backoff, which alone are not worth an activation."""
    return {
        name: (
            model.state,
            model.revision_number,
            model.application,
            model.endpoints,
            model.reason,
            model.message,
            model.retry_after_s > 0,
        )
        for name, model in models.items()
    }
