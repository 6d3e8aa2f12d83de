"""The gRPC port of the control plane. Its neighbour has a token; attackers have none."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.hostile.grpc_attacks import GRPC
from tests.hostile.measuring import Listener, assert_withstands
from tests.hostile.neighbour import Neighbour

pytestmark = [pytest.mark.e2e]


@pytest.mark.parametrize("attack", GRPC)
async def test_withstands_callers_without_a_token(
    listeners: Mapping[str, Listener], neighbour: Neighbour, attack: str
) -> None:
    await assert_withstands(listeners["control plane"], neighbour, GRPC[attack])
