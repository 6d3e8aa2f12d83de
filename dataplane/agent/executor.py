"""Carries out plans: calls Ray Serve, and writes each step to the ledger and the relay."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Iterable

import structlog

from dataplane.agent.desired import replica_bounds
from dataplane.agent.ledger.ledger import Ledger
from dataplane.agent.live_adapters import left_adapters, live_adapters
from dataplane.agent.reconciler.actions import Action, Delete, Deploy, Rescale, Sleep, Wake
from dataplane.agent.resources import resources_of
from dataplane.agent.serve_api import ServeApi
from dataplane.agent.steady_clock import Clock
from dataplane.relay.messages import ApplicationRecord, LiveAdapters
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.snapshot import Snapshot, model_of

DEPLOY_FAILED = "DEPLOY_FAILED"
"""Reason of an application that Ray Serve refused to deploy."""
_SECRET_BYTES = 32

_log = structlog.get_logger("dataplane.agent.executor")


class Executor:
    """Changes the applications. Its methods are called by one task, one after another."""

    def __init__(self, ledger: Ledger, relay: Relay, serve: ServeApi, *, clock: Clock) -> None:
        self._applications = ledger.applications
        self._relay = relay
        self._serve = serve
        self._clock = clock
        self._left: dict[str, frozenset[str]] = {}
        """By application: the adapters that its replicas were told have left the catalog."""

    async def carry_out(self, actions: Iterable[Action]) -> None:
        """Carry out the actions of a plan, in order."""
        for action in actions:
            # An application may go while an earlier action of the plan is carried out.
            if not isinstance(action, Deploy) and self._applications.state(action.application) is None:
                continue
            match action:
                case Deploy():
                    await self._deploy(action)
                case Rescale():
                    await self._rescale(action)
                case Delete():
                    await self._delete(action.application)
                case Sleep():
                    await self._order_sleep(action.application, asleep=True)
                case Wake():
                    await self._order_sleep(action.application, asleep=False)

    async def publish_adapters(self, snapshot: Snapshot) -> None:
        """Tell the replicas of each application which adapters are new, and which have left.

        They are told after each change of the catalog, and when they have reported another adapter
        that has left it.
        """
        revision = snapshot.position.revision
        outdated = self._applications.without_adapters_of(revision)
        engines = self._applications.engines(self._clock())
        told: dict[Key, LiveAdapters] = {}
        left: dict[str, frozenset[str]] = {}
        for name in sorted(self._applications.names()):
            state = self._applications.state(name)
            assert state is not None, "it has this name"
            model = state.record.model
            left[name] = left_adapters(snapshot, model, engines.get(name, {}).values())
            if name in outdated or left[name] != self._left.get(name, frozenset()):
                told[Key(Topic.ADAPTERS, name)] = live_adapters(snapshot, model, left[name])
        self._left = left
        if told:
            self._applications.adapters_published(outdated, revision)
            await self._relay.put(told)

    async def _deploy(self, action: Deploy) -> None:
        spec = action.entry.revision.spec
        record = ApplicationRecord(
            name=action.application,
            model=model_of(action.entry.name),
            revision_number=action.entry.revision.number,
            entry=action.entry.SerializeToString(deterministic=True),
            replica_bounds=replica_bounds(spec.scaling),
            secret=secrets.token_urlsafe(_SECRET_BYTES),
            created_at=self._clock(),  # not the time of the plan: the deployments of one plan take seconds each
            resources=resources_of(spec),
        )
        # The record comes before the application: if the agent dies between the two, the next one
        # finds a record without an application, and not an application without a record.
        self._applications.deployed(record)
        await self._relay.put({Key(Topic.APPLICATIONS, record.name): record})
        _log.info("deploying", application=record.name, model=record.model, revision=record.revision_number)
        try:
            await asyncio.to_thread(self._serve.deploy, record)
        except Exception as error:
            _log.exception("deploy_failed", application=record.name)
            message = f"Ray Serve refused it: {error}"
            self._applications.refused(record.name, reason=DEPLOY_FAILED, message=message, now=self._clock())
        else:
            self._applications.taken_on(record.name, self._clock())

    async def _rescale(self, action: Rescale) -> None:
        state = self._applications.state(action.application)
        assert state is not None, "looked up by carry_out"
        record = dataclasses.replace(
            state.record,
            revision_number=action.entry.revision.number,
            entry=action.entry.SerializeToString(deterministic=True),
            replica_bounds=replica_bounds(action.entry.revision.spec.scaling),
        )
        _log.info("rescaling", application=record.name, model=record.model, revision=record.revision_number)
        try:
            await asyncio.to_thread(self._serve.deploy, record)
        except Exception:
            _log.exception("rescale_failed", application=record.name)  # the next plan tries again
            return
        # The record comes after the call: if the agent dies between the two, the next one rescales
        # the application again.
        changed = self._applications.rescaled(record)
        if changed is not None:
            await self._relay.put({Key(Topic.APPLICATIONS, record.name): changed})

    async def _order_sleep(self, application: str, *, asleep: bool) -> None:
        order = self._applications.sleep_ordered(application, asleep=asleep)
        _log.info("putting_to_sleep" if asleep else "waking", application=application)
        await self._relay.put({Key(Topic.SLEEP_ORDERS, application): order})

    async def _delete(self, application: str) -> None:
        self._applications.deleted(application)
        _log.info("deleting", application=application)
        await asyncio.to_thread(self._serve.delete, application)
