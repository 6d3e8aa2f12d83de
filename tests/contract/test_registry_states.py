"""Any sequence of registrations, deletions and undeletions, against a model of what the registry is to hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from controlplane import domain, errors
from modelplane.v1 import registry_service_pb2 as pb
from tests.adapter_directories import write_adapter
from tests.registry_world import NO_CONTEXT, World, open_world, spec

MODELS = st.sampled_from(["a", "b", "c"])
ADAPTERS = st.sampled_from(["x", "y"])
NAMES = st.sampled_from(["", "a", "one", "two", "a:x"])
REPLICAS = st.integers(0, 2)


class RegistryMachine(RuleBasedStateMachine):
    """The registry beside dictionaries that say what it should hold."""

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.world: World = self.runner.run(self.stack.enter_async_context(open_world(url, directory)))
        self.sources = [directory / f"lora{fill}" for fill in range(2)]
        self.models: dict[str, tuple[str, int]] = {}
        self.adapters: dict[tuple[str, str], tuple[str, int]] = {}
        self.deleted_models: dict[str, tuple[str, int]] = {}
        self.deleted_adapters: dict[tuple[str, str], tuple[str, int]] = {}
        # Deleted model → the adapters that were deleted with it, and come back with it.
        self.deleted_together: dict[str, list[tuple[str, str]]] = {}
        self.revision = 0
        self.snapshots: dict[int, Sequence[domain.Entry]] = {0: ()}

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def _taken(self, served_name: str, *, by_other_than: object) -> bool:
        owners = [key for key, (name, _) in (*self.models.items(), *self.adapters.items()) if name == served_name]
        return any(owner != by_other_than for owner in owners)

    def _changed(self, catalog_revision: int) -> None:
        self.revision += 1
        assert catalog_revision == self.revision

    @rule(model=MODELS, name=NAMES, replicas=REPLICAS, dry_run=st.booleans())
    def register_model(self, model: str, name: str, replicas: int, dry_run: bool) -> None:
        wanted = (name or model, replicas)
        request = self.world.register_model(
            model, spec(scaling={"minReplicas": replicas}), served_name=name, validate_only=dry_run
        )
        if model in self.deleted_models or self._taken(wanted[0], by_other_than=model):
            with pytest.raises(errors.AlreadyExists):
                self.runner.run(request)
            return
        answer = self.runner.run(request)
        before = self.models.get(model)
        assert answer.created == (before is None or before[1] != replicas)
        if before == wanted:
            assert answer.catalog_revision == self.revision
        elif dry_run:
            assert answer.catalog_revision == self.revision + 1
        else:
            self._changed(answer.catalog_revision)
            self.models[model] = wanted

    @rule(model=MODELS, adapter=ADAPTERS, name=NAMES, source=st.integers(0, 1))
    def register_adapter(self, model: str, adapter: str, name: str, source: int) -> None:
        request = self.world.register_adapter(model, adapter, self.sources[source], served_name=name)
        if model not in self.models:
            with pytest.raises(errors.NotFound):
                self.runner.run(request)
            return
        wanted = (name or f"{self.models[model][0]}:{adapter}", source)
        is_deleted = (model, adapter) in self.deleted_adapters
        if is_deleted or self._taken(wanted[0], by_other_than=(model, adapter)):
            with pytest.raises(errors.AlreadyExists):
                self.runner.run(request)
            return
        answer = self.runner.run(request)
        if self.adapters.get((model, adapter)) == wanted:
            assert (answer.created, answer.catalog_revision) == (False, self.revision)
        else:
            self._changed(answer.catalog_revision)
            self.adapters[model, adapter] = wanted

    @rule(model=MODELS, force=st.booleans())
    def delete_model(self, model: str, force: bool) -> None:
        request = self.world.delete_model(model, force=force)
        its_adapters = [key for key in self.adapters if key[0] == model]
        if model not in self.models:
            with pytest.raises(errors.NotFound):
                self.runner.run(request)
        elif its_adapters and not force:
            with pytest.raises(errors.FailedPrecondition):
                self.runner.run(request)
        else:
            self._changed(self.runner.run(request))
            self.deleted_models[model] = self.models.pop(model)
            for key in its_adapters:
                self.deleted_adapters[key] = self.adapters.pop(key)
            self.deleted_together[model] = its_adapters

    @rule(model=MODELS, adapter=ADAPTERS)
    def delete_adapter(self, model: str, adapter: str) -> None:
        request = self.world.delete_adapter(model, adapter)
        if (model, adapter) not in self.adapters:
            with pytest.raises(errors.NotFound):
                self.runner.run(request)
        else:
            self._changed(self.runner.run(request))
            self.deleted_adapters[model, adapter] = self.adapters.pop((model, adapter))

    @rule(model=MODELS)
    def undelete_model(self, model: str) -> None:
        request = self.world.registry.UndeleteModel(pb.UndeleteModelRequest(name=f"models/{model}"), NO_CONTEXT)
        if model not in self.deleted_models:
            with pytest.raises(errors.AlreadyExists if model in self.models else errors.NotFound):
                self.runner.run(request)
            return
        its_adapters = self.deleted_together[model]
        names = [self.deleted_models[model][0], *(self.deleted_adapters[key][0] for key in its_adapters)]
        if any(self._taken(name, by_other_than=None) for name in names):
            with pytest.raises(errors.AlreadyExists):
                self.runner.run(request)
            return
        answer = self.runner.run(request)
        self._changed(answer.catalog_revision)
        assert answer.adapter_count == len(its_adapters)
        self.models[model] = self.deleted_models.pop(model)
        for key in self.deleted_together.pop(model):
            self.adapters[key] = self.deleted_adapters.pop(key)

    @rule(model=MODELS, adapter=ADAPTERS)
    def undelete_adapter(self, model: str, adapter: str) -> None:
        key = (model, adapter)
        request = self.world.registry.UndeleteAdapter(
            pb.UndeleteAdapterRequest(name=f"models/{model}/adapters/{adapter}"), NO_CONTEXT
        )
        if key not in self.deleted_adapters:
            with pytest.raises(errors.AlreadyExists if key in self.adapters else errors.NotFound):
                self.runner.run(request)
        elif model not in self.models:
            with pytest.raises(errors.FailedPrecondition):
                self.runner.run(request)
        elif self._taken(self.deleted_adapters[key][0], by_other_than=None):
            with pytest.raises(errors.AlreadyExists):
                self.runner.run(request)
        else:
            self._changed(self.runner.run(request).catalog_revision)
            self.adapters[key] = self.deleted_adapters.pop(key)

    @invariant()
    def holds_exactly_what_was_registered(self) -> None:
        entries = self.runner.run(self.world.entries(self.revision))
        expected = {f"models/{model}" for model in self.models}
        expected |= {f"models/{model}/adapters/{adapter}" for model, adapter in self.adapters}
        assert {entry.name for entry in entries} == expected
        self.snapshots.setdefault(self.revision, entries)
        assert self.runner.run(self.world.revision()) == self.revision
        listing = self.world.registry.ListModels(pb.ListModelsRequest(show_deleted=True), NO_CONTEXT)
        listed = {model.name: model.HasField("delete_time") for model in self.runner.run(listing).models}
        live = {f"models/{model}": False for model in self.models}
        assert listed == live | {f"models/{model}": True for model in self.deleted_models}

    @invariant()
    def every_snapshot_is_what_it_was_and_hashes_to_its_digest(self) -> None:
        for revision, entries in self.snapshots.items():
            assert list(self.runner.run(self.world.entries(revision))) == list(entries)
        self.runner.run(self.world.check_digest(self.revision))


def test_registry_states(new_store_url: Callable[[], str], tmp_path: Path) -> None:
    for fill in range(2):
        write_adapter(tmp_path / f"lora{fill}", fill=bytes([fill]))

    class Machine(RegistryMachine):
        def __init__(self) -> None:
            super().__init__(new_store_url(), tmp_path)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            derandomize=True,
        ),
    )
