"""How long an application took to start from zero, for the status of its model. Pure."""

from __future__ import annotations

from datetime import timedelta

from broadsheet.v1 import status_pb2
from dataplane.agent.ledger.application import ApplicationState


def cold_start_of(state: ApplicationState) -> status_pb2.ColdStart | None:
    """How long the start took. None: it has not ended, or an earlier agent began it."""
    first = state.first_replica
    if state.deployed_at is None or state.ready_at is None or first is None:
        return None
    cold_start = status_pb2.ColdStart()
    cold_start.start.FromTimedelta(timedelta(seconds=state.ready_at - state.deployed_at))
    cold_start.engine_start.FromTimedelta(timedelta(seconds=first.engine_start_s))
    cold_start.ready_time.FromNanoseconds(int(state.ready_at * 1e9))
    if first.weights_s is not None:
        cold_start.weights_load.FromTimedelta(timedelta(seconds=first.weights_s))
    if state.first_token_s is not None:
        cold_start.first_token.FromTimedelta(timedelta(seconds=state.first_token_s))
    return cold_start
