"""Data planes: which exist, what they serve, waiting for a catalog revision, enrolment, removal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._connection.options import DEFAULT_TIMEOUT_S, WAIT_GRACE_S
from broadsheet._requests.enrollment import with_token
from broadsheet._requests.fields import duration
from broadsheet._requests.names import data_plane_resource
from broadsheet._requests.revocations import refuses
from broadsheet.types import (
    DataPlane,
    EnrollDataPlaneResponse,
    RemoveDataPlaneResponse,
    RevokeApiKeyResponse,
    WaitForRevisionResponse,
)
from broadsheet.v1 import enrollment_pb2, snapshot_service_pb2
from broadsheet.v1 import fleet_service_pb2 as pb

REVOCATION_POLL_S = 0.25
"""Between two looks at the fleet. Most data planes report within a tenth of a second."""


class AsyncFleet(AsyncConnection):
    """The RPCs on data planes."""

    async def list_data_planes(self, *, timeout_s: float | None = None) -> AsyncIterator[DataPlane]:
        """List data planes by id, without the states of their resources (see `get_data_plane`)."""
        async for page in self._pages(self._fleet.ListDataPlanes, pb.ListDataPlanesRequest(), timeout_s):
            for data_plane in page.data_planes:
                yield data_plane

    async def get_data_plane(self, data_plane: str, *, timeout_s: float | None = None) -> DataPlane:
        """Get a data plane with the state of each of its resources.

        Raises:
            NotFound: No data plane of that id has ever connected, or it was removed.
        """
        request = pb.GetDataPlaneRequest(name=data_plane_resource(data_plane))
        return (await self._call(self._fleet.GetDataPlane, request, timeout_s)).data_plane

    async def wait_for_revision(
        self, revision: int, *, data_planes: Iterable[str] = (), timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> WaitForRevisionResponse:
        """Wait until data planes have activated or rejected a catalog revision.

        Args:
            revision: Catalog revision; at most the newest.
            data_planes: Those to wait for. Empty: every data plane known now.
            timeout_s: How long to wait, in seconds; up to 3600. After that the response lists the
                remaining data planes as PENDING.

        Raises:
            InvalidArgument: The control plane does not have the revision yet, or `timeout_s` is
                negative or too long.
        """
        request = pb.WaitForRevisionRequest(
            revision=revision,
            data_planes=[data_plane_resource(name) for name in data_planes],
            timeout=duration(timeout_s),
        )
        return await self._call(self._fleet.WaitForRevision, request, timeout_s + WAIT_GRACE_S)

    async def wait_for_revocation(
        self, revoked: RevokeApiKeyResponse, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Sequence[DataPlane]:
        """Wait until every connected data plane refuses a key that was revoked.

        Args:
            revoked: The response of `revoke_api_key`.
            timeout_s: How long to wait, in seconds. 0: look once.

        Returns:
            The connected data planes that have not reported that they refuse it. Empty: all do.
            Those that are not connected learn of it when they connect.
        """
        deadline_s = time.monotonic() + timeout_s
        newest = snapshot_service_pb2.ListSnapshotsRequest(page_size=1)
        store_uid = (await self._call(self._snapshot.ListSnapshots, newest, None)).snapshots[0].position.store_uid
        while True:
            left: list[DataPlane] = []
            async for plane in self.list_data_planes():
                if plane.connected and not refuses(plane, revoked, store_uid):
                    left.append(plane)
            if not left or time.monotonic() >= deadline_s:
                return left
            await asyncio.sleep(REVOCATION_POLL_S)

    async def remove_data_plane(
        self,
        data_plane: str,
        *,
        force: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RemoveDataPlaneResponse:
        """Forget a data plane. It comes back when it connects with a valid credential.

        Args:
            force: Remove it even if it is connected. Its stream ends.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: No data plane of that id has ever connected, or it was removed.
            FailedPrecondition: It is connected, and `force` is not given.
        """
        request = pb.RemoveDataPlaneRequest(
            name=data_plane_resource(data_plane), force=force, validate_only=validate_only, request_id=request_id
        )
        return await self._call(self._fleet.RemoveDataPlane, request, timeout_s)

    async def enroll_data_plane(
        self,
        data_plane: str,
        *,
        ttl_s: float = 3600.0,
        renew: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> EnrollDataPlaneResponse:
        """Make a token by which a data plane gets its credential, once. Only this response has it.

        A token that was made before for this data plane, and waits, is void.

        Args:
            data_plane: Its id, or `dataPlanes/ID`. It need not have connected before.
            ttl_s: How long the token can be used, in seconds; 60 to 604800.
            renew: Also if it is enrolled. Its credential counts until the token is used.
            validate_only: Check everything, make no token, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer, without the token.
                Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            AlreadyExists: It is enrolled, and `renew` is not given.
            InvalidArgument: `ttl_s` is too short or too long.
            ResourceExhausted: Too many data planes are enrolled.
            DataLoss: The token was made, but the response with it was lost: make another.
        """
        request = enrollment_pb2.EnrollDataPlaneRequest(
            name=data_plane_resource(data_plane),
            ttl=duration(ttl_s),
            renew=renew,
            validate_only=validate_only,
            request_id=request_id,
        )
        return with_token(request, await self._call(self._fleet.EnrollDataPlane, request, timeout_s))
