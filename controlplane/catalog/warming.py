"""Keeping a model started for a while although nobody asks for it. Pure.

It is state of the model, because snapshots are all that data planes get: they start the model, keep
it while that time has not come by their own clocks, and then let it idle away as any other.
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
"""The shortest but for zero, which ends the warming. The proto's rules have the longest. This one
would have to be an expression in CEL there, and evaluating that fails when the duration is beyond
what CEL can hold."""


def check_duration(request_duration: duration_pb2.Duration) -> None:
    """Refuse a time that is too short to be meant.

    Raises:
        errors.InvalidArgument: it is.
    """
    # With nanoseconds it is not zero, although a timedelta of it may be.
    if request_duration.nanos and request_duration.ToTimedelta() < DURATION_MIN:
        raise errors.InvalidArgument.of_field(
            "duration",
            f"got {request_duration.seconds} s and {request_duration.nanos} ns; must be 0 s, or at least "
            f"{DURATION_MIN.seconds} s",
        )


def end_of(request_duration: duration_pb2.Duration | None, model: domain.Model, now: datetime) -> datetime | None:
    """Until when a request wants `model` to be warm. None: no longer.

    Args:
        request_duration: From now on. Zero ends the warming. None: the default.
        model: The model before.
        now: The time (UTC, aware).
    """
    duration = DURATION_DEFAULT if request_duration is None else request_duration.ToTimedelta()
    if duration:
        return now + duration
    # One that has ended by itself is not written anew.
    return None if is_warm(model, now) else model.warm_until


def is_warm(model: domain.Model, now: datetime) -> bool:
    """Whether data planes are to keep the model started at `now`."""
    return model.warm_until is not None and now < model.warm_until


def warmed(model: domain.Model, until: datetime | None, stamp: Stamp) -> domain.Model:
    """The model, to be warm until then. It is `model` itself when it is so already."""
    if model.warm_until == until:
        return model
    return dataclasses.replace(model, warm_until=until, update_time=stamp.now, catalog_revision=stamp.catalog_revision)
