"""The ingress's HTTP port. Its neighbour has a key, and asks the model over the same port."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.hostile.http_attacks import WITH_KEY, WITHOUT_KEY
from tests.hostile.measuring import Listener, assert_withstands
from tests.hostile.neighbour import Neighbour

pytestmark = [pytest.mark.e2e]


@pytest.mark.parametrize("attack", WITHOUT_KEY)
async def test_withstands_callers_without_a_key(
    listeners: Mapping[str, Listener], neighbour: Neighbour, attack: str
) -> None:
    await assert_withstands(listeners["ingress"], neighbour, WITHOUT_KEY[attack])


@pytest.mark.parametrize("attack", WITH_KEY)
async def test_withstands_a_caller_with_a_key(
    listeners: Mapping[str, Listener], neighbour: Neighbour, attack: str
) -> None:
    await assert_withstands(listeners["ingress"], neighbour, WITH_KEY[attack])
