"""A data plane enrols at a real control plane, and follows it with the credential that it keeps."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broadsheet import AsyncClient
from controlplane.access.permissions import Role
from controlplane.principal import Principal
from controlplane.rpc.tls import server_credentials
from dataplane.settings import Settings, SettingsError, parse
from dataplane.sync.channel import channel_for
from dataplane.sync.client import SyncClient
from dataplane.sync.enrollment.redeeming import metadata_of
from dataplane.sync.events import Identity
from protocol.transport.credentials import Credentials
from tests.certificates import Authority
from tests.raw import POLICY
from tests.stream.access_world import TOKENS, Plane, guarded_plane
from tests.stream.sync_world import TIMING, DataPlane


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with guarded_plane(tmp_path) as running:
        yield running


def admin(plane: Plane, **more: Any) -> AsyncClient:
    return AsyncClient(plane.address, credentials=Credentials(token=TOKENS[Role.ADMIN], **more))


def settings(plane: Plane, directory: Path, token: str, *flags: str, data_plane_id: str = "gpu-1") -> Settings:
    """The settings of a data plane that has been given an enrolment token."""
    file = directory / "enrollment.token"
    file.write_text(token)
    return parse(
        [
            *("--controlplane", plane.address, "--data-plane-id", data_plane_id),
            *("--data-dir", str(directory / data_plane_id), "--enrollment-token-file", str(file)),
            *flags,
        ]
    )


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[DataPlane]:
    """A data plane with these settings, as its agent runs it."""
    data_plane = DataPlane()
    client = SyncClient(
        settings.controlplane,
        identity=Identity(data_plane=settings.data_plane_id, instance_uid="1", software_version="9.9"),
        policy=POLICY,
        handlers=data_plane,
        serving=None,
        open_channel=functools.partial(channel_for, settings.credentials),
        metadata=metadata_of(settings),
        timing=TIMING,
    )
    task = asyncio.create_task(client.run())
    try:
        yield data_plane
    finally:
        task.cancel()
        await asyncio.wait([task])


async def refused(data_plane: DataPlane, words: str) -> str:
    """Wait until a stream has ended with these words; the whole error.

    Of a stream that is refused while it is written to, grpc.aio sometimes tells `INTERNAL`.
    """
    await data_plane.until(lambda: any(words in item.last_error for item in data_plane.connections))
    return next(item.last_error for item in data_plane.connections if words in item.last_error)


async def test_an_enrolled_data_plane_follows_the_catalog_and_votes(plane: Plane, tmp_path: Path) -> None:
    async with admin(plane) as client:
        made = await client.enroll_data_plane("gpu-1")
        given = settings(plane, tmp_path, made.enrollment_token)
        async with connected(given) as data_plane:
            await data_plane.active(0)
        async with connected(given) as again:
            await again.active(0)
            shown = await client.get_data_plane("gpu-1")
        assert shown.identity == shown.IDENTITY_BOUND
        assert shown.votes
        assert shown.enrollment.HasField("enroll_time")


async def test_a_removed_data_plane_is_cut_off_and_learns_what_to_do(plane: Plane, tmp_path: Path) -> None:
    async with admin(plane) as client:
        made = await client.enroll_data_plane("gpu-1")
        async with connected(settings(plane, tmp_path, made.enrollment_token)) as data_plane:
            await data_plane.active(0)
            await client.remove_data_plane("gpu-1", force=True)
            await data_plane.until(lambda: not data_plane.connections[-1].connected)
            assert data_plane.connections[-1].last_error == "GOODBYE: REMOVED"
        async with connected(settings(plane, tmp_path, made.enrollment_token)) as returned:
            error = await refused(returned, "UNAUTHENTICATED: this credential was withdrawn")
    assert "broadsheet fleet enroll DATA_PLANE --renew" in error


async def test_a_renewed_credential_ends_the_stream_of_the_one_before(plane: Plane, tmp_path: Path) -> None:
    async with admin(plane) as client:
        first = await client.enroll_data_plane("gpu-1")
        old = settings(plane, tmp_path, first.enrollment_token)
        async with connected(old) as data_plane:
            await data_plane.active(0)
            second = await client.enroll_data_plane("gpu-1", renew=True)
            thief = settings(plane, tmp_path, second.enrollment_token)
            elsewhere = thief.model_copy(update={"data_dir": tmp_path / "elsewhere"})
            await metadata_of(elsewhere)()
            await data_plane.until(lambda: not data_plane.connections[-1].connected)
            assert data_plane.connections[-1].last_error == "GOODBYE: CREDENTIAL_WITHDRAWN"


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("made up", "UNAUTHENTICATED: the control plane does not know this enrolment token"),
        (
            "for another",
            "PERMISSION_DENIED: this enrolment token is for dataPlanes/gpu-2, and this is",
        ),
        ("spent", "FAILED_PRECONDITION: the enrolment token of dataPlanes/gpu-1 was spent"),
    ],
)
async def test_a_token_that_is_refused_says_why(plane: Plane, tmp_path: Path, use: str, words: str) -> None:
    async with admin(plane) as client:
        token = "bs-enroll-made-up"
        if use != "made up":
            made = await client.enroll_data_plane("gpu-2" if use == "for another" else "gpu-1")
            token = made.enrollment_token
        if use == "spent":
            elsewhere = settings(plane, tmp_path, token).model_copy(update={"data_dir": tmp_path / "elsewhere"})
            await metadata_of(elsewhere)()
        async with connected(settings(plane, tmp_path, token)) as data_plane:
            await refused(data_plane, f"CREDENTIALS: enrolment: {words}")


async def test_a_data_plane_waits_for_a_control_plane_that_is_away(tmp_path: Path) -> None:
    async with guarded_plane(tmp_path) as plane, admin(plane) as client:
        made = await client.enroll_data_plane("gpu-1")
        given = settings(plane, tmp_path, made.enrollment_token)
    async with connected(given) as data_plane:
        await refused(data_plane, "CREDENTIALS: enrolment: UNAVAILABLE")


async def test_enrolment_goes_over_tls_and_not_to_another_machine_without(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue()
    async with guarded_plane(tmp_path, tls=server_credentials(files.cert, files.key, None)) as plane:
        async with admin(plane, tls_ca=authority.file) as client:
            made = await client.enroll_data_plane("gpu-1")
        with_ca = settings(plane, tmp_path, made.enrollment_token, "--controlplane-tls-ca", str(authority.file))
        async with connected(with_ca) as data_plane:
            await data_plane.active(0)
    elsewhere = with_ca.model_copy(update={"controlplane": "192.0.2.1:8300", "controlplane_tls_ca": None})
    assert elsewhere.credentials.uses_tls(elsewhere.controlplane)


async def test_a_certificate_that_is_bound_to_a_data_plane_needs_no_enrolment(
    tmp_path: Path, authority: Authority
) -> None:
    server = authority.issue()
    own = authority.issue("gpu-1.example.org")
    holder = Principal(name="gpu-1.example.org", role=Role.DATA_PLANE, authentication="mtls", data_plane="gpu-1")
    tls = server_credentials(server.cert, server.key, authority.file)
    async with guarded_plane(tmp_path, tls=tls, certificates={holder.name: holder}) as plane:
        flags = [
            *("--controlplane", plane.address, "--data-dir", str(tmp_path / "data"), "--data-plane-id", "gpu-1"),
            *("--controlplane-tls-ca", str(authority.file)),
            *("--controlplane-tls-cert", str(own.cert), "--controlplane-tls-key", str(own.key)),
        ]
        async with connected(parse(flags)) as data_plane:
            await data_plane.active(0)
        async with connected(parse([*flags, "--data-plane-id", "gpu-2"])) as other:
            await refused(other, "for the data plane gpu-1, not for gpu-2")


async def test_both_kinds_of_token_cannot_be_given(plane: Plane, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="enrollment-token-file stands in place of a controlplane-token"):
        settings(plane, tmp_path, "t", "--controlplane-token-file", "t")


async def test_an_enrolled_data_plane_is_spoken_for_by_no_other_token(plane: Plane, tmp_path: Path) -> None:
    async with admin(plane) as client:
        made = await client.enroll_data_plane("gpu-1")
        await metadata_of(settings(plane, tmp_path, made.enrollment_token))()
    shared = tmp_path / "shared.token"
    shared.write_text(TOKENS[Role.DATA_PLANE])
    flags = ["--controlplane", plane.address, "--data-plane-id", "gpu-1", "--controlplane-token-file", str(shared)]
    async with connected(parse([*flags, "--data-dir", str(tmp_path / "other")])) as other:
        await refused(other, "gpu-1 has a credential of its own")
