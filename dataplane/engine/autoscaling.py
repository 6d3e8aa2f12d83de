"""How many replicas a running model gets: Ray Serve's custom autoscaling policy. Ray Serve's
controller imports it.

Requests do not go through Ray Serve, so it cannot count them; replicas report theirs
(`record_autoscaling_stats`). Ray Serve applies the bounds and the delays of the application's
autoscaling settings to what this returns. Zero is not its matter: an application that nobody uses
is deleted as a whole (reconciler.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def replicas_for_load(context: Any) -> tuple[int, dict[str, Any]]:
    """Replicas for which the requests in flight are `target_ongoing_requests` each.

    `context` is Ray Serve's AutoscalingContext; the result is the count and the policy's state,
    which is empty.
    """
    in_flight: Mapping[object, float] = (context.aggregated_metrics or {}).get("in_flight", {})
    target = float(context.config.target_ongoing_requests)
    return max(1, math.ceil(sum(in_flight.values()) / target)), {}
