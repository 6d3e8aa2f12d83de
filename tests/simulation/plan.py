"""What happens in a run: made from a seed, kept as JSON, made smaller by `shrink`."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field

from tests.simulation.parts.catalog import CHANGES

FORMAT = 1
"""Of the JSON. A plan of another format is not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happens from outside: a commit, a fault, an operator."""

    at_s: float
    kind: str
    """A method of `Happenings`, without `do_`."""
    arguments: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run. The same plan runs in the same way, to the byte."""

    seed: int
    """Where latencies and all other chance come from."""
    data_planes: int
    control_planes: int
    replicas: int
    """Ingress replicas of each data plane."""
    small: tuple[int, ...] = ()
    """Data planes that reject snapshots with more than a few entries."""
    signed: bool = False
    """Control planes sign, and data planes take nothing else."""
    events: tuple[Event, ...] = field(default=())

    def to_json(self) -> str:
        """One event a line, for people and for diffs."""
        fields = {"format": FORMAT, **asdict(self)}
        events = fields.pop("events")
        head = json.dumps(fields)[:-1]
        lines = ",\n".join("  " + json.dumps([event["at_s"], event["kind"], *event["arguments"]]) for event in events)
        return f'{head}, "events": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """
        Raises:
            ValueError: it is not a plan, or of another format.
        """
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise ValueError(f"got a plan of another format; this release runs format {FORMAT}")
        events = tuple(
            Event(at_s=at_s, kind=kind, arguments=tuple(arguments)) for at_s, kind, *arguments in fields.pop("events")
        )
        return cls(**{**fields, "small": tuple(fields["small"])}, events=events)


_FAULTS: tuple[tuple[str, int, int], ...] = (
    # Kind, how often it is drawn, how many arguments it takes.
    ("break_stream", 8, 3),
    ("half_open", 4, 3),
    ("kill_agent", 6, 1),
    ("stop_agent", 2, 1),
    ("crash_twice", 2, 1),
    ("power_cut", 4, 1),
    ("cut_in_write", 4, 2),
    ("kill_replica", 4, 2),
    ("stop_replica", 2, 2),
    ("resume_replicas", 2, 1),
    ("lose_relay", 2, 1),
    ("kill_control_plane", 4, 1),
    ("stop_control_plane", 2, 1),
    ("stop_reading", 2, 1),
    ("slow_link", 3, 1),
    ("duplicate_status", 3, 1),
    ("fill_disk", 2, 1),
    ("disk_read_only", 1, 1),
    ("free_disk", 3, 1),
    ("damage_disk", 1, 1),
    ("lose_disk", 1, 1),
    ("damage_read", 2, 1),
    ("database_away", 2, 1),
    ("clock_step", 2, 2),
    ("wrong_key", 2, 1),
    ("right_key", 2, 1),
    ("restore_backup", 1, 1),
    ("allow_new_store", 1, 1),
)


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    chance = random.Random(f"plan {seed}")
    data_planes = chance.choice((1, 1, 2, 2, 3))
    horizon_s = chance.choice((15.0, 40.0, 100.0))
    events = [_commit(chance, horizon_s) for _ in range(chance.randint(2, 8))]
    kinds, weights = [fault[0] for fault in _FAULTS], [fault[1] for fault in _FAULTS]
    counts = {kind: count for kind, _, count in _FAULTS}
    for kind in chance.choices(kinds, weights, k=chance.randint(0, 8)):
        arguments = tuple(chance.randrange(8) for _ in range(counts[kind]))
        events.append(Event(at_s=_time(chance, horizon_s), kind=kind, arguments=arguments))
    if chance.random() < 0.3:
        events += _waves(chance, horizon_s)
    return Plan(
        seed=seed,
        data_planes=data_planes,
        control_planes=chance.choice((1, 1, 2)),
        replicas=chance.choice((1, 1, 2)),
        signed=chance.random() < 0.2,
        small=(0,) if chance.random() < 0.15 else (),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
    )


def _time(chance: random.Random, horizon_s: float) -> float:
    return round(chance.uniform(0.0, horizon_s), 3)


def _commit(chance: random.Random, horizon_s: float) -> Event:
    weights = [6, 6, 2, 1, 1, 2, 2, 1, 1, 1]
    kind = chance.choices(CHANGES, weights)[0]
    # Often several right after each other, which coalesce.
    arguments = (kind, chance.randrange(4), chance.randrange(4), chance.choice((1, 1, 1, 2, 3)))
    return Event(at_s=_time(chance, horizon_s), kind="commit", arguments=arguments)


def _waves(chance: random.Random, horizon_s: float) -> list[Event]:
    """A policy from the start or later, and operators."""
    at_s = chance.choice((0.0, _time(chance, horizon_s)))
    events = [Event(at_s=at_s, kind="set_waves", arguments=(chance.choice((0, 1, 5, 20)),))]
    for kind in chance.choices(("halt", "resume", "force", ""), (1, 2, 1, 1), k=chance.randint(0, 3)):
        arguments = (kind,) if kind else ()
        operation = "operate_waves" if kind else "clear_waves"
        events.append(Event(at_s=_time(chance, horizon_s), kind=operation, arguments=arguments))
    return events
