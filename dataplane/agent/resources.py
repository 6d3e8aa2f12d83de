"""Amounts of the cluster's resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broadsheet.v1 import model_pb2

Resources = Mapping[str, float]
"""Amounts by Ray's names: `CPU` and `GPU` as counts, `memory` in bytes. A missing name is 0."""


def resources_of(spec: model_pb2.ModelSpec) -> Resources:
    """What one replica takes of the cluster."""
    stated = spec.resources
    taken = {"CPU": stated.cpus, "GPU": float(stated.accelerators), "memory": float(stated.memory_bytes)}
    return {name: amount for name, amount in taken.items() if amount}


def added(left: Resources, right: Resources) -> dict[str, float]:
    """The sum of both."""
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {*left, *right}}


def subtracted(left: Resources, right: Resources) -> dict[str, float]:
    """`left` without `right`. Amounts may become negative."""
    return added(left, {name: -amount for name, amount in right.items()})


def missing(needed: Resources, free: Resources) -> list[str]:
    """Names of the resources of which `free` has less than `needed`."""
    return [name for name, amount in needed.items() if amount > free.get(name, 0.0)]
