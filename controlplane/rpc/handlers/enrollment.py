"""The RPCs by which data planes get their credentials."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

import structlog

from broadsheet.v1 import enrollment_pb2 as pb
from controlplane import principal
from controlplane.access.enrolled import EnrolledDataPlanes, enrolled_principal
from controlplane.catalog.convert import timestamp_to_proto
from controlplane.catalog.data_planes import enrollment
from controlplane.catalog.data_planes.enrollment import TTL_DEFAULT, Enrollment
from controlplane.errors import Reason, Unauthenticated
from controlplane.rpc.handlers import idempotency
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction
from protocol.enrollment import SECRET_BYTES, token_hash, token_of
from protocol.names import parse_data_plane

_log = structlog.get_logger("controlplane.rpc.enrollment")


def random_token() -> str:
    """A new enrolment token."""
    return token_of(secrets.token_urlsafe(SECRET_BYTES))


class EnrollmentHandler:
    """Makes enrolment tokens, and takes them back in exchange for a credential."""

    def __init__(
        self, store: Store, enrolled: EnrolledDataPlanes, *, new_token: Callable[[], str] = random_token
    ) -> None:
        """
        Args:
            store: Where enrolments are kept.
            enrolled: Learns of each change.
            new_token: Makes a token that nobody can guess.
        """
        self._store = store
        self._enrolled = enrolled
        self._new_token = new_token

    async def enroll_data_plane(self, request: pb.EnrollDataPlaneRequest) -> pb.EnrollDataPlaneResponse:
        data_plane_id = parse_data_plane(request.name)
        token = self._new_token()
        ttl = timedelta(seconds=request.ttl.seconds) if request.HasField("ttl") else TTL_DEFAULT

        async def work(transaction: WriteTransaction) -> pb.EnrollDataPlaneResponse:
            current = await transaction.enrollments.find(data_plane_id)
            if current is None:
                enrollment.check_count(await transaction.enrollments.count_all())
            after = enrollment.issued(
                current, data_plane_id, token_hash(token), ttl=ttl, renew=request.renew, now=transaction.stamp.now
            )
            await transaction.enrollments.put(after)
            return pb.EnrollDataPlaneResponse(
                name=request.name, enrollment_token=token, expire_time=timestamp_to_proto(after.token_expire_time)
            )

        answer = await idempotency.commit(
            self._store, request, pb.EnrollDataPlaneResponse, work, resource=request.name, kept=_without_token
        )
        await self._enrolled.changed()
        return _without_token(answer) if request.validate_only else answer

    async def redeem_enrollment(self, request: pb.RedeemEnrollmentRequest) -> pb.RedeemEnrollmentResponse:
        data_plane_id = parse_data_plane(request.name)
        # Refused without the database, whatever can be: the caller may be anybody.
        known = await self._enrolled.of_token(request.enrollment_token)
        found = enrollment.redeemed(known, data_plane_id, request.credential_hash, now=self._store.enrollments.now())
        if found is not known:
            with principal.acting_as(enrolled_principal(data_plane_id)):
                found = await self._redeem(data_plane_id, request)
            await self._enrolled.changed()
            _log.info("enrollment_redeemed", data_plane=data_plane_id)
        assert found.enroll_time is not None, "its token is redeemed"
        return pb.RedeemEnrollmentResponse(enroll_time=timestamp_to_proto(found.enroll_time))

    async def _redeem(self, data_plane_id: str, request: pb.RedeemEnrollmentRequest) -> Enrollment:
        shown = token_hash(request.enrollment_token)

        async def work(transaction: WriteTransaction) -> Enrollment:
            current = await transaction.enrollments.find(data_plane_id)
            # A newer token may have replaced it meanwhile.
            current = current if current is not None and current.token_hash == shown else None
            after = enrollment.redeemed(current, data_plane_id, request.credential_hash, now=transaction.stamp.now)
            if after is not current:
                if await transaction.enrollments.has_credential(request.credential_hash):
                    raise Unauthenticated(
                        Reason.ENROLLMENT_TOKEN_INVALID, "another data plane has this credential; make one of your own"
                    )
                await transaction.enrollments.put(after)
            return after

        return await self._store.write(work, method="RedeemEnrollment", resource=request.name)


def _without_token(answer: pb.EnrollDataPlaneResponse) -> pb.EnrollDataPlaneResponse:
    """The answer without the token, which is shown once and stored nowhere."""
    kept = pb.EnrollDataPlaneResponse()
    kept.CopyFrom(answer)
    kept.ClearField("enrollment_token")
    return kept
