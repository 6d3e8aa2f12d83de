from __future__ import annotations

import pytest

from controlplane.catalog.domain import Identity
from controlplane.errors import PermissionDenied, Reason
from tests.unit.controlplane.fleet_world import World


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_data_plane_that_had_a_credential_of_its_own_is_for_no_other(*, remembered: bool) -> None:
    """Also after a restart, and if no file lists the credential: a JWT does so itself."""
    world = World()
    await world.connect(identity=Identity.BOUND)
    await world.fleet.writer.flush()
    if not remembered:
        records = world.records
        world = World()
        world.records.records.update(records.records)
    for identity in (Identity.SHARED, Identity.LOCAL):
        with pytest.raises(PermissionDenied, match="broadsheet fleet remove dp") as caught:
            await world.connect(identity=identity)
        assert caught.value.reason is Reason.DATA_PLANE_BOUND
    await world.connect(identity=Identity.BOUND)


@pytest.mark.parametrize("first", [Identity.SHARED, Identity.LOCAL])
async def test_a_data_plane_without_a_credential_of_its_own_may_get_one(first: Identity) -> None:
    world = World()
    await world.connect(identity=first)
    await world.connect(identity=Identity.BOUND)
