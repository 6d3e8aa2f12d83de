"""Requests that change some fields of a model or adapter and leave the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broadsheet import specs
from broadsheet._requests.fields import mask
from broadsheet._requests.names import adapter_resource, model_resource
from broadsheet.types import Adapter, AdapterCard, Admission, Model, ModelCard, Scaling
from broadsheet.v1.registry_service_pb2 import UpdateAdapterRequest, UpdateModelRequest


def update_model(
    model: str,
    *,
    served_name: str | None,
    labels: Mapping[str, str] | None,
    card: ModelCard | Mapping[str, object] | None,
    scaling: Scaling | Mapping[str, object] | None,
    admission: Admission | Mapping[str, object] | None,
    update_mask: Iterable[str] | None,
    etag: str,
) -> UpdateModelRequest:
    """The request of `Client.update_model`, whose arguments these are."""
    changed = Model(name=model_resource(model), served_name=served_name or "", labels=labels or {}, etag=etag)
    if card is not None:
        specs.to_message(card, changed.revision.card, "card")
    if scaling is not None:
        specs.to_message(scaling, changed.revision.spec.scaling, "scaling")
    if admission is not None:
        specs.to_message(admission, changed.revision.spec.admission, "admission")
    given = {
        "served_name": served_name,
        "labels": labels,
        "revision.card": card,
        "revision.spec.scaling": scaling,
        "revision.spec.admission": admission,
    }
    return UpdateModelRequest(model=changed, update_mask=mask(update_mask, given))


def update_adapter(
    adapter: str,
    *,
    served_name: str | None,
    labels: Mapping[str, str] | None,
    card: AdapterCard | Mapping[str, object] | None,
    update_mask: Iterable[str] | None,
    etag: str,
) -> UpdateAdapterRequest:
    """The request of `Client.update_adapter`, whose arguments these are."""
    changed = Adapter(name=adapter_resource(adapter), served_name=served_name or "", labels=labels or {}, etag=etag)
    if card is not None:
        specs.to_message(card, changed.revision.card, "card")
    given = {"served_name": served_name, "labels": labels, "revision.card": card}
    return UpdateAdapterRequest(adapter=changed, update_mask=mask(update_mask, given))
