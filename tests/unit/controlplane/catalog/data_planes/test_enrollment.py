"""An enrolment token is exchanged once, for the right data plane, in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controlplane import errors
from controlplane.catalog.data_planes import enrollment
from controlplane.catalog.data_planes.enrollment import Enrollment
from controlplane.errors import Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOKEN, MINE, OTHERS = b"t" * 32, b"m" * 32, b"o" * 32


def issued(current: Enrollment | None = None, *, renew: bool = False, token: bytes = TOKEN) -> Enrollment:
    return enrollment.issued(current, "gpu-1", token, ttl=HOUR, renew=renew, now=NOW)


def refusal(current: Enrollment | None, *, data_plane_id: str = "gpu-1", now: datetime = NOW) -> tuple[Reason, str]:
    with pytest.raises(errors.DomainError) as caught:
        enrollment.redeemed(current, data_plane_id, OTHERS, now=now)
    return caught.value.reason, caught.value.message


def test_a_token_is_exchanged_for_the_credential_of_whoever_redeems_it() -> None:
    enrolled = enrollment.redeemed(issued(), "gpu-1", MINE, now=NOW)
    assert (enrolled.credential_hash, enrolled.enroll_time, enrolled.token_spend_time) == (MINE, NOW, NOW)


def test_a_spent_token_buys_nothing_else_and_a_repeat_changes_nothing() -> None:
    enrolled = enrollment.redeemed(issued(), "gpu-1", MINE, now=NOW)
    assert enrollment.redeemed(enrolled, "gpu-1", MINE, now=NOW + 100 * HOUR) is enrolled, "its answer was lost"
    reason, message = refusal(enrolled)
    assert reason is Reason.ENROLLMENT_TOKEN_SPENT
    assert "broadsheet fleet enroll gpu-1 --renew" in message
    assert "data directory was lost" in message


def test_a_token_expires() -> None:
    in_time = enrollment.redeemed(issued(), "gpu-1", MINE, now=NOW + HOUR - timedelta(seconds=1))
    assert in_time.credential_hash == MINE
    reason, message = refusal(issued(), now=NOW + HOUR)
    assert reason is Reason.ENROLLMENT_TOKEN_EXPIRED
    assert "2026-01-01T01:00:00+00:00" in message


def test_a_token_is_for_one_data_plane() -> None:
    reason, message = refusal(issued(), data_plane_id="gpu-2")
    assert reason is Reason.ENROLLMENT_TOKEN_MISMATCH
    assert "for dataPlanes/gpu-1, and this is dataPlanes/gpu-2" in message


def test_a_wrong_token_learns_nothing() -> None:
    reason, message = refusal(None)
    assert reason is Reason.ENROLLMENT_TOKEN_INVALID
    assert "gpu-1" not in message


def test_an_enrolled_data_plane_gets_a_new_token_only_to_renew() -> None:
    enrolled = enrollment.redeemed(issued(), "gpu-1", MINE, now=NOW)
    with pytest.raises(errors.AlreadyExists) as caught:
        issued(enrolled)
    assert caught.value.reason is Reason.ALREADY_ENROLLED
    renewing = issued(enrolled, renew=True, token=b"n" * 32)
    assert renewing.credential_hash == MINE, "it counts until the new token is redeemed"
    renewed = enrollment.redeemed(renewing, "gpu-1", OTHERS, now=NOW + timedelta(minutes=1))
    assert (renewed.credential_hash, renewed.enroll_time) == (OTHERS, NOW + timedelta(minutes=1))


def test_the_credential_that_a_data_plane_has_does_not_redeem_the_token_that_renews_it() -> None:
    """Otherwise the token would wait for somebody else."""
    renewing = issued(enrollment.redeemed(issued(), "gpu-1", MINE, now=NOW), renew=True)
    assert enrollment.redeemed(renewing, "gpu-1", MINE, now=NOW).token_spend_time == NOW


def test_a_token_that_was_not_redeemed_is_replaced() -> None:
    first = issued()
    assert issued(first, token=b"n" * 32) == replace(first, token_hash=b"n" * 32)


def test_enrolments_are_bounded() -> None:
    enrollment.check_count(enrollment.ENROLLMENTS_MAX - 1)
    with pytest.raises(errors.ResourceExhausted, match="fleet remove"):
        enrollment.check_count(enrollment.ENROLLMENTS_MAX)
