"""The topics of the relay: what they hold, who may write them, how keys are named. Pure.

| topic         | writer  | name of a key                | value               |
|---------------|---------|------------------------------|---------------------|
| snapshot      | agent   | empty                        | SerializedSnapshot  |
| snapshot_base | agent   | empty                        | SnapshotBase        |
| changes       | agent   | its number, with 20 digits   | SerializedChange    |
| revocations   | agent   | empty                        | RevocationsPosition |
| revocations   | agent   | number of a piece            | uids of keys        |
| activation    | agent   | empty                        | Activation          |
| applications  | agent   | application                  | ApplicationRecord   |
| adapters      | agent   | application                  | LiveAdapters        |
| sleep_orders  | agent   | application                  | SleepOrder          |
| ingresses     | ingress | replica id                   | IngressReport       |
| rate_limits   | ingress | replica id                   | Used, by key uid    |
| engines       | engine  | {application}/{replica id}   | EngineReport        |
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Topic(enum.StrEnum):
    """A set of keys with values of the same kind. The table above says which."""

    SNAPSHOT = "snapshot"
    REVOCATIONS = "revocations"
    SNAPSHOT_BASE = "snapshot_base"
    CHANGES = "changes"
    ACTIVATION = "activation"
    APPLICATIONS = "applications"
    ADAPTERS = "adapters"
    SLEEP_ORDERS = "sleep_orders"
    INGRESSES = "ingresses"
    RATE_LIMITS = "rate_limits"
    ENGINES = "engines"


class Role(enum.StrEnum):
    """The part of the data plane that a process is."""

    AGENT = "agent"
    INGRESS = "ingress"
    ENGINE = "engine"


ROLE_OF: Mapping[Topic, Role] = {
    Topic.SNAPSHOT: Role.AGENT,
    Topic.REVOCATIONS: Role.AGENT,
    Topic.SNAPSHOT_BASE: Role.AGENT,
    Topic.CHANGES: Role.AGENT,
    Topic.ACTIVATION: Role.AGENT,
    Topic.APPLICATIONS: Role.AGENT,
    Topic.ADAPTERS: Role.AGENT,
    Topic.SLEEP_ORDERS: Role.AGENT,
    Topic.INGRESSES: Role.INGRESS,
    Topic.RATE_LIMITS: Role.INGRESS,
    Topic.ENGINES: Role.ENGINE,
}
"""Which role may write a topic."""


class Key(NamedTuple):
    """The address of a value. It has a single writer."""

    topic: Topic
    name: str = ""
    """Unique in its topic; empty where the topic has a single key."""


Watched = Topic | Key
"""What a watcher follows: a whole topic, or a single key."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that puts keys."""

    role: Role
    name: str
    """`agent`, or the id of a replica. A new process replaces an older one of its name."""
    incarnation: int = 1
    """Rises with each process of that name; the highest is the current process. Replicas have 1:
    their ids are unique."""


UNCLAIMED = 0
"""The incarnation of a writer that the relay is still to number. Clocks of nodes differ, so the
start time of a process would not do."""

AGENT = Writer(Role.AGENT, "agent", UNCLAIMED)
"""An agent that starts. A later agent replaces it."""


def engine_key(application: str, replica_id: str) -> Key:
    """The key of an engine replica's report."""
    return Key(Topic.ENGINES, f"{application}/{replica_id}")


def engine_of(name: str) -> tuple[str, str]:
    """Application and replica id of an engine replica, from the name of its key."""
    application, _, replica_id = name.partition("/")
    return application, replica_id
