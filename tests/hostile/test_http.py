from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.hostile.http_attacks import HEADS
from tests.hostile.measuring import Listener, assert_withstands
from tests.hostile.neighbour import Neighbour

pytestmark = [pytest.mark.e2e]


@pytest.mark.parametrize("attack", HEADS)
@pytest.mark.parametrize("name", ["ingress", "engine"])
async def test_withstands(listeners: Mapping[str, Listener], neighbour: Neighbour, name: str, attack: str) -> None:
    await assert_withstands(listeners[name], neighbour, HEADS[attack])
