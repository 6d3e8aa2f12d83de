"""Which revision of a model serves, and when: rollback, rollout, warming."""

from __future__ import annotations

from typing import Literal

from broadsheet._connection.asynchronous import AsyncConnection
from broadsheet._requests.fields import duration
from broadsheet._requests.names import model_resource
from broadsheet.types import ControlRolloutResponse, RollbackModelResponse, WarmModelResponse
from broadsheet.v1.registry_service_pb2 import RollbackModelRequest
from broadsheet.v1.rollout_pb2 import ControlRolloutRequest
from broadsheet.v1.warming_pb2 import WarmModelRequest


class AsyncRollouts(AsyncConnection):
    """The RPCs on what serves of a model."""

    async def rollback_model(
        self,
        model: str,
        revision_number: int,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> RollbackModelResponse:
        """Make a new revision with the spec and card of an earlier one.

        The served name and the labels stay as they are.

        Args:
            revision_number: Number of the earlier revision.
            etag: Etag of the model as read. The call fails if the model has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such model, or it has no such revision.
            FailedPrecondition: An adapter of the model does not fit the earlier spec.
            Aborted: `etag` is stale.
        """
        request = RollbackModelRequest(
            name=model_resource(model),
            revision_number=revision_number,
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.RollbackModel, request, timeout_s)

    async def control_rollout(
        self,
        model: str,
        action: Literal["PAUSE", "RESUME", "ABORT"],
        *,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> ControlRolloutResponse:
        """Pause, resume or abort the rollout of a model's newest revision.

        Args:
            action: PAUSE: stay at the current step. RESUME: continue. ABORT: send all requests to
                the previous revision.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            NotFound: There is no such model.
            FailedPrecondition: It has no rollout in progress, or the rollout is already paused or
                running.
        """
        request = ControlRolloutRequest(
            name=model_resource(model),
            action=ControlRolloutRequest.Action.Value(f"ACTION_{action}"),
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.ControlRollout, request, timeout_s)

    async def warm_model(
        self,
        model: str,
        *,
        duration_s: float = 600.0,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> WarmModelResponse:
        """Start a model on every data plane before the first request, and keep it for a while.

        Afterwards it becomes idle like any other model. No model revision is made.
        `wait_until_serving` with `require_ready` waits until every data plane has started it.

        Args:
            duration_s: How long from now on, in seconds: 1 s to 7 days. Replaces an earlier
                duration. 0: stop warming.
            etag: Etag of the model as read. The call fails if the model has changed since.
            validate_only: Check everything, answer as if it were done, and write nothing.
            request_id: UUID4 of the request; a repeat returns the first answer. Default: fresh.
            timeout_s: Deadline in seconds. None: that of the client.

        Raises:
            InvalidArgument: `duration_s` is neither 0 nor in that range.
            NotFound: There is no such model.
            Aborted: `etag` is stale.
        """
        request = WarmModelRequest(
            name=model_resource(model),
            duration=duration(duration_s),
            etag=etag,
            validate_only=validate_only,
            request_id=request_id,
        )
        return await self._call(self._registry.WarmModel, request, timeout_s)
