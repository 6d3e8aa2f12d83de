"""Long polls and messages of the relay, without Ray."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.relay import service as relay_service
from dataplane.relay.errors import WriterReplacedError
from dataplane.relay.service import RelayService
from dataplane.relay.state import Cursor
from dataplane.relay.topics import Key, Role, Topic, Writer, engine_key

AGENT = Writer(Role.AGENT, "agent", 1)
ENGINE = Writer(Role.ENGINE, "r1", 1)
REPORT = engine_key("app", "r1")
ORDER = Key(Topic.SLEEP_ORDERS, "app")


async def test_a_watcher_that_knows_nothing_is_answered_at_once_even_if_there_is_nothing() -> None:
    service = RelayService(started_at_ns=0)
    async with asyncio.timeout(1):
        changes = await service.watch([Topic.ENGINES], None)
        assert (changes.changed, changes.is_complete) == ({}, True)
        await service.put(ENGINE, {REPORT: b"report"}, [])
        await service.put(AGENT, {ORDER: b"other"}, [])
        changes = await service.watch([Topic.ENGINES], Cursor("an epoch before", 99))
        assert (changes.changed, changes.is_complete) == ({REPORT: b"report"}, True)


async def test_a_watcher_that_knows_all_waits_for_a_change() -> None:
    service = RelayService(started_at_ns=0)
    known = await service.watch([Topic.ENGINES], None)
    polling = asyncio.create_task(service.watch([Topic.ENGINES], known.cursor))
    await service.put(AGENT, {ORDER: b"other"}, [])
    await asyncio.sleep(0.01)
    assert not polling.done()
    await service.put(ENGINE, {REPORT: b"report"}, [])
    changes = await polling
    assert changes.changed == {REPORT: b"report"}
    polling = asyncio.create_task(service.watch([Topic.ENGINES], changes.cursor))
    await asyncio.sleep(0)
    await service.put(ENGINE, {}, [REPORT])
    gone = await polling
    assert (gone.changed, gone.removed) == ({}, (REPORT,))


async def test_without_a_change_a_poll_is_answered_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_service, "POLL_TIMEOUT_S", 0.01)
    service = RelayService(started_at_ns=0)
    known = await service.watch([Topic.ENGINES], None)
    changes = await service.watch([Topic.ENGINES], known.cursor)
    assert (changes.changed, changes.removed, changes.is_complete) == ({}, (), False)


async def test_heartbeats_of_engines_wake_only_those_who_watch_engines() -> None:
    service = RelayService(started_at_ns=0)
    known = await service.watch([ORDER], None)
    of_engine = asyncio.create_task(service.watch([ORDER, Key(Topic.ADAPTERS, "app")], known.cursor))
    of_ingress = asyncio.create_task(service.watch([Topic.SNAPSHOT, Topic.ACTIVATION], known.cursor))
    for _ in range(3):
        await service.put(ENGINE, {REPORT: b"report"}, [])
        await asyncio.sleep(0)
    assert not of_engine.done()
    assert not of_ingress.done()
    await service.put(AGENT, {ORDER: b"sleep"}, [])
    assert (await of_engine).changed == {ORDER: b"sleep"}
    of_ingress.cancel()


async def test_messages_are_waited_for_and_taken_once() -> None:
    service = RelayService(started_at_ns=0)
    await service.put(AGENT, {}, [])
    receiving = asyncio.create_task(service.receive(AGENT, "", 0))
    await asyncio.sleep(0.01)
    assert not receiving.done()
    await service.send([b"first"])
    epoch, mail = await receiving
    assert mail.messages == (b"first",)
    await service.send([b"second"])
    _, mail = await service.receive(AGENT, epoch, mail.taken_to)
    assert mail.messages == (b"second",)


async def test_an_acknowledgement_from_before_a_restart_takes_nothing() -> None:
    service = RelayService(started_at_ns=0)
    await service.send([b"first"])
    _, mail = await service.receive(AGENT, "an epoch before", 99)
    assert mail.messages == (b"first",)


async def test_messages_are_not_given_to_an_agent_that_was_replaced() -> None:
    service = RelayService(started_at_ns=0)
    await service.put(AGENT, {}, [])
    waiting = asyncio.create_task(service.receive(AGENT, "", 0))
    await asyncio.sleep(0)
    successor = Writer(Role.AGENT, "agent", 2)
    await service.put(successor, {}, [])
    await service.send([b"first"])
    with pytest.raises(WriterReplacedError):
        await waiting
    _, mail = await service.receive(successor, "", 0)
    assert mail.messages == (b"first",)
