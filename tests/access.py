"""Admits every call as an administrator, for tests that are not about access."""

from __future__ import annotations

from typing import Any

import grpc.aio

from controlplane.access.permissions import Role
from controlplane.principal import Principal

TESTER = Principal(name="tester", role=Role.ADMIN, authentication="none")


async def everybody_is_admin(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
    """The `admit` of a `Server`."""
    return TESTER
