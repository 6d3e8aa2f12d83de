from __future__ import annotations

import pytest

from controlplane.errors import ResourceExhausted
from controlplane.rpc.places import Places, peer_address

CALLER = "ipv4:10.0.0.1:5000"


def test_places_are_bounded_per_peer_and_in_all() -> None:
    places = Places("calls without credentials", in_all_max=3, per_peer_max=2)
    with places.hold("a"), places.hold("a"):
        with pytest.raises(ResourceExhausted, match="2 calls without credentials from a"), places.hold("a"):
            raise AssertionError("there was no place")
        with (
            places.hold("b"),
            pytest.raises(ResourceExhausted, match="3 calls without credentials, and no more"),
            places.hold("c"),
        ):
            raise AssertionError("there was no place")
    # All are given back, also those of calls that failed.
    with places.hold("a"), places.hold("a"), places.hold("b"):
        assert len(places._held) == 2
    assert not places._held


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (CALLER, "10.0.0.1"),
        ("ipv4:10.0.0.1:5001", "10.0.0.1"),
        ("ipv6:[::1]:50000", "::/64"),
        # A single host may have all addresses of a /64.
        ("ipv6:[2001:db8:0:1:1:2:3:4]:50000", "2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1::9]:50000", "2001:db8:0:1::/64"),
        ("ipv6:[::ffff:10.0.0.1]:5", "10.0.0.1"),
        ("ipv6:[fe80::1%eth0]:5", "fe80::/64"),
        ("unix:/run/broadsheet.sock", "unix"),
        ("unix:", "unix"),
        ("something else", "something else"),
    ],
)
def test_a_peer_is_known_by_its_address(peer: str, address: str) -> None:
    assert peer_address(peer) == address
