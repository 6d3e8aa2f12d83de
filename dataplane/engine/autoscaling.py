"""How many replicas a running model gets: a custom autoscaling policy for Ray Serve's controller.

Requests do not go through Ray Serve, so it cannot count them. Replicas report theirs
(`record_autoscaling_stats`). Ray Serve applies the bounds and delays of the application's
autoscaling settings to the result. It never scales to zero: the reconciler deletes an unused
application as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def replicas_for_load(context: Any) -> tuple[int, dict[str, Any]]:
    """The replicas that bring the requests in flight to `target_ongoing_requests` each.

    Args:
        context: Ray Serve's AutoscalingContext.

    Returns:
        The count, at least 1, and the policy's state, which is empty.
    """
    in_flight: Mapping[object, float] = (context.aggregated_metrics or {}).get("in_flight", {})
    target = float(context.config.target_ongoing_requests)
    return max(1, math.ceil(sum(in_flight.values()) / target)), {}
