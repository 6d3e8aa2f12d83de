"""Request ids: a repeated request is not carried out again, and gets its first answer."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from google.protobuf import message as protobuf_message

from broadsheet.v1 import model_pb2, registry_service_pb2
from controlplane import errors, principal
from controlplane.catalog import request_ids
from controlplane.store.store import Store
from tests.adapter_directories import write_adapter
from tests.contract.test_store import failing_statement
from tests.registry_world import NO_CONTEXT, START, World, open_world

Send = Callable[[World, str], Awaitable[protobuf_message.Message]]


async def _register_model(world: World, request_id: str) -> protobuf_message.Message:
    labels = {f"key{index}": str(index) for index in range(20)}
    return await world.register_model("n", labels=labels, request_id=request_id)


async def _register_adapter(world: World, request_id: str) -> protobuf_message.Message:
    return await world.register_adapter("m", "b", request_id=request_id)


async def _delete_adapter(world: World, request_id: str) -> protobuf_message.Message:
    request = registry_service_pb2.DeleteAdapterRequest(name="models/m/adapters/a", request_id=request_id)
    return await world.registry.DeleteAdapter(request, NO_CONTEXT)


async def _delete_model(world: World, request_id: str) -> protobuf_message.Message:
    request = registry_service_pb2.DeleteModelRequest(name="models/m", force=True, request_id=request_id)
    return await world.registry.DeleteModel(request, NO_CONTEXT)


SENDS = {
    "RegisterModel": _register_model,
    "RegisterAdapter": _register_adapter,
    "DeleteAdapter": _delete_adapter,
    "DeleteModel": _delete_model,
}


def _new_id() -> str:
    return str(uuid.uuid4())


async def _prepare(world: World) -> None:
    await world.register_model("m")
    await world.register_adapter("m", "a")


@pytest.mark.parametrize("method", SENDS)
async def test_a_repeat_gets_the_first_answer_byte_for_byte_and_changes_nothing(world: World, method: str) -> None:
    await _prepare(world)
    request_id = _new_id()
    first = await SENDS[method](world, request_id)
    # What the answer depends on has changed by now.
    await world.register_model("z", served_name="other")
    before = (await world.revision(), len(world.published))
    for spelt in (request_id, request_id.upper()):
        again = await SENDS[method](world, spelt)
        assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    assert (await world.revision(), len(world.published)) == before


@pytest.mark.parametrize("method", SENDS)
async def test_repeats_at_the_same_time_are_carried_out_once(world: World, method: str) -> None:
    await _prepare(world)
    before = await world.revision()
    request_id = _new_id()
    answers = await asyncio.gather(*(SENDS[method](world, request_id) for _ in range(8)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert await world.revision() == before + 1


async def test_the_answer_of_a_call_without_effect_is_repeated_too(world: World) -> None:
    await world.register_model("m")
    request_id = _new_id()
    first = await world.register_model("m", request_id=request_id)
    assert not first.created
    await world.register_model("m", served_name="other")
    assert await world.register_model("m", request_id=request_id) == first


async def test_a_repeated_registration_does_not_read_the_files(world: World, tmp_path: Path) -> None:
    await world.register_model("m")
    directory = write_adapter(tmp_path / "soon-gone")
    request_id = _new_id()
    first = await world.register_adapter("m", "a", directory, request_id=request_id)
    shutil.rmtree(directory)
    assert await world.register_adapter("m", "a", directory, request_id=request_id) == first


@pytest.mark.parametrize("other", ["fields", "method", "validate_only"])
async def test_an_id_of_another_request_is_refused_and_the_error_names_that(world: World, other: str) -> None:
    request_id = _new_id()
    await world.register_model("m", request_id=request_id)
    others: dict[str, Callable[[], Awaitable[object]]] = {
        "fields": lambda: world.register_model("m", served_name="other", request_id=request_id),
        "method": lambda: world.delete_model("m", request_id=request_id),
        "validate_only": lambda: world.register_model("m", request_id=request_id, validate_only=True),
    }
    with pytest.raises(errors.InvalidArgument) as caught:
        await others[other]()
    assert caught.value.reason == errors.Reason.REQUEST_ID_REUSED
    assert [violation.field for violation in caught.value.violations] == ["request_id"]
    assert caught.value.metadata == {"requestId": request_id, "method": "RegisterModel"}
    assert [entry.name for entry in await world.entries()] == ["models/m"]
    assert await world.revision() == 1


async def test_ids_of_different_callers_do_not_collide(world: World) -> None:
    request_id = _new_id()
    await world.register_model("m", request_id=request_id)
    somebody = principal.Principal(name="somebody", role="", authentication="token")
    with principal.acting_as(somebody), pytest.raises(errors.InvalidArgument) as caught:
        await world.register_model("m", request_id=request_id)
    assert caught.value.reason == errors.Reason.REQUEST_ID_REUSED


async def test_an_adapter_under_an_id_of_another_request_is_refused_before_its_files_are_read(world: World) -> None:
    request_id = _new_id()
    await world.register_model("m", request_id=request_id)
    with pytest.raises(errors.InvalidArgument) as caught:
        await world.register_adapter("m", "a", Path("/nowhere"), request_id=request_id)
    assert caught.value.reason == errors.Reason.REQUEST_ID_REUSED


async def test_validate_only_does_not_use_up_the_id(world: World) -> None:
    request_id = _new_id()
    await world.register_model("m", request_id=request_id, validate_only=True)
    assert (await world.register_model("m", request_id=request_id)).created


async def test_a_refused_request_can_be_retried_under_its_id(world: World) -> None:
    await world.register_model("m", served_name="one")
    request_id = _new_id()
    with pytest.raises(errors.AlreadyExists):
        await world.register_model("n", served_name="one", request_id=request_id)
    await world.delete_model("m")
    assert (await world.register_model("n", served_name="one", request_id=request_id)).created


async def test_a_failure_at_any_statement_keeps_neither_change_nor_answer(world: World) -> None:
    request_id = _new_id()
    number = 0
    while True:
        number += 1
        with failing_statement(number) as statements:
            try:
                first = await world.register_model("m", request_id=request_id)
            except errors.Unavailable:
                assert await world.revision() == 0
                assert await world.store.request_ids.find(request_id, request_ids.RETENTION) is None
                continue
        break
    assert number > 8
    assert any("answered_requests" in statement for statement in statements)
    assert (first.created, await world.revision()) == (True, 1)
    assert await world.register_model("m", request_id=request_id) == first


async def test_answers_survive_a_restart(store_url: str, tmp_path: Path) -> None:
    request_id = _new_id()
    async with open_world(store_url, tmp_path) as world:
        first = await world.register_model("m", request_id=request_id)
    async with open_world(store_url, tmp_path) as world:
        assert await world.register_model("m", request_id=request_id) == first


async def test_answers_are_kept_for_the_promised_time_and_then_forgotten(store_url: str, tmp_path: Path) -> None:
    now = START
    ids = [_new_id() for _ in range(20)]
    async with Store.open(store_url, clock=lambda: now) as store:
        world = World(store, tmp_path)
        for index, request_id in enumerate(ids):
            await world.register_model(f"m{index}", request_id=request_id)
        now = START + request_ids.RETENTION - timedelta(microseconds=1)
        assert (await world.register_model("m0", request_id=ids[0])).created
        now = START + request_ids.RETENTION
        again = await world.register_model("m0", request_id=ids[0])
        assert not again.created
        # From now on the id is in use again.
        assert await world.register_model("m0", request_id=ids[0]) == again
        kept = [known for known in ids if await store.request_ids.find(known, timedelta(days=10_000)) is not None]
        assert kept == [ids[0], *ids[17:]]
        for index in range(2):
            await world.register_model(f"m{index}", request_id=_new_id())
        kept = [known for known in ids if await store.request_ids.find(known, timedelta(days=10_000)) is not None]
        assert kept == ids[:1]
        world.verifier.close()


async def test_requests_without_an_id_are_not_kept(world: World) -> None:
    assert (await world.register_model("m")).created
    assert not (await world.register_model("m")).created
    await world.delete_model("m")
    with pytest.raises(errors.NotFound):
        await world.delete_model("m")


async def test_every_method_that_changes_something_takes_an_id() -> None:
    reads = ("Get", "List")
    service = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"]
    changing = [method for method in service.methods if not method.name.startswith(reads)]
    assert {method.name for method in changing} >= set(SENDS)
    for method in changing:
        assert {"request_id", "validate_only"} <= set(method.input_type.fields_by_name), method.name


def test_digest_tells_requests_apart_but_not_their_ids() -> None:
    item = registry_service_pb2.RegisterModelRequest(model_id="m", spec=model_pb2.ModelSpec(), request_id="a")
    same = registry_service_pb2.RegisterModelRequest(model_id="m", spec=model_pb2.ModelSpec(), request_id="b")
    other = registry_service_pb2.RegisterModelRequest(model_id="m", request_id="a")
    delete_model = registry_service_pb2.DeleteModelRequest(name="models/m")
    delete_adapter = registry_service_pb2.DeleteAdapterRequest(name="models/m")
    digest = partial(request_ids.digest_of, caller=principal.ANONYMOUS)
    assert digest(item) == digest(same) != digest(other)
    assert digest(delete_model) != digest(delete_adapter)
