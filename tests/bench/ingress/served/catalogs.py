"""The catalogs of the benchmark, and the view that an ingress decides by."""

from __future__ import annotations

from dataplane.snapshot.activation import View
from dataplane.snapshot.snapshot import Message
from tests import views

MODELS = 4
BASE, ADAPTER, ROUTE = "m0", "m0:a0", "r0"
"""Names to ask for: a model, an adapter of it, and a route to two models."""
KEY = "bsk_benchmark"
_REQUESTS_PER_MINUTE, _TOKENS_PER_MINUTE = 1_000_000_000, 1_000_000_000_000
"""The highest limits that there are: requests are counted, and never refused."""
_ONGOING_MAX = 4096
"""Requests at the engine. With the default of 256, streams of the soak would wait."""
NAMES_MIN = MODELS + 2


def entries(names: int, *, key: bool) -> list[Message]:
    """A catalog of so many served names: models, a route, and adapters.

    Args:
        names: At least `NAMES_MIN`.
        key: With an API key, so that every request needs one.
    """
    if names < NAMES_MIN:
        raise ValueError(f"names: got {names}, at least {NAMES_MIN} are needed")
    admission = {"maxOngoingRequests": _ONGOING_MAX}
    found: list[Message] = [views.model(f"m{number}", admission=admission) for number in range(MODELS)]
    found.append(views.route(ROUTE, {"models/m0": 90, "models/m1": 10}))
    found += [views.adapter(f"m{number % MODELS}", f"a{number}") for number in range(names - len(found))]
    if key:
        limits = {"requestsPerMinute": _REQUESTS_PER_MINUTE, "tokensPerMinute": _TOKENS_PER_MINUTE}
        found.append(views.api_key("bench", KEY, revoked=False, **limits))
    return found


def view(names: int, engine_url: str, *, key: bool) -> View:
    """The view of such a catalog, whose models are all ready at one engine."""
    ready = {f"m{number}": views.ready(engine_url) for number in range(MODELS)}
    return views.view(views.snapshot(*entries(names, key=key)), ready)
