"""How many ingress replicas there are: an autoscaling policy for Ray Serve's controller. Pure.

Requests do not go through Ray Serve, so it cannot count them. Each replica reports its load
(`record_autoscaling_stats`) in replicas: 1.0 is what one replica should have. Ray Serve averages it
over half a minute, and applies the bounds and delays of the autoscaling settings to the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LOAD = "load"
"""The name of what replicas report."""
_FULL_AFTER_SHRINKING = 0.8
"""Load of each replica that is left must be at most this. At 1.0 the next request would start a
replica again."""


def replicas_for_load(context: Any) -> tuple[int, dict[str, Any]]:
    """The replicas that bring the load of each to at most 1.0.

    Args:
        context: Ray Serve's AutoscalingContext.

    Returns:
        The count, at least 1, and the policy's state, which is empty.
    """
    reported: Mapping[object, float] = (context.aggregated_metrics or {}).get(LOAD, {})
    load = sum(reported.values())
    current: int = context.target_num_replicas
    if load > current:
        return math.ceil(load), {}
    return max(1, min(current, math.ceil(load / _FULL_AFTER_SHRINKING))), {}
