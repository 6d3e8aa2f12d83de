from __future__ import annotations

from dataplane.openai.networks import network_of


def test_a_network_is_an_ipv4_address_or_64_bits_of_ipv6() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::2%eth0")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("unix") == "unix"
