"""Drops what data planes report about names that are not in the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Protocol

import structlog

from controlplane.errors import Unavailable
from controlplane.fleet.progress import ResourceChange

CONFIRMED_NAMES_MAX = 100_000
"""Names that are remembered, so that a fleet that connects looks each of them up once. About 15 MB
at most."""

_log = structlog.get_logger("controlplane.push.reported_names")


class NameSource(Protocol):
    """The part of the store that knows which names are in the catalog."""

    async def in_catalog(self, reported: Sequence[str], since_revision: int) -> AbstractSet[str]:
        """Those that are in a kept snapshot from `since_revision` on.

        Raises:
            errors.Unavailable: the database failed.
        """


class CatalogNames:
    """Tells names of the catalog from made-up ones. One per process, shared by all streams."""

    def __init__(self, source: NameSource, *, confirmed_max: int = CONFIRMED_NAMES_MAX) -> None:
        """
        Args:
            source: Knows the names.
            confirmed_max: Names that are remembered.
        """
        self._source = source
        self._confirmed_max = confirmed_max
        self._confirmed: dict[str, None] = {}
        """Names that were in the catalog when they were looked up, oldest look first. One stays
        after its resource is deleted: it is no made-up name."""
        self._looking = asyncio.Lock()
        self._failed_looks = 0

    async def known_part(self, change: ResourceChange, *, held: Container[str], since_revision: int) -> ResourceChange:
        """The part of a change that is about names of the catalog.

        If the database does not answer, nothing is dropped: a status that is lost would not be
        reported again. The bound of `FleetState` holds all the same.

        Args:
            change: From a data plane.
            held: Names that the data plane has reported before, and that were kept.
            since_revision: Names of snapshots from this catalog revision on count.
        """
        fresh = [status.name for status in change.updated if change.replace or status.name not in held]
        made_up = await self._made_up(fresh, since_revision) if self._unconfirmed(fresh) else ()
        if not made_up:
            return change
        return replace(change, updated=tuple(status for status in change.updated if status.name not in made_up))

    async def _made_up(self, fresh: Sequence[str], since_revision: int) -> AbstractSet[str]:
        failed_looks = self._failed_looks
        # A single look at a time: a whole fleet reports a new model at the same moment, and all but
        # the first find its name confirmed.
        async with self._looking:
            unconfirmed = self._unconfirmed(fresh)
            if not unconfirmed or self._failed_looks != failed_looks:
                # Where a look has failed meanwhile, the others do not wait for their own to fail.
                return frozenset()
            try:
                found = await self._source.in_catalog(unconfirmed, since_revision)
            except Unavailable as error:
                self._failed_looks += 1
                _log.warning("reported_names_not_checked", names=len(unconfirmed), reason=error.reason.value)
                return frozenset()
            self._confirm(found)
            return set(unconfirmed) - found

    def _unconfirmed(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self._confirmed]

    def _confirm(self, found: AbstractSet[str]) -> None:
        self._confirmed.update(dict.fromkeys(found))
        while len(self._confirmed) > self._confirmed_max:
            del self._confirmed[next(iter(self._confirmed))]
