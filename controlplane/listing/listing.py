"""The query of a list: which models or adapters, in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from broadsheet.v1 import status_pb2
from controlplane import errors
from controlplane.catalog import domain
from controlplane.listing import filters

NAME = "name"

SORTED_BY: Mapping[str, type[str] | type[int]] = MappingProxyType(
    {NAME: str, "served_name": str, "create_time": int, "update_time": int}
)
"""Fields to sort by → their type in a cursor. Times are microseconds since 1970."""

MODEL_NAME_PARTS = 1
ADAPTER_NAME_PARTS = 2
"""Parts of a cursor that stand for a name: the ids.

The names themselves sort wrongly as text: `models/a/…` belongs before `models/a-b/…`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortField:
    """A field to sort by."""

    name: str
    descending: bool = False


Order = tuple[SortField, ...]
"""The fields to sort by, the most significant first.

The last is the name, so that the order is total.
"""

BY_NAME: Order = (SortField(name=NAME),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which resources a list has, and in which order."""

    wanted: filters.Filter = filters.EVERYTHING
    order: Order = BY_NAME
    show_deleted: bool = False


EVERYTHING = ListQuery()


def parse_order(text: str) -> Order:
    """Parse an `order_by`. `ListModelsRequest.order_by` documents its form.

    Raises:
        errors.InvalidArgument: It is not an order.
    """
    if not text.strip():
        return BY_NAME
    order: list[SortField] = []
    for part in text.split(","):
        name, *direction = part.split() or [""]
        if name not in SORTED_BY:
            raise _invalid(f"got `{name}`; must be a field: {', '.join(SORTED_BY)}")
        if direction not in ([], ["desc"]):
            raise _invalid(f"got `{name} {' '.join(direction)}`; after a field only `desc` is allowed")
        if any(field.name == name for field in order):
            raise _invalid(f"got `{name}` twice; each field is allowed once")
        order.append(SortField(name=name, descending=bool(direction)))
    if NAME not in (field.name for field in order):
        order.append(SortField(name=NAME, descending=order[-1].descending))
    # Names are unique, so fields after the name have no effect.
    return tuple(order[: [field.name for field in order].index(NAME) + 1])


def cursor_types(order: Order, name_parts: int) -> Sequence[type[str] | type[int]]:
    """The types of the parts of a cursor in a list of this order."""
    return (*(SORTED_BY[field.name] for field in order[:-1]), *[str] * name_parts)


States = Callable[[], Collection[status_pb2.ResourceState.ValueType]]
"""Reads the states of a resource on connected data planes. Called only for filters with a state."""


def model_values(model: domain.Model, states: States) -> filters.Values:
    """The values of a model's fields, for filters."""
    texts = {"model_id": model.id, "served_name": model.served_name, "owner": model.revision.card.owned_by}
    return _values(texts, model.labels, states)


def adapter_values(adapter: domain.Adapter, states: States) -> filters.Values:
    """The values of an adapter's fields, for filters."""
    texts = {
        "model_id": adapter.model_id,
        "adapter_id": adapter.id,
        "served_name": adapter.served_name,
        "owner": adapter.revision.card.owned_by,
    }
    return _values(texts, adapter.labels, states)


def _values(texts: Mapping[str, str], labels: Mapping[str, str], states: States) -> filters.Values:
    def values(field: str, key: str) -> Collection[str]:
        if field == filters.LABELS:
            return (labels[key],) if key in labels else ()
        if field == filters.STATE:
            return {status_pb2.ResourceState.Name(state).removeprefix(filters.STATE_PREFIX) for state in states()}
        return (texts[field],)

    return values


def _invalid(description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument.of_field("order_by", description, errors.Reason.INVALID_ORDER_BY)
