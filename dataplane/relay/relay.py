"""The relay: one small Ray actor through which the agent, the ingress replicas and the engine
replicas tell each other what they have.

It is a versioned map with long polls, and knows nothing of models. It is apart from the agent so
that the agent may
crash: an ingress replica that starts meanwhile still finds the last snapshot here, and a new agent
the applications of the old one. A relay that crashed comes back empty with another `epoch`;
everyone then puts their keys again.

Keys (each has one writer):

    snapshot                           agent     SerializedSnapshot
    activation                         agent     Activation
    application/{application}          agent     ApplicationRecord
    adapters/{application}             agent     LiveAdapters
    wake/{model}                       ingress   float, seconds since the epoch
    ingress/{replica}                  ingress   IngressReport
    limits/{replica}                   ingress   dict, requests and tokens by uid of the API key
    engine/{application}/{replica}     engine    EngineReport
    failure/{application}/{replica}    engine    StartFailure
    placed/{application}               engine    float, when a replica of it first began to start
    rest/{application}                 agent     SleepOrder
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.actor
import structlog

RELAY_ACTOR_NAME = "broadsheet-relay"
RAY_NAMESPACE = "broadsheet"

POLL_TIMEOUT_S = 20.0
"""A long poll answers after this long at the latest, so that a dead poller's call does not stay."""

_RETRY_S = 0.5
"""Between tries while the relay actor is being restarted."""

_log = structlog.get_logger("dataplane.relay.relay")


@dataclass(frozen=True, slots=True)
class Changes:
    """What a long poll found."""

    epoch: str
    """Another one than before: the relay has forgotten everything."""
    sequence: int
    """To poll from next."""
    changed: Mapping[str, Any]
    """Values put since, by key."""
    live: frozenset[str]
    """All keys that there are now under the prefixes; one that is missing was removed."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class RelayActor:
    """The actor. Its methods are only called through `Relay`."""

    def __init__(self) -> None:
        self._epoch = uuid.uuid4().hex
        self._sequence = 0
        self._values: dict[str, tuple[int, Any]] = {}
        # Bumped too, so that a poll notices a key that went: sequence of the last removal.
        self._changed = asyncio.Condition()

    async def put(self, values: dict[str, Any], removed: Sequence[str]) -> str:
        async with self._changed:
            self._sequence += 1
            for key, value in values.items():
                self._values[key] = (self._sequence, value)
            for key in removed:
                self._values.pop(key, None)
            self._changed.notify_all()
        return self._epoch

    async def poll(self, prefixes: Sequence[str], epoch: str, known: int, live: frozenset[str]) -> Changes:
        """Wait until something under `prefixes` differs from what the caller knows.

        Who knows nothing of this epoch is told at once, also that there is nothing.
        """
        if epoch != self._epoch:
            known = 0
        else:
            try:
                async with asyncio.timeout(POLL_TIMEOUT_S), self._changed:
                    await self._changed.wait_for(lambda: self._differs(prefixes, known, live))
            except TimeoutError:
                pass
        keys = self._keys(prefixes)
        changed = {key: self._values[key][1] for key in keys if self._values[key][0] > known}
        return Changes(epoch=self._epoch, sequence=self._sequence, changed=changed, live=frozenset(keys))

    def _keys(self, prefixes: Sequence[str]) -> list[str]:
        return [key for key in self._values if key.startswith(tuple(prefixes))]

    def _differs(self, prefixes: Sequence[str], known: int, live: frozenset[str]) -> bool:
        keys = self._keys(prefixes)
        return any(self._values[key][0] > known for key in keys) or len(keys) != len(live) or set(keys) != live


class Relay:
    """The relay as its users see it: put keys, watch prefixes. One per process that uses it."""

    def __init__(self) -> None:
        self._actor: ray.actor.ActorHandle[Any] | None = None
        self._own: dict[str, Any] = {}
        self._epoch = ""

    async def put(self, values: Mapping[str, Any], *, removed: Sequence[str] = ()) -> None:
        """Put and remove keys. They are put again by themselves when the relay has lost them."""
        self._own.update(values)
        for key in removed:
            self._own.pop(key, None)
        await self._put(dict(values), removed)

    async def put_once(self, values: Mapping[str, Any], *, removed: Sequence[str] = ()) -> None:
        """Put keys that are not worth putting again when the relay loses them."""
        await self._put(dict(values), removed)

    async def _put(self, values: dict[str, Any], removed: Sequence[str]) -> None:
        epoch = await self._call("put", values, list(removed))
        if epoch != self._epoch:
            first = not self._epoch
            self._epoch = epoch
            if not first and self._own:
                await self._call("put", dict(self._own), [])

    async def watch(self, prefixes: Sequence[str], known: Changes | None) -> Changes:
        """What changed under `prefixes` since `known`; waits until something did, or 20 s.

        `known` None: all that there is, at once.
        """
        epoch, sequence, live = (known.epoch, known.sequence, known.live) if known else ("", 0, frozenset[str]())
        changes: Changes = await self._call("poll", list(prefixes), epoch, sequence, live)
        if self._epoch and changes.epoch != self._epoch:
            await self._put({}, ())
        return changes

    async def _call(self, method: str, *arguments: Any) -> Any:
        while True:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(open_relay)
                return await getattr(self._actor, method).remote(*arguments)
            except ray.exceptions.RayActorError as error:
                _log.warning("relay_unavailable", method=method, error=str(error))
                self._actor = None
                await asyncio.sleep(_RETRY_S)


def open_relay() -> ray.actor.ActorHandle[Any]:
    """The cluster's relay, made if there is none. Blocks."""
    handle: ray.actor.ActorHandle[Any] = RelayActor.options(  # type: ignore[attr-defined]  # added by ray.remote
        name=RELAY_ACTOR_NAME, namespace=RAY_NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote()
    return handle
