"""The blocking client is generated from the asyncio client."""

from __future__ import annotations

import inspect

import pytest

from broadsheet.aio import AsyncClient
from broadsheet.client import Client
from scripts import sync_client


def test_the_committed_blocking_client_is_fresh() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in sync_client.DESTINATION.glob("*.py")}
    assert committed == sync_client.generate()


def test_every_method_of_both_clients_has_the_same_docstring() -> None:
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__, name
            assert method.__doc__ == getattr(Client, name).__doc__


def test_a_construct_without_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'asyncio' is left"):
        sync_client.blocking("asyncio.gather(a, b)", "x.py")
