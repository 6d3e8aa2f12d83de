"""Enrolment: how a data plane exchanges a token, once, for a credential of its own. Pure.

The data plane makes its credential itself, and keeps it before it redeems the token. So an answer
that is lost costs nothing: the same exchange, repeated, succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from controlplane import errors
from controlplane.errors import Reason
from protocol import names

TTL_DEFAULT = timedelta(hours=1)

ENROLLMENTS_MAX = 10_000
"""Data planes with a token that waits, or a credential: as many as a control plane knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """What is stored of the enrolment of a data plane. The secrets themselves are not."""

    data_plane_id: str
    token_hash: bytes = field(repr=False)
    """`protocol.enrollment.token_hash` of the newest token, 32 bytes."""
    token_expire_time: datetime
    token_spend_time: datetime | None = None
    """When it was redeemed. None: it waits, unless it has expired."""
    credential_hash: bytes | None = field(default=None, repr=False)
    """`protocol.enrollment.credential_hash` of the credential that counts. None: there is none."""
    enroll_time: datetime | None = None
    """When that credential came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentReading:
    """What the database has about enrolments, as of one moment."""

    changes: int
    """How many changes there were so far."""
    count: int
    """How many enrolments there are."""
    changed: Sequence[Enrollment]
    """Those that have changed since the last reading."""


def issued(
    current: Enrollment | None, data_plane_id: str, token_hash: bytes, *, ttl: timedelta, renew: bool, now: datetime
) -> Enrollment:
    """The enrolment with a new token. The credential counts until the token is redeemed.

    Args:
        current: The enrolment as it is.
        data_plane_id: Whose it is.
        token_hash: Of the new token.
        ttl: How long the token can be redeemed.
        renew: Whether the data plane may have a credential already.
        now: The time.

    Raises:
        errors.AlreadyExists: It has one.
    """
    name = names.data_plane_name(data_plane_id)
    if current is None:
        return Enrollment(data_plane_id=data_plane_id, token_hash=token_hash, token_expire_time=now + ttl)
    if current.enroll_time is not None and not renew:
        since = current.enroll_time.isoformat(timespec="seconds")
        raise errors.AlreadyExists(
            Reason.ALREADY_ENROLLED,
            f"{name} is enrolled since {since}; give renew to replace its credential",
            metadata={"resource": name, "enrollTime": since},
        )
    return replace(current, token_hash=token_hash, token_expire_time=now + ttl, token_spend_time=None)


def redeemed(current: Enrollment | None, data_plane_id: str, credential_hash: bytes, *, now: datetime) -> Enrollment:
    """The enrolment after its token was redeemed. `current` itself if the exchange is a repeat.

    Args:
        current: The enrolment that has the token that was shown; None: none has.
        data_plane_id: Whom the caller says to be.
        credential_hash: Of the caller's credential.
        now: The time.

    Raises:
        errors.Unauthenticated: The token is unknown, or has expired.
        errors.PermissionDenied: It is for another data plane.
        errors.FailedPrecondition: It is spent.
    """
    if current is None:
        raise errors.Unauthenticated(
            Reason.ENROLLMENT_TOKEN_INVALID,
            "the control plane does not know this enrolment token; is it complete, and the newest of this data plane?",
        )
    name = names.data_plane_name(data_plane_id)
    if current.data_plane_id != data_plane_id:
        meant = names.data_plane_name(current.data_plane_id)
        raise errors.PermissionDenied(
            Reason.ENROLLMENT_TOKEN_MISMATCH,
            f"this enrolment token is for {meant}, and this is {name}",
            metadata={"resource": name, "dataPlane": meant},
        )
    again = f"make a new one: broadsheet fleet enroll {data_plane_id}"
    if current.token_spend_time is not None:
        if current.credential_hash == credential_hash:
            return current
        spent = current.token_spend_time.isoformat(timespec="seconds")
        raise errors.FailedPrecondition(
            Reason.ENROLLMENT_TOKEN_SPENT,
            f"the enrolment token of {name} was spent at {spent}, for a credential that this data plane does not have; "
            f"if its data directory was lost, {again} --renew",
            metadata={"resource": name, "spendTime": spent},
        )
    if now >= current.token_expire_time:
        expired = current.token_expire_time.isoformat(timespec="seconds")
        raise errors.Unauthenticated(
            Reason.ENROLLMENT_TOKEN_EXPIRED,
            f"the enrolment token of {name} expired at {expired}; {again}",
            metadata={"resource": name, "expireTime": expired},
        )
    return replace(current, token_spend_time=now, credential_hash=credential_hash, enroll_time=now)


def check_count(count: int) -> None:
    """Check that there is room for another enrolment.

    Raises:
        errors.ResourceExhausted: There is none.
    """
    if count >= ENROLLMENTS_MAX:
        raise errors.ResourceExhausted(
            Reason.TOO_MANY_DATA_PLANES,
            f"{count} data planes are enrolled or have a token that waits, and no more are; to remove one that is "
            "gone: broadsheet fleet remove DATA_PLANE",
        )
