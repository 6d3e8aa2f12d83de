"""The metrics of one control plane, in Prometheus' terms."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_PREFIX = "broadsheet_controlplane_"

_CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""From a read of the catalog to a change that waits for the disk."""

_DATABASE_BUCKETS_S = (0.0001, 0.00025, 0.0005, *_CALL_BUCKETS_S)
"""From a read by key in SQLite, which takes microseconds."""

_GROUP_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

_CONVERGENCE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""From a data plane on this machine to one whose ingress replicas lag."""

ANNOUNCED_MAX = 1000
"""Revisions whose time is remembered. A data plane that takes an older one is not measured."""


class _States(Collector):
    """A gauge whose values are counted when somebody asks."""

    def __init__(self, name: str, text: str, label: str, count: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._text, self._label, self._count = name, text, label, count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=(self._label,))
        for state, number in self._count().items():
            family.add_metric((state,), number)
        yield family


class Metrics:
    """Counts in a registry of its own: a process may contain several control planes.

    It is used from one event loop.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """
        Args:
            clock: Seconds of a clock that does not go back.
        """
        self.registry = CollectorRegistry()
        self._clock = clock
        self._newest = 0
        self._announced: OrderedDict[int, float] = OrderedDict()
        """When each of the newest revisions was announced in this process, oldest first."""
        self._revoked: OrderedDict[int, float] = OrderedDict()
        """When each of the newest revocations became known to this process, oldest first."""
        self._revoked_newest = 0
        ProcessCollector(registry=self.registry)
        self._rpcs = self._counter(
            "rpcs", "RPCs that have ended, by method and status code. A Sync stream is one RPC.", "method", "code"
        )
        self._rpc_counts: dict[tuple[str, str], Counter] = {}
        """Counters by labels. The lookup in the library costs five times as much as counting."""
        text = "Duration of unary RPCs, from the admission of the caller to the answer."
        self._rpc_seconds = self._histogram("rpc_seconds", text, _CALL_BUCKETS_S, "method")
        self._rpc_durations: dict[str, Histogram] = {}
        text = "Catalog revisions that this process has announced: its own, and those it learned of."
        self._commits = self._counter("commits", text)
        text = "Catalog revisions that became durable with one commit of the database."
        self._group_sizes = self._histogram("commit_revisions", text, _GROUP_BUCKETS)
        text = "Duration of such a commit, from the wait for the lock on the catalog until it is durable."
        self._commit_seconds = self._histogram("commit_seconds", text, _CALL_BUCKETS_S)
        text = "Duration of operations of the database, by kind, also of those that failed."
        self._database_seconds = self._histogram("database_seconds", text, _DATABASE_BUCKETS_S, "operation")
        self._database_durations: dict[str, Histogram] = {}
        name, text = f"{_PREFIX}catalog_revision", "The newest catalog revision that this process knows."
        self._revision = Gauge(name, text, registry=self.registry)
        text = "From the announcement of a catalog revision to the report of a data plane that it serves it."
        self._convergence = self._histogram("convergence_seconds", text, _CONVERGENCE_BUCKETS_S)
        text = "From the commit of a revocation of an API key to the report of a data plane that it applies it."
        self._revocation = self._histogram("revocation_seconds", text, _CONVERGENCE_BUCKETS_S)
        text = "Snapshots that data planes have rejected as a whole."
        self._rejections = self._counter("snapshot_rejections", text)
        text = "Bytes of snapshots that were written to Sync streams, before TLS and HTTP/2, by mode."
        self._sent_bytes = self._counter("sent_bytes", text, "mode")
        self._sent_counts: dict[str, Counter] = {}
        """As above."""

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", text, labels, buckets=buckets, registry=self.registry)

    # -- RPCs --------------------------------------------------------------------------------------

    def rpc_ended(self, method: str, code: str, seconds: float | None) -> None:
        """An RPC has ended.

        Args:
            method: `broadsheet.v1.RegistryService/RegisterModel`.
            code: Name of its status code.
            seconds: How long it ran; None for a stream, whose length says nothing.
        """
        count = self._rpc_counts.get((method, code))
        if count is None:
            count = self._rpc_counts[method, code] = self._rpcs.labels(method, code)
        count.inc()
        if seconds is None:
            return
        duration = self._rpc_durations.get(method)
        if duration is None:
            duration = self._rpc_durations[method] = self._rpc_seconds.labels(method)
        duration.observe(seconds)

    # -- commits and snapshots ---------------------------------------------------------------------

    def announced(self, revision: int) -> None:
        """A commit is durable. Revisions may come in any order and repeatedly."""
        if revision <= self._newest:
            return
        self._commits.inc(revision - self._newest)
        self.begin_at(revision)
        self._announced[revision] = self._clock()
        if len(self._announced) > ANNOUNCED_MAX:
            self._announced.popitem(last=False)

    def committed(self, revisions: int, seconds: float) -> None:
        """A commit of this process has made so many revisions."""
        self._group_sizes.observe(revisions)
        self._commit_seconds.observe(seconds)

    def database_operation(self, operation: str, seconds: float) -> None:
        """An operation of the database has ended."""
        duration = self._database_durations.get(operation)
        if duration is None:
            duration = self._database_durations[operation] = self._database_seconds.labels(operation)
        duration.observe(seconds)

    def begin_at(self, revision: int) -> None:
        """Take `revision` for the newest, without a commit: it was found at start."""
        self._newest = revision
        self._revision.set(revision)

    def sent(self, mode: str, size_bytes: int) -> None:
        """A part of a snapshot was written to a stream."""
        count = self._sent_counts.get(mode)
        if count is None:
            count = self._sent_counts[mode] = self._sent_bytes.labels(mode)
        count.inc(size_bytes)

    def served(self, revision: int) -> None:
        """A data plane has reported for the first time that it serves a revision."""
        announced_s = self._announced.get(revision)
        if announced_s is not None:
            self._convergence.observe(self._clock() - announced_s)

    def rejected(self) -> None:
        """A data plane has rejected a snapshot."""
        self._rejections.inc()

    # -- revocations of API keys -------------------------------------------------------------------

    def revocations_begin_at(self, sequence: int) -> None:
        """Take `sequence` for the newest revocation: it was found at start."""
        self._revoked_newest = sequence

    def revoked(self, sequence: int) -> None:
        """Revocations up to this are durable. Sequences may come in any order and repeatedly."""
        if sequence > self._revoked_newest:
            self._revoked_newest = sequence
            self._revoked[sequence] = self._clock()
            if len(self._revoked) > ANNOUNCED_MAX:
                self._revoked.popitem(last=False)

    def revocations_applied(self, sequence: int) -> None:
        """A data plane has reported for the first time that it applies revocations up to this."""
        revoked_s = self._revoked.get(sequence)
        if revoked_s is not None:
            self._revocation.observe(self._clock() - revoked_s)

    # -- what is counted when somebody asks --------------------------------------------------------

    def count_streams(self, by_state: Callable[[], Mapping[str, int]]) -> None:
        """Show how many Sync streams are in each state."""
        self.registry.register(_States(f"{_PREFIX}streams", "Open Sync streams, by state.", "state", by_state))

    def count_data_planes(self, by_phase: Callable[[], Mapping[str, int]]) -> None:
        """Show how many connected data planes are in each phase of the snapshot they target."""
        text = "Data planes that are connected here, by what they did with the newest snapshot they were sent."
        self.registry.register(_States(f"{_PREFIX}data_planes", text, "phase", by_phase))

    def count_lags(self, by_lag: Callable[[], Mapping[str, int]]) -> None:
        """Show how many connected data planes are behind the newest snapshot for how long."""
        text = "Data planes that are connected here, by how long they are behind the newest snapshot."
        self.registry.register(_States(f"{_PREFIX}data_planes_behind", text, "lag", by_lag))

    def show_audit_backlog(self, overdue_s: Callable[[], float]) -> None:
        """Show for how long the oldest audit event should be deleted. Seconds."""
        name = f"{_PREFIX}audit_retention_overdue_seconds"
        text = "How much longer than audit-retention-days the oldest audit event is kept. Up to an hour is normal."
        Gauge(name, text, registry=self.registry).set_function(overdue_s)

    def count_behind_with_revocations(self, behind: Callable[[], int]) -> None:
        """Show how many connected data planes do not say that they apply every revocation."""
        text = "Data planes that are connected here and have not reported that they apply every revocation."
        Gauge(f"{_PREFIX}revocations_behind", text, registry=self.registry).set_function(behind)

    def count_waves(
        self, by_state: Callable[[], Mapping[str, int]], wave: Callable[[], int], held: Callable[[], int]
    ) -> None:
        """Show the rollout of the fleet: its state, its wave, and how many data planes are held."""
        text = "The rollout of the newest snapshots to the fleet: 1 for its state."
        self.registry.register(_States(f"{_PREFIX}fleet_rollout", text, "state", by_state))
        for name, text, count in (
            ("fleet_wave", "The wave of that rollout, counted from 1; 0: none is under way.", wave),
            ("held_data_planes", "Data planes that may not have the newest snapshot yet.", held),
        ):
            Gauge(f"{_PREFIX}{name}", text, registry=self.registry).set_function(count)
