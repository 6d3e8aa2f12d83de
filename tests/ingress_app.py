"""The app of an ingress replica, without Ray and the relay."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from dataplane.ingress.app import IngressApp
from dataplane.ingress.limits import IngressSettings
from dataplane.ingress.view_holder import ViewHolder


def _ignore(_: str) -> None:
    pass


def ingress_app(
    views: ViewHolder,
    settings: IngressSettings | None = None,
    *,
    replica: str = "r1",
    seed: int = 0,
    wake: Callable[[str], None] = _ignore,
) -> IngressApp:
    """An app on the clocks of this machine.

    Args:
        views: Holds the current view.
        settings: Limits. Default: those of production.
        replica: Its id.
        seed: Of its random numbers.
        wake: Gets idle models that are asked for. Default: they are ignored.
    """
    return IngressApp(
        views=views,
        wake=wake,
        settings=settings or IngressSettings(),
        random=random.Random(seed),
        time_of_day=time.time,
        monotonic=time.monotonic,
        replica=replica,
    )
