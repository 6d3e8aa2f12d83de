"""The indexes of the snapshot after a change, from those of the one before. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.changes.difference import Difference, message_before
from dataplane.snapshot.entry_checks import Checked, check_candidate, check_entry
from dataplane.snapshot.indexes.derived import candidate_model, is_wanted_unasked, pinned_adapter, pinned_model
from dataplane.snapshot.persistent.map_edit import MapEdit
from dataplane.snapshot.persistent.sorted_map import SortedMap
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.quarantine import BASE_MODEL_QUARANTINED, Quarantine, base_quarantined
from dataplane.snapshot.references import hidden_references
from dataplane.snapshot.snapshot import (
    ADAPTER_ENTRY,
    ADAPTER_REVISION_ENTRY,
    Message,
    Position,
    RawEntry,
    Resource,
    Snapshot,
    age_key,
    candidate_name,
    is_api_key,
    model_of,
)


def snapshot_after(
    position: Position, difference: Difference, checked: Mapping[str, Checked], policy: Policy, signed_head: bytes
) -> Snapshot:
    """The snapshot after a change that was found to be consistent.

    Args:
        position: Of the snapshot.
        difference: The change.
        checked: The outcome for each entry of `difference.fresh`.
        policy: What this data plane accepts.
        signed_head: The serialised SignedHead that came with the change. Empty: none did.
    """
    edit = _IndexEdit(difference, checked, policy)
    for entry in difference.gone.values():
        edit.take_out(entry)
    # Models before their adapters, which are served only if the model is.
    for name in sorted(difference.fresh, key=lambda name: (_is_adapter(difference.fresh[name]), name)):
        edit.put_in(difference.fresh[name], checked[name])
    edit.follow_models()
    return edit.snapshot(position, signed_head)


class _IndexEdit:
    """The edits of all indexes. Everything is taken out before something is put in."""

    def __init__(self, difference: Difference, checked: Mapping[str, Checked], policy: Policy) -> None:
        held = difference.held
        self._held = held
        self._difference = difference
        self._checked = checked
        self._policy = policy
        self._models = MapEdit(held.models)
        self._adapters = MapEdit(held.adapters)
        self._adapters_by_age = MapEdit(held.adapters_by_age)
        self._routes = MapEdit(held.routes)
        self._served = MapEdit(held.served)
        self._deployable = MapEdit(held.deployable)
        self._wanted_unasked = MapEdit(held.wanted_unasked)
        self._revisions = MapEdit(held.revisions)
        self._pinned_adapters = MapEdit(held.pinned_adapters)
        self._quarantined = MapEdit(held.quarantined)
        self._quarantined_served_names = MapEdit(held.quarantined_served_names)
        self._references = MapEdit(held.references)
        self._keys = MapEdit(held.api_key_entries)
        self._key_names = MapEdit(held.key_names)
        self._key_hashes: set[bytes] = set()
        """Whose keys have changed."""
        self._key_entry_count = held.key_entry_count
        self._models_touched: dict[str, None] = {}
        self._revisions_touched: set[str] = set()

    def take_out(self, entry: RawEntry) -> None:
        """Remove an entry of the snapshot before."""
        name = entry.name
        self._key_entry_count -= is_api_key(entry)
        self._quarantined.discard(name)
        self._note_revision(name)
        message = message_before(self._held, entry)
        if message is None:
            return
        for target in hidden_references(message):
            self._references.discard((target, name))
        if isinstance(message, Resource):
            self._free_served_name(message)
        if isinstance(message, snapshot_pb2.ModelEntry):
            self._models.discard(name)
            self._set_deployable(name, None)
            self._note_model(message)
        elif isinstance(message, snapshot_pb2.AdapterEntry):
            self._adapters.discard(name)
            self._adapters_by_age.discard(age_key(message))
        elif isinstance(message, snapshot_pb2.RouteEntry):
            self._routes.discard(name)
        elif isinstance(message, snapshot_pb2.AdapterRevisionEntry):
            self._pinned_adapters.discard(name)
        elif isinstance(message, api_key_pb2.ApiKeyEntry):
            self._keys.discard(name)
            self._key_names.discard((message.key_hash, name))
            self._key_hashes.add(message.key_hash)

    def put_in(self, entry: RawEntry, outcome: Checked) -> None:
        """Add an entry of the snapshot after."""
        name, message = entry.name, outcome.message
        self._key_entry_count += is_api_key(entry)
        self._note_revision(name)
        if message is not None:
            for target in hidden_references(message):
                self._references.set((target, name), None)
        if outcome.quarantine is not None:
            self._withhold(name, message, outcome.quarantine)
        elif isinstance(message, snapshot_pb2.ModelEntry):
            self._models.set(name, message)
            self._served.set(message.served_name, message)
            self._set_deployable(name, message)
            self._note_model(message)
        elif isinstance(message, snapshot_pb2.RouteEntry):
            self._routes.set(name, message)
            self._served.set(message.served_name, message)
        elif isinstance(message, api_key_pb2.ApiKeyEntry):
            self._keys.set(name, message)
            if not message.revoked:
                self._key_names.set((message.key_hash, name), None)
                self._key_hashes.add(message.key_hash)
        elif isinstance(message, snapshot_pb2.AdapterEntry | snapshot_pb2.AdapterRevisionEntry):
            self._put_adapter(message)

    def _put_adapter(self, message: snapshot_pb2.AdapterEntry | snapshot_pb2.AdapterRevisionEntry) -> None:
        base = model_of(message.name)
        if self._models.get(base) is None:
            self._withhold(message.name, message, base_quarantined(base, message.revision.number))
        elif isinstance(message, snapshot_pb2.AdapterEntry):
            self._adapters.set(message.name, message)
            self._adapters_by_age.set(age_key(message), message)
            self._served.set(message.served_name, message)
        else:
            self._pinned_adapters.set(message.name, pinned_adapter(message))

    def _withhold(self, name: str, message: Message | None, quarantine: Quarantine) -> None:
        self._quarantined.set(name, quarantine)
        if isinstance(message, Resource) and message.served_name:
            self._quarantined_served_names.set(message.served_name, name)

    def _free_served_name(self, message: Resource) -> None:
        owner = self._held.served.get(message.served_name)
        if owner is not None and owner.name == message.name:
            self._served.discard(message.served_name)
        elif self._held.quarantined_served_names.get(message.served_name) == message.name:
            self._quarantined_served_names.discard(message.served_name)

    def _set_deployable(self, name: str, entry: snapshot_pb2.ModelEntry | None) -> None:
        if entry is None:
            self._deployable.discard(name)
        else:
            self._deployable.set(name, entry)
        if entry is not None and is_wanted_unasked(entry):
            self._wanted_unasked.set(name, entry)
        else:
            self._wanted_unasked.discard(name)

    def _note_model(self, model: snapshot_pb2.ModelEntry) -> None:
        """Look later at all that depends on a model, as it was or as it is now."""
        self._models_touched[model.name] = None
        self._revisions_touched.update(self._held.revisions.get(model.name, ()))
        candidate = candidate_name(model)
        if candidate is not None:
            self._revisions_touched.add(candidate)

    def _note_revision(self, name: str) -> None:
        if name.startswith(f"{model_of(name)}/revisions/"):
            self._revisions_touched.add(name)

    # -- what depends on models --------------------------------------------------------------------

    def follow_models(self) -> None:
        """Bring adapters and revisions in line with the models that were touched."""
        for model in self._models_touched:
            is_served = self._models.get(model) is not None
            if is_served != (model in self._held.models):
                for entry in self._difference.entries.below(model):
                    if _is_adapter(entry) and entry.name not in self._difference.fresh:
                        self._base_changed(entry, is_served=is_served)
        for name in sorted(self._revisions_touched):
            self._follow_revision(name)

    def _base_changed(self, entry: RawEntry, *, is_served: bool) -> None:
        """Serve or withhold an unchanged adapter or pin of one, whose base is or is not served."""
        quarantine = self._held.quarantined.get(entry.name)
        if quarantine is not None and (quarantine.reason != BASE_MODEL_QUARANTINED or not is_served):
            return
        message = message_before(self._held, entry)
        assert isinstance(message, snapshot_pb2.AdapterEntry | snapshot_pb2.AdapterRevisionEntry), "its type says so"
        self._quarantined.discard(entry.name)
        self._pinned_adapters.discard(entry.name)
        if isinstance(message, snapshot_pb2.AdapterEntry):
            self._adapters.discard(entry.name)
            self._adapters_by_age.discard(age_key(message))
            self._free_served_name(message)
        self._put_adapter(message)

    def _follow_revision(self, name: str) -> None:
        """Bring a revision in line with its pin, and with the model that rolls it out."""
        model = self._models.get(model_of(name))
        pin = self._outcome_of(name)
        quarantine = pin.quarantine if pin is not None else None
        deployed: snapshot_pb2.ModelEntry | None = None
        if pin is not None and quarantine is None and isinstance(pin.message, snapshot_pb2.ModelRevisionEntry):
            deployed = pinned_model(pin.message, model)
        if model is not None and candidate_name(model) == name and quarantine is None:
            quarantine = check_candidate(model, self._policy)
            if quarantine is None:
                deployed = candidate_model(name, model)
        if quarantine is None:
            self._quarantined.discard(name)
        else:
            self._quarantined.set(name, quarantine)
        self._set_deployable(name, deployed)
        names = {*(self._revisions.get(model_of(name)) or ())} - {name} | ({name} if deployed is not None else set())
        if names:
            self._revisions.set(model_of(name), tuple(sorted(names)))
        else:
            self._revisions.discard(model_of(name))

    def _outcome_of(self, name: str) -> Checked | None:
        """The outcome for an entry by itself; None: there is no such entry."""
        fresh = self._checked.get(name)
        entry = self._difference.entries.get(name)
        if fresh is not None or entry is None:
            return fresh
        return check_entry(entry, self._policy, None)

    # -- the result --------------------------------------------------------------------------------

    def snapshot(self, position: Position, signed_head: bytes) -> Snapshot:
        """The snapshot after all edits."""
        key_names = self._key_names.result()
        return replace(
            self._held,
            position=position,
            entries=self._difference.entries,
            size_bytes=self._difference.size_bytes,
            digest=self._difference.digest,
            models=self._models.result(),
            adapters=self._adapters.result(),
            adapters_by_age=self._adapters_by_age.result(),
            served=self._served.result(),
            routes=self._routes.result(),
            deployable=self._deployable.result(),
            wanted_unasked=self._wanted_unasked.result(),
            revisions=self._revisions.result(),
            pinned_adapters=self._pinned_adapters.result(),
            quarantined=self._quarantined.result(),
            api_key_entries=self._keys.result(),
            api_keys=self._keys_by_hash(key_names),
            key_names=key_names,
            key_entry_count=self._key_entry_count,
            quarantined_served_names=self._quarantined_served_names.result(),
            references=self._references.result(),
            signed_head=signed_head,
        )

    def _keys_by_hash(self, key_names: SortedMap[tuple[bytes, str], None]) -> SortedMap[bytes, ApiKey]:
        by_hash = MapEdit(self._held.api_keys)
        for key_hash in self._key_hashes:
            names = []
            for (found, name), _ in key_names.items_from((key_hash, "")):
                if found != key_hash:
                    break
                names.append(name)
            entry = self._keys.get(names[-1]) if names else None
            if entry is None:
                by_hash.discard(key_hash)
            else:
                by_hash.set(key_hash, ApiKey.of(entry))
        return by_hash.result()


def _is_adapter(entry: RawEntry) -> bool:
    return entry.type in (ADAPTER_ENTRY, ADAPTER_REVISION_ENTRY)
