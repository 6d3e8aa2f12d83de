"""The credentials that data planes got by enrolment.

All are in memory, so that a wrong one costs a hash and no question to the database. What other
control planes change is noticed within seconds: a counter in the database tells that there is
something to read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog

from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.catalog.data_planes.enrollment import Enrollment, EnrollmentReading
from controlplane.principal import Principal
from protocol.enrollment import CREDENTIAL_PREFIX, SECRET_CHARACTERS_MAX, credential_hash, token_hash

POLL_S = 2.0
"""Between two looks for what other control planes have changed. Seconds."""

LOOK_INTERVAL_S = 1.0
"""Between two looks for a secret that is not known, so that made-up ones cost nothing. Seconds."""

_NOTHING_READ = -1
"""In place of a count of changes."""

_log = structlog.get_logger("controlplane.access.enrolled")


class EnrollmentSource(Protocol):
    """The part of the store that holds enrolments."""

    async def changes(self) -> int:
        """How many changes there were so far."""

    async def since(self, changes: int) -> EnrollmentReading:
        """What has changed after so many changes."""


def enrolled_principal(data_plane_id: str) -> Principal:
    """Whom an enrolled data plane is."""
    return Principal(name=data_plane_id, role=Role.DATA_PLANE, authentication="enrollment", data_plane=data_plane_id)


class _Known:
    """Enrolments, by each of their keys."""

    def __init__(self) -> None:
        self.changes = _NOTHING_READ
        self.ids: list[str] = []
        """In order."""
        self.by_id: dict[str, Enrollment] = {}
        self.by_token: dict[bytes, Enrollment] = {}
        self.by_credential: dict[bytes, Enrollment] = {}
        self.bound_ids: set[str] = set()

    def take(self, reading: EnrollmentReading) -> None:
        """Take what has changed."""
        for enrollment in reading.changed:
            self._put(enrollment)
        self.changes = reading.changes

    def _put(self, enrollment: Enrollment) -> None:
        self.remove(enrollment.data_plane_id)
        insort(self.ids, enrollment.data_plane_id)
        self.by_id[enrollment.data_plane_id] = enrollment
        self.by_token[enrollment.token_hash] = enrollment
        if enrollment.credential_hash is not None:
            self.by_credential[enrollment.credential_hash] = enrollment
            self.bound_ids.add(enrollment.data_plane_id)

    def remove(self, data_plane_id: str) -> None:
        """Remove an enrolment, if there is one."""
        former = self.by_id.pop(data_plane_id, None)
        if former is not None:
            del self.ids[bisect_left(self.ids, data_plane_id)]
            self.by_token.pop(former.token_hash, None)
            self.by_credential.pop(former.credential_hash or b"", None)
            self.bound_ids.discard(data_plane_id)


class EnrolledDataPlanes:
    """What is known of the enrolments; a source of tokens. Share one in a process."""

    def __init__(self, source: EnrollmentSource, *, clock: Callable[[], float]) -> None:
        """
        Args:
            source: Where enrolments are kept.
            clock: Seconds of a clock that does not go back.
        """
        self._source = source
        self._clock = clock
        self._known = _Known()
        self._looked_s = -LOOK_INTERVAL_S
        self._looking = asyncio.Lock()

    async def run(self, *, poll_s: float = POLL_S) -> None:
        """Follow other control planes until cancelled."""
        while True:
            try:
                await self.refresh()
            except errors.Unavailable:
                # What was known keeps counting.
                _log.warning("enrollments_not_read")
            await asyncio.sleep(poll_s)

    async def refresh(self) -> None:
        """Know all that was committed before this call.

        Raises:
            errors.Unavailable: the database failed.
        """
        async with self._looking:
            self._looked_s = self._clock()
            if await self._source.changes() == self._known.changes:
                return
            reading = await self._source.since(self._known.changes)
            self._known.take(reading)
            if len(self._known.ids) != reading.count:
                # Another control plane has removed some. What is known counts until all is read.
                whole = _Known()
                whole.take(await self._source.since(_NOTHING_READ))
                self._known = whole

    async def changed(self, *, removed: str | None = None) -> None:
        """A change was committed here. If the database fails now, it is known at the next poll.

        Args:
            removed: The data plane whose enrolment is gone; None: it was another change.
        """
        if removed is not None:
            self._known.remove(removed)
        try:
            await self.refresh()
        except errors.Unavailable:
            _log.warning("enrollments_not_read")

    async def principal_of(self, token: str) -> Principal | None:
        """The principal of a token; None: it is no credential of an enrolled data plane.

        Raises:
            errors.Unauthenticated: it was one, or is made up.
            errors.Unavailable: the database failed.
        """
        if not token.startswith(CREDENTIAL_PREFIX) or len(token) > SECRET_CHARACTERS_MAX:
            return None
        found = await self._find(credential_hash(token), lambda known: known.by_credential)
        if found is None:
            raise errors.Unauthenticated(
                errors.Reason.TOKEN_INVALID,
                "this credential was withdrawn, or replaced by a newer one, or is for another control plane; to enrol "
                "the data plane again: broadsheet fleet enroll DATA_PLANE --renew",
            )
        return enrolled_principal(found.data_plane_id)

    async def of_token(self, token: str) -> Enrollment | None:
        """The enrolment whose newest enrolment token this is; None: none has it.

        Raises:
            errors.Unavailable: the database failed.
        """
        if len(token) > SECRET_CHARACTERS_MAX:
            return None
        return await self._find(token_hash(token), lambda known: known.by_token)

    def get(self, data_plane_id: str) -> Enrollment | None:
        """The enrolment of a data plane, as far as this process knows."""
        return self._known.by_id.get(data_plane_id)

    @property
    def ids(self) -> Sequence[str]:
        """The data planes that are enrolled or have a token that waits or waited, in order."""
        return self._known.ids

    def bound_ids(self) -> AbstractSet[str]:
        """The data planes that have a credential by enrolment."""
        return self._known.bound_ids

    async def _find(self, digest: bytes, index: Callable[[_Known], Mapping[bytes, Enrollment]]) -> Enrollment | None:
        found = index(self._known).get(digest)
        if found is None and self._clock() - self._looked_s >= LOOK_INTERVAL_S:
            # Another control plane may have made it a moment ago.
            await self.refresh()
            found = index(self._known).get(digest)
        return found
