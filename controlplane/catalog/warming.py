"""Warming: a model is started and kept for a while without requests. Pure.

The end of the warming is part of the model, because data planes learn everything from snapshots.
They start the model and keep it until that time by their own clocks. After that it becomes idle as
any other model does.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from google.protobuf import duration_pb2

from controlplane import errors
from controlplane.catalog import domain
from controlplane.catalog.domain import Stamp

DURATION_DEFAULT = timedelta(minutes=10)
"""Longer than a large model takes to start."""

DURATION_MIN = timedelta(seconds=1)
"""The shortest duration except zero, which ends the warming.

The longest is a rule in the proto. This one would need a CEL expression there, whose evaluation
fails for durations beyond the range of CEL.
"""


def check_duration(request_duration: duration_pb2.Duration) -> None:
    """Refuse a duration below DURATION_MIN that is not zero.

    Raises:
        errors.InvalidArgument: The duration is too short.
    """
    # A few nanoseconds are not zero, but become a timedelta of zero.
    if request_duration.nanos and request_duration.ToTimedelta() < DURATION_MIN:
        raise errors.InvalidArgument.of_field(
            "duration",
            f"got {request_duration.seconds} s and {request_duration.nanos} ns; must be 0 s, or at least "
            f"{DURATION_MIN.seconds} s",
        )


def end_of(request_duration: duration_pb2.Duration | None, model: domain.Model, now: datetime) -> datetime | None:
    """Until when a request keeps `model` warm. None: it ends the warming.

    Args:
        request_duration: How long from now on. Zero ends the warming. None: the default.
        model: The model before.
        now: The time (UTC, aware).
    """
    duration = DURATION_DEFAULT if request_duration is None else request_duration.ToTimedelta()
    if duration:
        return now + duration
    # Warming that has ended by itself stays as it is, so that nothing is written.
    return None if is_warm(model, now) else model.warm_until


def is_warm(model: domain.Model, now: datetime) -> bool:
    """Whether data planes keep the model started at `now`."""
    return model.warm_until is not None and now < model.warm_until


def warmed(model: domain.Model, until: datetime | None, stamp: Stamp) -> domain.Model:
    """The model with this end of its warming. `model` itself if nothing changes."""
    if model.warm_until == until:
        return model
    return dataclasses.replace(model, warm_until=until, update_time=stamp.now, catalog_revision=stamp.catalog_revision)
