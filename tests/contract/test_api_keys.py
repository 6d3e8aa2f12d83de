"""API keys in the registry, on both databases."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from google.protobuf import timestamp_pb2
from sqlalchemy import text

from broadsheet.v1 import api_key_pb2
from controlplane import errors
from protocol.api_keys import KEY_PREFIX, key_hash
from tests.registry_world import NO_CONTEXT, START, World


def request(key_id: str = "k", *allowed: str, **fields: object) -> api_key_pb2.CreateApiKeyRequest:
    limits = api_key_pb2.ApiKeyLimits(allowed_served_names=allowed or ["*"], requests_per_minute=60)
    return api_key_pb2.CreateApiKeyRequest(api_key_id=key_id, limits=limits, **fields)  # type: ignore[arg-type]


async def create(world: World, key_id: str = "k", *allowed: str, **fields: object) -> api_key_pb2.CreateApiKeyResponse:
    return await world.registry.CreateApiKey(request(key_id, *allowed, **fields), NO_CONTEXT)


async def revoke(world: World, key_id: str = "k", **fields: object) -> api_key_pb2.RevokeApiKeyResponse:
    asked = api_key_pb2.RevokeApiKeyRequest(name=f"apiKeys/{key_id}", **fields)  # type: ignore[arg-type]
    return await world.registry.RevokeApiKey(asked, NO_CONTEXT)


async def entry(world: World, key_id: str = "k") -> api_key_pb2.ApiKeyEntry:
    """The entry of a key in the newest snapshot."""
    (found,) = [entry for entry in await world.entries() if entry.name == f"apiKeys/{key_id}"]
    assert found.type == "broadsheet.v1.ApiKeyEntry"
    return api_key_pb2.ApiKeyEntry.FromString(found.blob)


async def test_a_key_is_shown_once_and_its_hash_is_in_the_snapshot(world: World) -> None:
    created = await create(world, "alice", "smollm2*", display_name="Alice", labels={"team": "a"})
    assert created.key.startswith(KEY_PREFIX)
    assert len(created.key) == len(KEY_PREFIX) + 43
    assert created.key.startswith(created.api_key.key_prefix)
    assert created.catalog_revision == 1 == await world.revision()
    told = await entry(world, "alice")
    assert told.key_hash == key_hash(created.key)
    assert list(told.limits.allowed_served_names) == ["smollm2*"]
    assert not told.revoked
    got = (await world.registry.GetApiKey(api_key_pb2.GetApiKeyRequest(name="apiKeys/alice"), NO_CONTEXT)).api_key
    assert got == created.api_key
    assert (got.display_name, dict(got.labels)) == ("Alice", {"team": "a"})
    await world.check_digest(1)
    another = await create(world, "bob")
    assert another.key != created.key


async def test_the_key_itself_is_nowhere_in_the_database(world: World) -> None:
    created = await create(world, request_id=str(uuid.uuid4()))
    secret = created.key.removeprefix(KEY_PREFIX).encode()
    assert len(created.api_key.key_prefix) <= 8
    async with world.store._begin_read() as connection:
        for table in ("api_keys", "blobs", "entries", "answered_requests", "catalog_revisions"):
            for row in await connection.execute(text(f"SELECT * FROM {table}")):  # noqa: S608  # names from above
                for value in row:
                    content = value if isinstance(value, bytes) else str(value).encode()
                    assert secret not in content, table


async def test_a_repeat_changes_nothing_and_does_not_show_the_key_again(world: World) -> None:
    request_id = str(uuid.uuid4())
    first = await create(world, request_id=request_id)
    again = await create(world, request_id=request_id)
    assert again.key == ""
    assert (again.api_key, again.catalog_revision) == (first.api_key, first.catalog_revision)
    assert await world.revision() == 1
    assert (await entry(world)).key_hash == key_hash(first.key)


async def test_validate_only_makes_no_key(world: World) -> None:
    answer = await create(world, validate_only=True)
    assert answer.key == ""
    assert answer.api_key.name == "apiKeys/k"
    assert await world.revision() == 0
    with pytest.raises(errors.NotFound):
        await world.registry.GetApiKey(api_key_pb2.GetApiKeyRequest(name="apiKeys/k"), NO_CONTEXT)


async def test_a_revoked_key_stays_known_without_its_hash(world: World) -> None:
    await create(world)
    would = await revoke(world, validate_only=True)
    assert (would.api_key.HasField("revoke_time"), await world.revision()) == (True, 1)
    revoked = await revoke(world)
    assert revoked.catalog_revision == 2 == revoked.api_key.catalog_revision
    told = await entry(world)
    assert (told.revoked, told.key_hash, told.HasField("limits")) == (True, b"", False)
    await world.check_digest(2)
    again = await revoke(world)
    assert (again.api_key, again.catalog_revision, await world.revision()) == (revoked.api_key, 2, 2)
    with pytest.raises(errors.AlreadyExists) as caught:
        await create(world)
    assert caught.value.reason == errors.Reason.API_KEY_EXISTS
    with pytest.raises(errors.NotFound) as missing:
        await revoke(world, "nobody")
    assert missing.value.reason == errors.Reason.API_KEY_NOT_FOUND


async def test_a_key_expires_in_the_future_only(world: World) -> None:
    def at(moment: timedelta) -> timestamp_pb2.Timestamp:
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(START + moment)
        return stamp

    for wrong in (at(timedelta(0)), timestamp_pb2.Timestamp(seconds=2**60)):
        with pytest.raises(errors.InvalidArgument) as caught:
            await create(world, expire_time=wrong)
        assert [violation.field for violation in caught.value.violations] == ["expire_time"]
    await create(world, expire_time=at(timedelta(days=1)))
    assert (await entry(world)).expire_time == at(timedelta(days=1))


async def test_keys_are_listed_by_id_in_pages(world: World) -> None:
    for key_id in ("c", "a", "b"):
        await create(world, key_id)
    names = []
    token = ""
    while True:
        page = await world.registry.ListApiKeys(
            api_key_pb2.ListApiKeysRequest(page_size=2, page_token=token), NO_CONTEXT
        )
        names += [key.name for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert names == ["apiKeys/a", "apiKeys/b", "apiKeys/c"]
