"""Waves: how snapshots reach the data planes, and how far the newest one is."""

from __future__ import annotations

from collections.abc import Mapping

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.fields import message_or_none
from broadsheet.types import FleetPolicy, FleetRollout
from broadsheet.v1 import waves_pb2 as pb


class AsyncWaves(AsyncConnection):
    """The RPCs on the policy and the rollout of the fleet."""

    async def get_fleet_policy(self, *, timeout_s: float | None = None) -> FleetPolicy:
        """Get the policy by which snapshots reach the data planes. Without waves, there is none."""
        return (await self._call(self._fleet.GetFleetPolicy, pb.GetFleetPolicyRequest(), timeout_s)).policy

    async def set_fleet_policy(
        self,
        policy: FleetPolicy | Mapping[str, object],
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> FleetPolicy:
        """Set this policy, for the snapshots that are committed from then on.

        Args:
            policy: The whole policy; a mapping as in a YAML file. Without waves, every data plane
                gets each snapshot at once.
            etag: Etag of the policy as read. The call fails if it has changed since.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidArgument: A wave before the last one selects everyone else.
            Aborted: `etag` is stale.
        """
        message = message_or_none(policy, FleetPolicy(), "policy")
        request = pb.SetFleetPolicyRequest(
            policy=message, etag=etag, validate_only=validate_only, request_id=request_id
        )
        return (await self._call(self._fleet.SetFleetPolicy, request, timeout_s)).policy

    async def get_fleet_rollout(self, *, timeout_s: float | None = None) -> FleetRollout:
        """Get how far the rollout of a snapshot to the data planes is."""
        return (await self._call(self._fleet.GetFleetRollout, pb.GetFleetRolloutRequest(), timeout_s)).rollout

    async def halt_fleet_rollout(
        self,
        reason: str = "",
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> FleetRollout:
        """Halt the rollout that is under way: no further data plane gets its snapshot.

        Args:
            reason: Why, for people to read.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            FailedPrecondition: None is under way, or it is halted.
        """
        request = pb.HaltFleetRolloutRequest(reason=reason, validate_only=validate_only, request_id=request_id)
        return (await self._call(self._fleet.HaltFleetRollout, request, timeout_s)).rollout

    async def resume_fleet_rollout(
        self,
        *,
        newest: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> FleetRollout:
        """Go on with a rollout that is halted, without the data planes that were hurt.

        Args:
            newest: Begin at the first wave again, with the newest snapshot. The data planes that
                were hurt get it first.
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            FailedPrecondition: It is not halted.
        """
        request = pb.ResumeFleetRolloutRequest(newest=newest, validate_only=validate_only, request_id=request_id)
        return (await self._call(self._fleet.ResumeFleetRollout, request, timeout_s)).rollout

    async def force_fleet_rollout(
        self, *, validate_only: bool = False, request_id: str = "", timeout_s: float | None = None
    ) -> FleetRollout:
        """Send the newest snapshot to every data plane at once, and end the rollout.

        Args:
            validate_only: Check everything, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.
        """
        request = pb.ForceFleetRolloutRequest(validate_only=validate_only, request_id=request_id)
        return (await self._call(self._fleet.ForceFleetRollout, request, timeout_s)).rollout
