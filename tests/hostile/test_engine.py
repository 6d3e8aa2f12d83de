"""An engine's HTTP port. Attackers lack its secret; the neighbour asks through the ingress."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.hostile.http_attacks import WITHOUT_KEY
from tests.hostile.measuring import Listener, assert_withstands
from tests.hostile.neighbour import Neighbour

pytestmark = [pytest.mark.e2e]

ATTACKS = (
    "silent connections",
    "unfinished heads",
    "endless header value",
    "endless body",
    "pipelined requests",
    "malformed heads",
)
"""It has the ingress's HTTP protocol, so the others are left to the ingress."""


@pytest.mark.parametrize("attack", ATTACKS)
async def test_withstands_callers_without_its_secret(
    listeners: Mapping[str, Listener], neighbour: Neighbour, attack: str
) -> None:
    await assert_withstands(listeners["engine"], neighbour, WITHOUT_KEY[attack])
