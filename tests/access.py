"""A control plane that lets everybody do everything, for tests that are about something else."""

from __future__ import annotations

from typing import Any

import grpc.aio

from controlplane.access.permissions import Role
from controlplane.principal import Principal

TESTER = Principal(name="tester", role=Role.ADMIN, authentication="none")


async def everybody_is_admin(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
    """For `Server`'s `admit`."""
    return TESTER
