"""The client of a data plane's OpenAI API."""

from __future__ import annotations

import pytest

from broadsheet.cli.openai_http import http_client


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://127.0.0.2:8000", False),
        ("http://LOCALHOST:8000", False),
        ("http://[::1]:8000", False),
        ("http://10.0.0.1:8000", True),
        ("https://models.example.org", True),
    ],
)
def test_only_other_machines_are_asked_through_a_proxy(url: str, proxied: bool) -> None:
    with http_client(url) as client:
        assert client.trust_env is proxied
