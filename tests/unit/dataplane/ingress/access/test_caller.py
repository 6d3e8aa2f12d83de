"""Who a request counts for."""

from __future__ import annotations

from dataplane.ingress.access.caller import caller_of
from dataplane.openai.networks import network_of
from dataplane.snapshot.api_key import ApiKey
from tests import views


def test_a_request_counts_for_its_key_else_for_its_address() -> None:
    key = ApiKey.of(views.api_key("alice", "bs-alice"))
    assert caller_of({"client": ("192.0.2.1", 5)}, key) == "uid-alice"
    assert caller_of({"client": ("192.0.2.1", 5)}, None) == "192.0.2.1"
    assert caller_of({"client": None}, None) == ""


def test_addresses_of_one_ipv6_network_are_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::2%eth0")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("unix") == "unix"
