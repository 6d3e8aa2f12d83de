"""Which data planes a caller may speak for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from controlplane import errors, settings
from controlplane.access import setup
from controlplane.access.enrolled import EnrolledDataPlanes
from controlplane.access.identities import DataPlaneIdentities
from controlplane.access.permissions import Role
from controlplane.catalog.data_planes.enrollment import EnrollmentReading
from controlplane.catalog.domain import Identity
from controlplane.principal import Principal

BOUND = Principal(name="gpu-1", role=Role.DATA_PLANE, authentication="token", data_plane="gpu-1")
UNBOUND = Principal(name="any", role=Role.DATA_PLANE, authentication="token")
LOCAL = Principal(name="local-data-plane", role=Role.DATA_PLANE, authentication="token", is_local=True)


class Nobody:
    """A store without enrolments."""

    async def changes(self) -> int:
        return 0

    async def since(self, changes: int) -> EnrollmentReading:
        return EnrollmentReading(changes=0, count=0, changed=())


def enrolled_data_planes() -> EnrolledDataPlanes:
    return EnrolledDataPlanes(Nobody(), clock=lambda: 0.0)


class Call:
    """What the authenticator reads of a call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)


def refused(identities: DataPlaneIdentities, caller: Principal, data_plane_id: str) -> errors.Reason:
    with pytest.raises(errors.PermissionDenied) as caught:
        identities.identify(caller, data_plane_id)
    return caught.value.reason


def test_a_credential_with_a_data_plane_is_for_this_one_only() -> None:
    identities = DataPlaneIdentities([], allows_unbound=True)
    assert identities.identify(BOUND, "gpu-1") is Identity.BOUND
    assert refused(identities, BOUND, "gpu-2") is errors.Reason.DATA_PLANE_MISMATCH


@pytest.mark.parametrize("caller", [UNBOUND, LOCAL])
def test_a_data_plane_with_a_credential_of_its_own_is_for_no_other(caller: Principal) -> None:
    identities = DataPlaneIdentities([frozenset, lambda: {"gpu-1"}], allows_unbound=True)
    assert refused(identities, caller, "gpu-1") is errors.Reason.DATA_PLANE_BOUND
    assert identities.identify(UNBOUND, "gpu-2") is Identity.SHARED
    assert identities.identify(LOCAL, "gpu-2") is Identity.LOCAL


def test_credentials_without_a_data_plane_can_be_refused() -> None:
    identities = DataPlaneIdentities([], allows_unbound=False)
    assert refused(identities, UNBOUND, "gpu-1") is errors.Reason.DATA_PLANE_UNBOUND
    assert identities.identify(BOUND, "gpu-1") is Identity.BOUND


@pytest.mark.parametrize(
    ("flags", "accepted", "identity"),
    [
        (["--listen", "127.0.0.1:0"], True, Identity.LOCAL),
        (["--listen", "unix:/run/broadsheet.sock"], True, Identity.LOCAL),
        (["--listen", "0.0.0.0:0", "--insecure"], False, Identity.SHARED),
        (["--listen", "0.0.0.0:0", "--insecure", "--allow-unbound-data-planes"], True, Identity.SHARED),
    ],
)
async def test_the_generated_token_is_for_this_machine(
    tmp_path: Path, flags: list[str], accepted: bool, identity: Identity
) -> None:
    loaded = settings.load([*flags, "--data-dir", str(tmp_path)])
    access = setup.configured(loaded, enrolled_data_planes(), now=lambda: pytest.fail("no token expires"))
    assert access.generated is not None
    caller = await access.authenticator.admit(
        "/broadsheet.v1.SnapshotService/Sync", cast(Any, Call((tmp_path / "data-plane_token").read_text().strip()))
    )
    if accepted:
        assert access.identities.identify(caller, "local") is identity
    else:
        assert refused(access.identities, caller, "local") is errors.Reason.DATA_PLANE_UNBOUND


def test_a_certificate_takes_its_data_plane_from_tokens_without_one(tmp_path: Path) -> None:
    tls = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"]
    roles = ["--certificate-roles", "gpu-1.example.org=data-plane:gpu-1"]
    loaded = settings.load([*tls, *roles, "--data-dir", str(tmp_path)])
    access = setup.configured(loaded, enrolled_data_planes(), now=lambda: pytest.fail("no token expires"))
    assert refused(access.identities, UNBOUND, "gpu-1") is errors.Reason.DATA_PLANE_BOUND
    holder = loaded.certificate_principals["gpu-1.example.org"]
    assert access.identities.identify(holder, "gpu-1") is Identity.BOUND
